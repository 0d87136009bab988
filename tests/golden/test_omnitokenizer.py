"""OmniTokenizer against its official modules: videos and pictures, with and without position biases."""

import pytest
import torch

from smalti.tokenizers.omnitokenizer import OmniTokenizer
from tests.golden.cases import Case, golden


def official(case: Case) -> OmniTokenizer:
    biased = case.config["spatial_pos"] == "rel"  # the cases without fused attention
    return OmniTokenizer.from_official(case.weights, position_biases=biased).eval()


@pytest.mark.parametrize("kind", ["video", "image"])
@golden("omnitokenizer")
def test_matches_the_official_modules(case: Case, kind: str) -> None:
    frames = case.inputs[kind]
    frames = frames if kind == "video" else frames[:, :, None]
    model = official(case)
    with torch.no_grad():
        case.check(f"enc_{kind}", model.encoder(frames).movedim(-1, 1))
        if f"z_norm_{kind}" in case.outputs:
            case.check(f"z_norm_{kind}", model.latents(frames).movedim(-1, 1))
        made, codes = model(frames)
        case.check(f"ids_{kind}", codes.ids[..., 0])
        case.check(f"rec_{kind}", made if kind == "video" else made[:, :, 0])


@golden("omnitokenizer")
def test_sizes_are_read_from_the_checkpoint(case: Case) -> None:
    about, told = case.config, official(case).config
    assert (told.encoder_blocks, told.decoder_blocks) == (about["enc_block"], about["dec_block"])
    assert (told.patch, told.tube, told.window) == (about["patch"], about["temporal_patch"], about["window"])
    assert (told.dim, told.heads, told.dim_head) == (about["dim"], about["heads"], about["dim_head"])
    assert (told.places, told.time_depth) == (about["spatial_pos"], about["temporal_depth"])
    assert (told.quantizer.codebook_size, told.quantizer.dim) == (about["n_codes"], about["codebook_dim"])


@golden("omnitokenizer")
def test_the_official_convolution_lets_the_future_through(case: Case) -> None:
    model, frames = official(case), case.inputs["video"]
    changed = frames.clone()
    changed[:, :, -model.config.tube :] *= -1
    with torch.no_grad():
        moved = (model.latents(changed) - model.latents(frames))[:, :-1].abs().max()
    assert moved > 1e-3
    assert not model.causal
