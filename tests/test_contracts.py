"""What every registered tokenizer must do. A new system is tested here by being registered.

A system whose default preset is large has a tiny one in `tests/tokenizers/tiny_<name>.py`.
"""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module

import pytest
import torch
from torch import Tensor

import smalti
from smalti import weights
from smalti.codec import TokenFile
from smalti.tokenizers.base import Tokenizer
from smalti.tokens import Tokens

SIZES = [(1, 1, 1), (1, 17, 23), (2, 8, 8), (5, 9, 16), (6, 31, 5), (13, 8, 11)]
CARDS = smalti.systems("tokenizers")


def build(name: str) -> Tokenizer:
    torch.manual_seed(1)
    changes = import_module(f"tests.tokenizers.tiny_{name.replace('-', '_')}").TINY
    tokenizer = smalti.create(name, room="tokenizers", **changes).eval()
    for parameter in tokenizer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)  # layers that start at zero would hide mistakes
    return tokenizer


def clip(batch: int, frames: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, 3, frames, height, width)


def content(tokens: Tokens) -> Tensor:
    kept = tokens.ids if tokens.ids is not None else tokens.values
    assert kept is not None
    return kept


@pytest.fixture(params=[card.name for card in CARDS])
def tokenizer(request) -> Tokenizer:
    return build(request.param)


@pytest.mark.parametrize(("frames", "height", "width"), SIZES)
def test_the_size_and_length_that_went_in_come_out(tokenizer, frames, height, width) -> None:
    pixels = clip(1, frames, height, width)
    for quality in range(1, len(tokenizer.stages) + 1):
        back = tokenizer.decode(tokenizer.encode(pixels, quality))
        assert back.shape == pixels.shape
        assert 0 <= back.min() <= back.max() <= 1


def test_equal_pixels_give_equal_tokens_and_pixels(tokenizer) -> None:
    pixels = clip(1, 5, 16, 24)
    once, again = tokenizer.encode(pixels), tokenizer.encode(pixels.clone())
    assert torch.equal(content(once), content(again))
    assert torch.equal(tokenizer.decode(once), tokenizer.decode(again))


def test_a_clip_gives_the_same_tokens_alone_and_in_a_batch(tokenizer) -> None:
    pixels = clip(3, 5, 16, 16)
    together = content(tokenizer.encode(pixels))
    for index in range(3):
        alone = content(tokenizer.encode(pixels[index : index + 1]))
        torch.testing.assert_close(together[index : index + 1], alone)


def test_tokens_differ_where_pixels_do(tokenizer) -> None:
    dark, light = (content(tokenizer.encode(torch.full((1, 3, 1, 16, 16), level))) for level in (0.1, 0.9))
    assert not torch.equal(dark, light)


def test_every_id_is_in_its_codebook(tokenizer) -> None:
    if not tokenizer.codebook_sizes:
        pytest.skip("continuous tokens have no codebook")
    ids = tokenizer.encode(clip(2, 5, 24, 16)).ids
    assert ids is not None
    assert ids.shape[-1] == len(tokenizer.codebook_sizes)
    assert (ids >= 0).all()
    assert (ids < torch.tensor(tokenizer.codebook_sizes)).all()


def test_ids_outside_a_codebook_are_refused(tokenizer) -> None:
    if not tokenizer.codebook_sizes:
        pytest.skip("continuous tokens have no codebook")
    tokens = tokenizer.encode(clip(1, 1, 16, 16))
    assert tokens.ids is not None
    ids = tokens.ids.clone()
    ids[0, 0, 0] = tokenizer.codebook_sizes[0]
    with pytest.raises(smalti.errors.FormatError, match="outside"):
        tokenizer.decode(dataclasses.replace(tokens, ids=ids))


def test_tokens_can_be_learned_from(tokenizer) -> None:
    tokens = content(tokenizer.encode(clip(1, 1, 16, 16)))
    if tokens.is_floating_point():
        learned = torch.nn.Linear(tokens.shape[-1], 4)
    else:
        learned = torch.nn.Embedding(max(tokenizer.codebook_sizes), 4)
    learned(tokens).sum().backward()
    assert learned.weight.grad is not None


def test_pixels_that_mean_nothing_are_refused(tokenizer) -> None:
    for bad in (clip(1, 1, 8, 8) + 1.5, clip(1, 1, 8, 8) - 1.5, torch.full((1, 3, 1, 8, 8), torch.nan)):
        with pytest.raises(smalti.errors.MediaError):
            tokenizer.encode(bad)


def test_saving_and_loading_change_nothing(tokenizer, tmp_path) -> None:
    weights.write(tokenizer, tmp_path / "model.safetensors")
    loaded = smalti.load(tmp_path)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    pixels = clip(1, 5, 16, 16)
    assert torch.equal(content(loaded.encode(pixels)), content(tokenizer.encode(pixels)))


@pytest.mark.parametrize("frames", [1, 4, 14])
def test_a_token_file_gives_the_tokens_back(tokenizer, tmp_path, frames) -> None:
    tokens = tokenizer.encode(clip(1, frames, 17, 9))
    smalti.save_tokens(tokens, tmp_path / "tokens.smt", tokenizer)
    back = smalti.load_tokens(tmp_path / "tokens.smt", tokenizer=tokenizer)
    assert torch.equal(content(back), content(tokens))
    assert back.grid == tokens.grid
    assert torch.equal(tokenizer.decode(back), tokenizer.decode(tokens))


def test_a_chunk_of_a_token_file_decodes_alone(tokenizer, tmp_path) -> None:
    if not tokenizer.chunk:
        pytest.skip("one chunk holds all")
    tokens = tokenizer.encode(clip(1, 23, 16, 16))
    whole = tokenizer.decode(tokens)
    smalti.save_tokens(tokens, tmp_path / "tokens.smt", tokenizer)
    with TokenFile.open(tmp_path / "tokens.smt") as file:
        assert len(file.header.chunks) > 1
        coder = smalti.api.entropy_coder(file, tokenizer)
        for chunk in file.header.chunks:
            part = file.read(chunk.frame, chunk.frame + chunk.frames, unit="frames", coder=coder)
            alone = tokenizer.decode(part)
            torch.testing.assert_close(alone, whole[:, :, chunk.frame : chunk.frame + chunk.frames])


@pytest.mark.parametrize("step", [1, 3, 7])
def test_streaming_gives_what_the_whole_gives(tokenizer, step) -> None:
    if not tokenizer.causal:
        with pytest.raises(smalti.errors.ConfigError, match="causal"):
            tokenizer.stream()
        return
    pixels = clip(1, 15, 16, 17)
    tokens = tokenizer.encode(pixels)
    encoder, decoder = tokenizer.stream()
    parts = [encoder.push(piece) for piece in pixels.split(step, dim=2)] + [encoder.flush()]
    given = [part for part in parts if part is not None]
    assert torch.equal(content(Tokens.cat(given)), content(tokens))
    frames = torch.cat([decoder.push(part) for part in given], dim=2)
    torch.testing.assert_close(frames, tokenizer.decode(tokens))


def test_no_token_depends_on_a_later_frame(tokenizer) -> None:
    if not tokenizer.causal:
        pytest.skip("not causal")
    period = tokenizer.compression[0]
    pixels = clip(1, 1 + 3 * period, 16, 16)
    changed = pixels.clone()
    changed[:, :, 1 + 2 * period :] = 1 - changed[:, :, 1 + 2 * period :]
    one, other = tokenizer.encode(pixels), tokenizer.encode(changed)
    assert one.grid is not None
    before = 3 * one.grid[1] * one.grid[2]
    assert torch.equal(content(one)[:, :before], content(other)[:, :before])
    assert not torch.equal(content(one)[:, before:], content(other)[:, before:])


def test_every_preset_builds_from_its_written_configuration() -> None:
    for card in smalti.systems():
        for config in card.presets.values():
            written = json.loads(json.dumps(weights.written(config)))
            assert weights.build(type(config), written) == config
