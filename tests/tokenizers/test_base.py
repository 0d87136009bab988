from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from smalti.errors import ConfigError, FormatError, MediaError
from smalti.tokenizers.base import Tokenizer, check_ids, check_pixels
from smalti.tokens import Source, Tokens


class Levels(Tokenizer):
    """Red in four levels, coarse and fine code of two values each; a token a pixel."""

    compression = (1, 1, 1)
    codebook_sizes = (2, 2)
    stages = (1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))
        self.register_buffer("order", torch.arange(3))

    def _encode(self, pixels: Tensor) -> Tokens:
        level = (pixels[:, 0] * self.gain).long().clamp(max=3).flatten(1)
        frames, height, width = pixels.shape[2:]
        return Tokens(
            ids=torch.stack([level // 2, level % 2], -1),
            grid=(frames, height, width),
            source=Source(height, width, frames),
        )

    def _decode(self, tokens: Tokens) -> Tensor:
        ids = nn.functional.pad(tokens.ids, (0, 2 - tokens.ids.shape[-1]))
        red = (ids[..., 0] * 2 + ids[..., 1]).unflatten(1, tokens.grid) / self.gain
        return red[:, None].expand(-1, 3, -1, -1, -1)


def pixels(*shape: int) -> Tensor:
    return torch.rand(*(shape or (1, 3, 1, 2, 2)))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (pixels(3, 4, 4), r"must be \[batch, 3, frames, height, width\], not \(3, 4, 4\)"),
        (pixels(1, 4, 1, 2, 2), r"not \(1, 4, 1, 2, 2\)"),
        (torch.zeros(1, 3, 1, 2, 2, dtype=torch.uint8), "divide by the white value"),
        (pixels(1, 3, 0, 2, 2), r"empty: \(1, 3, 0, 2, 2\)"),
    ],
)
def test_pixels_of_a_wrong_shape_or_type_are_refused(bad: Tensor, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        check_pixels(bad)


@pytest.mark.parametrize("value", [-0.01, 1.01, torch.nan, torch.inf, -torch.inf])
def test_a_value_outside_the_range_is_named_with_its_place(value: float) -> None:
    bad = pixels(2, 3, 2, 4, 4)
    bad[1, 2, 0, 3, 1] = value
    with pytest.raises(MediaError, match=r"found .* at \[b, c, t, h, w\] = \[1, 2, 0, 3, 1\]"):
        Levels().encode(bad)


def test_the_ends_of_the_range_belong_to_it() -> None:
    check_pixels(torch.tensor([0.0, 1.0, 0.5]).reshape(1, 3, 1, 1, 1))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.zeros(1, 2, 2), "must be integers, not torch.float32"),
        (torch.zeros(1, 2, 2, dtype=torch.bool), "must be integers, not torch.bool"),
        (torch.zeros(1, 2, 4, dtype=torch.int64), "4 codes a token, but 1 to 3 codebooks"),
        (torch.zeros(1, 2, 0, dtype=torch.int64), "0 codes a token"),
        (torch.tensor([[[1, 0], [0, 7]]]), r"id 7 at \[b, n, q\] = \[0, 1, 1\] is outside 0..6"),
        (torch.tensor([[[-1, 0]]]), r"id -1 at \[b, n, q\] = \[0, 0, 0\] is outside 0..4"),
    ],
)
def test_ids_that_no_codebook_holds_are_refused(ids: Tensor, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        check_ids(ids, (5, 7, 9))


def test_ids_at_the_ends_of_their_codebooks_pass() -> None:
    check_ids(torch.tensor([[[0, 0, 0], [4, 6, 8]]], dtype=torch.int32), (5, 7, 9))


def test_a_quality_is_a_number_of_codes() -> None:
    model = Levels()
    assert [model.codes_at(quality) for quality in (1, 2, None)] == [1, 2, 2]
    for bad in (0, 3, -1):
        with pytest.raises(ConfigError, match=f"quality {bad} does not exist: choose 1 to 2"):
            model.encode(pixels(), quality=bad)
    whole = model.encode(pixels())
    assert torch.equal(model.encode(pixels() * 0 + 0.6, 1).ids, torch.ones(1, 4, 1, dtype=torch.int64))
    assert whole.ids.shape == (1, 4, 2)


def test_no_gradient_is_kept_and_ids_can_be_learned_from() -> None:
    model = Levels()
    tokens = model.encode(pixels())
    assert not model.decode(tokens).requires_grad
    nn.Embedding(2, 3)(tokens.ids).sum().backward()


def test_decoding_refuses_ids_outside_the_codebooks() -> None:
    model = Levels()
    tokens = model.encode(pixels())
    with pytest.raises(FormatError, match=r"outside 0\.\.1"):
        model.decode(Tokens(ids=tokens.ids + 2, grid=tokens.grid, source=tokens.source))


def test_a_tokenizer_that_is_not_causal_does_not_stream() -> None:
    with pytest.raises(ConfigError, match="Levels is not causal"):
        Levels().stream()


def test_a_fingerprint_names_the_weights() -> None:
    model, same = Levels(), Levels()
    name = model.fingerprint()
    assert len(name) == 16
    assert int(name, 16) >= 0
    assert same.fingerprint() == name
    same.gain.data.add_(1e-6)
    assert same.fingerprint() != name
    model.order[0] = 5
    assert model.fingerprint() != name
