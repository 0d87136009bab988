import math

import pytest
import torch

from smalti.errors import MediaError
from smalti.evaluation.dataset import dataset
from smalti.evaluation.metrics import psnr
from smalti.evaluation.peers import LATENTS, Reconstructions, peer_reports, references

from .makers import save_picture, scene


@pytest.fixture
def peers(tmp_path):
    for folder in ("reference", "cosmos-16x16", "somebody"):
        (tmp_path / folder).mkdir()
        for seed, name in enumerate(("a.png", "b.png", "circle_1.png")):
            grain = 0.1 if folder == "somebody" else 0.02
            noise = grain * torch.randn(3, 40, 56, generator=torch.Generator().manual_seed(seed))
            pixels = scene(40, 56, seed=seed)
            changed = (pixels + noise[None, :, None]).clamp(0, 1)
            save_picture(pixels if folder == "reference" else changed, tmp_path / folder / name)
    return tmp_path


def test_every_peer_is_measured_against_the_files_of_its_name(peers):
    cosmos, somebody = peer_reports(peers, judges=False, progress=False)
    assert (cosmos.tokenizer["name"], somebody.tokenizer["name"]) == ("cosmos-16x16", "somebody")
    assert [sample.sample for sample in cosmos.samples] == ["a.png", "b.png"]
    assert cosmos.ours[0].psnr > somebody.ours[0].psnr > 15
    assert cosmos.run["data"]["sha256"] == dataset(references(peers)).digest
    original = dataset(references(peers))
    coder = Reconstructions(peers / "somebody", original)
    first = next(iter(original)).pixels
    expected = psnr(first, coder.round_trip(first, 1, 25.0).pixels).item()
    assert somebody.samples[0].psnr == pytest.approx(expected)


def test_bits_are_those_of_the_latents(peers):
    cosmos, somebody = peer_reports(peers, judges=False, progress=False)
    tokens = 3 * 4  # of 40 × 56 pixels in patches of 16
    assert cosmos.ours[0].tokens == tokens
    assert cosmos.ours[0].bits_per_pixel == pytest.approx(tokens * 16 * 16 / (40 * 56))
    assert math.isnan(somebody.ours[0].bits_per_pixel)
    assert {name: 16 * each.channels / each.patch**2 for name, each in LATENTS.items()} == {
        "cosmos-8x8": 4.0,
        "cosmos-16x16": 1.0,
        "stable-diffusion-3.5-VAE": 4.0,
    }


def test_what_is_missing_is_named(peers, tmp_path):
    (peers / "somebody" / "b.png").unlink()
    with pytest.raises(MediaError, match=r"somebody: has no b\.png"):
        peer_reports(peers, judges=False)
    with pytest.raises(MediaError, match="no pictures in reference/"):
        references(peers / "somebody")
    coder = Reconstructions(peers / "cosmos-16x16", dataset(references(peers)))
    with pytest.raises(MediaError, match="no reconstruction of these pixels"):
        coder.round_trip(torch.zeros(1, 3, 1, 40, 56), 1, 25.0)


def test_the_published_peers(evaluation_pictures):
    folder = evaluation_pictures / "peers"
    names = [path.name for path in references(folder)]
    assert not [name for name in names if name.startswith("circle")]
    data = dataset([path for path in references(folder) if path.name == "owl_eye_ar_256.png"])
    sample = next(iter(data))
    fine, coarse = (
        Reconstructions(folder / name, data).round_trip(sample.pixels, 1, 25.0)
        for name in ("cosmos-8x8", "cosmos-16x16")
    )
    assert psnr(sample.pixels, fine.pixels) > psnr(sample.pixels, coarse.pixels) > 15
    assert fine.tokens == pytest.approx(4 * coarse.tokens, rel=0.1)
