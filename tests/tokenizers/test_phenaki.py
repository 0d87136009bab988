from __future__ import annotations

import pytest
import torch
from torch import Tensor

import smalti
from smalti.errors import ConfigError
from smalti.quantizers.lfq import LFQConfig
from smalti.quantizers.variational import VariationalConfig
from smalti.tokenizers.phenaki import Phenaki
from tests.tokenizers.tiny_phenaki import TINY

SMALL = {"dim": 8, "heads": 1, "dim_head": 8, "space_depth": 0, "time_depth": 1}
CHECKPOINT = 60_219_928  # parameters of phenaki-pytorch at its defaults, without norms that it never reads


def tiny(**changes: object) -> Phenaki:
    torch.manual_seed(0)
    return smalti.create("phenaki", room="tokenizers", **(TINY | changes)).eval()


def clip(frames: int, side: int = 12) -> Tensor:
    return torch.rand(1, 3, frames, side, side)


def test_eleven_frames_are_1536_tokens() -> None:
    model = smalti.create("phenaki", room="tokenizers", **SMALL)
    tokens = model.encode(clip(11, 128))
    assert (len(tokens), tokens.grid) == (1536, (6, 16, 16))
    assert 11 * 16 * 16 == 2816  # of a tokenizer of pictures
    assert model.codebook_sizes == (8192,)


def test_the_public_preset_has_the_public_size() -> None:
    with torch.device("meta"):
        model = smalti.create("phenaki", "phenaki-pytorch", room="tokenizers")
    assert sum(parameter.numel() for parameter in model.parameters()) == CHECKPOINT


@pytest.mark.parametrize("frames", [1, 3, 7])
def test_the_beginning_of_a_video_has_the_same_tokens_alone(frames) -> None:
    model, pixels = tiny(lookback=None), clip(9)
    whole, alone = model.encode(pixels), model.encode(pixels[:, :, :frames])
    assert torch.equal(whole.ids[:, : len(alone)], alone.ids)


def test_bounded_and_unbounded_time_agree_while_a_video_is_short() -> None:
    bounded, unbounded, pixels = tiny(lookback=4), tiny(lookback=None), clip(9)
    assert torch.equal(bounded.encode(pixels[:, :, :7]).ids, unbounded.encode(pixels[:, :, :7]).ids)
    assert (bounded.features(pixels) - unbounded.features(pixels))[:, -1].abs().max() > 1e-5


def test_longer_videos_than_any_seen_come_back() -> None:
    model, pixels = tiny(), clip(41)
    assert model.decode(model.encode(pixels)).shape == pixels.shape


@pytest.mark.parametrize("quantizer", [TINY["quantizer"], LFQConfig(6, group_bits=6)])
def test_every_parameter_learns(quantizer) -> None:
    model, pixels = tiny(quantizer=quantizer).train(), clip(5)
    frames, codes = model(pixels)
    ((frames - pixels).square().mean() + codes.loss).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_training_and_decoding_give_the_same_frames() -> None:
    model, pixels = tiny(), clip(5)
    frames, codes = model(pixels)
    torch.testing.assert_close(model.decode_part(codes.ids, {}), frames)
    torch.testing.assert_close(model.decode(model.encode(pixels)), frames.clamp(0, 1))


def test_the_scrambled_convolution_is_not_called_causal() -> None:
    model, pixels = tiny(scrambled_peg=True), clip(7)
    changed = pixels.clone()
    changed[:, :, -2:] = 1 - changed[:, :, -2:]
    assert (model.features(changed) - model.features(pixels))[:, :-1].abs().max() > 1e-4
    assert not model.causal
    with pytest.raises(ConfigError, match="not causal"):
        model.stream()


def test_any_size_trains() -> None:
    model, pixels = tiny(), torch.rand(2, 3, 4, 9, 7)
    found = model.reconstruct(pixels)
    torch.testing.assert_close(found.pixels.clamp(0, 1), model.decode(model.encode(pixels)))
    (found.pixels.mean() + found.loss).backward()
    assert next(model.parameters()).grad is not None


def test_half_precision_runs() -> None:
    model, pixels = tiny().bfloat16(), clip(5)
    assert model.decode(model.encode(pixels)).dtype == torch.float32
    assert model(pixels)[0].dtype == torch.bfloat16


def test_what_cannot_be_built_or_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="codes"):
        tiny(quantizer=VariationalConfig(8))
    with pytest.raises(ConfigError, match="at least 1"):
        tiny(tube=0)
    with pytest.raises(ConfigError, match="to_patch_emb"):
        Phenaki.from_official({"other": torch.ones(1)})
