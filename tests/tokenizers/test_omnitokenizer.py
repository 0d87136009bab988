from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import smalti
from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.quantizers.variational import VariationalConfig
from smalti.tokenizers.omnitokenizer import OmniTokenizer
from tests.tokenizers.tiny_omnitokenizer import TINY

SMALL = {"dim": 8, "heads": 1, "dim_head": 8, "encoder_blocks": "w", "decoder_blocks": "w", "time_depth": 1}
LATENT = {"quantizer": VariationalConfig(4, 1e-6)}


def tiny(**changes: object) -> OmniTokenizer:
    torch.manual_seed(0)
    model = smalti.create("omnitokenizer", **(TINY | changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    return model


def clip(frames: int, side: int = 16) -> Tensor:
    return torch.rand(1, 3, frames, side, side)


@pytest.mark.parametrize(("frames", "count"), [(1, 1024), (17, 5120)])
def test_tokens_of_official_sizes(frames, count) -> None:
    model = smalti.create("omnitokenizer", **SMALL)
    assert len(model.encode(clip(frames, 256))) == count


@pytest.mark.parametrize("changes", [{}, {"places": "rel"}, LATENT])
def test_a_picture_is_the_first_frame_of_a_video(changes) -> None:
    model, pixels = tiny(**changes), clip(5)
    video, picture = model.encode_part(pixels, {}), model.encode_part(pixels[:, :, :1], {})
    torch.testing.assert_close(video[:, :1], picture)


@pytest.mark.parametrize("changes", [{"places": "rel"}, LATENT, {"position_biases": False}])
def test_every_kind_is_causal_and_streams(changes) -> None:
    model, pixels = tiny(**changes), clip(9)
    changed = pixels.clone()
    changed[:, :, 7:] = 1 - changed[:, :, 7:]
    one, other = (model.latents(2 * x - 1) for x in (pixels, changed))
    assert torch.equal(one[:, :4], other[:, :4])
    assert (one[:, 4] - other[:, 4]).abs().max() > 1e-3
    whole = model.decode(model.encode(pixels))
    encoder, decoder = model.stream()
    given = [encoder.push(piece) for piece in pixels.split(4, 2)]
    frames = torch.cat([decoder.push(part) for part in given if part is not None], 2)
    torch.testing.assert_close(frames, whole, atol=1e-5, rtol=1e-5)


def test_biases_of_places_count() -> None:
    pixels = clip(5)
    for places in ("rel", "rope"):
        with_biases, without = tiny(places=places), tiny(places=places, position_biases=False)
        without.load_state_dict(with_biases.state_dict(), strict=False)
        assert (with_biases.latents(pixels) - without.latents(pixels)).abs().max() > 1e-4


def test_latents_of_codes_have_length_one_and_codes_need_not() -> None:
    model = tiny()
    torch.testing.assert_close(model.latents(clip(3)).norm(dim=-1), torch.ones(1, 2, 4, 4))
    model.quantizer.codebook.mul_(3)
    codes = model.quantizer.codebook
    ids = model.encode_part(clip(3), {})
    assert torch.equal(model.quantizer.lookup(ids), codes[ids[..., 0]])


def test_continuous_tokens_are_means_and_are_drawn_in_training() -> None:
    model, pixels = tiny(**LATENT), clip(3)
    assert model.codebook_sizes == ()
    tokens = model.encode(pixels)
    assert tokens.ids is None
    assert tokens.values.shape == (1, 32, 4)
    torch.testing.assert_close(tokens.values, model.latents(2 * pixels - 1)[..., :4].flatten(1, 3))
    first, second = model.train()(pixels)[0], model(pixels)[0]
    assert (first - second).abs().max() > 1e-3


def test_the_divergence_of_a_clip_is_its_sum() -> None:
    model, frames = tiny(**LATENT), 2 * clip(3) - 1
    mean, log_variance = model.latents(frames).chunk(2, -1)
    expected = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    torch.testing.assert_close(model(frames)[1].loss, 1e-6 * expected)


@pytest.mark.parametrize("changes", [{}, {"places": "rel"}, LATENT])
def test_every_parameter_learns(changes) -> None:
    model, frames = tiny(**changes).train(), 2 * clip(5) - 1
    made, codes = model(frames)
    ((made - frames).abs().mean() + codes.loss).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_windows_of_a_quarter_side_cost_a_sixteenth() -> None:
    def attention(block: str) -> int:
        model, x = tiny(encoder_blocks=block, window=4), torch.randn(1, 1, 16, 16, 16)
        layer = model.encoder.space.layers[0].attention
        projections = sum(p.numel() for n, p in layer.named_parameters() if p.ndim == 2 and "table" not in n)
        return count_flops(layer, x) - 256 * projections

    assert attention("t") == 16 * attention("w")


def test_any_size_trains() -> None:
    model, pixels = tiny(), torch.rand(2, 3, 4, 9, 7)
    found = model.reconstruct(pixels)
    torch.testing.assert_close(found.pixels.clamp(0, 1), model.decode(model.encode(pixels)))
    (found.pixels.mean() + found.loss).backward()
    assert next(model.parameters()).grad is not None


def test_half_precision_runs() -> None:
    for changes in ({}, LATENT, {"places": "rel"}):
        model, pixels = tiny(**changes).bfloat16(), clip(3)
        assert model.decode(model.encode(pixels)).shape == pixels.shape


def test_weights_of_latents_are_told_from_weights_of_codes() -> None:
    presets = smalti.registry.card("omnitokenizer").presets
    assert presets["imagenet_k600_vae"] == replace(
        presets["imagenet_k600"], quantizer=VariationalConfig(8, 1e-6)
    )
    for changes, refused in (
        ({"encoder_blocks": "tx"}, "t or w"),
        ({"dim_head": 6}, "multiple of 4"),
        ({"heads": 3}, "do not divide"),
    ):
        with pytest.raises(ConfigError, match=refused):
            tiny(**changes)
    with pytest.raises(ConfigError, match="no out"):
        OmniTokenizer.from_official({"other": torch.ones(1)})
