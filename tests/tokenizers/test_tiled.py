"""Tiles, grids and parts: what tokenizers of these kinds get from their base, shown with plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smalti.errors import ConfigError, FormatError, MediaError
from smalti.tokenizers.causal import CausalTokenizer
from smalti.tokenizers.extent import fit
from smalti.tokenizers.grids import GridTokenizer
from smalti.tokenizers.tiled import TiledTokenizer
from smalti.tokens import Tokens


class Bands(TiledTokenizer):
    """A token a row of a 2 × 4 × 4 tile; absent rows decode as 0."""

    compression = (2, 4, 4)
    length = 4

    def encode_tiles(self, tiles: Tensor) -> Tensor:
        return tiles.permute(0, 3, 1, 2, 4).flatten(2)

    def decode_tiles(self, codes: Tensor) -> Tensor:
        whole = codes.new_zeros(len(codes), 4, codes.shape[2])
        whole[:, : codes.shape[1]] = codes
        return whole.unflatten(2, (3, 2, 4)).permute(0, 2, 3, 1, 4)


class Ordered(Bands):
    ordered = True


class Means(GridTokenizer):
    compression = (2, 4, 4)

    def encode_grid(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool3d(pixels, self.compression).movedim(1, -1)

    def decode_grid(self, codes: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(codes.movedim(-1, 1), scale_factor=self.compression)


class Sums(CausalTokenizer):
    """The mean of every group of frames added to all before; decoding takes it off again."""

    compression = (2, 1, 1)

    def encode_part(self, pixels: Tensor, state: dict) -> Tensor:
        head = [] if state else [pixels[:, :, :1]]
        groups = pixels[:, :, len(head) :].unflatten(2, (-1, 2)).mean(3)
        codes = torch.cat([*head, groups], 2).cumsum(2) + state.get("sum", 0.0)
        state["sum"] = codes[:, :, -1:]
        return codes.movedim(1, -1)

    def decode_part(self, codes: Tensor, state: dict) -> Tensor:
        sums = codes.movedim(-1, 1)
        levels = sums.diff(dim=2, prepend=state.get("last", torch.zeros_like(sums[:, :, :1])))
        repeats = torch.full((levels.shape[2],), 2)
        if not state:
            repeats[0] = 1
        state["last"] = sums[:, :, -1:]
        return levels.repeat_interleave(repeats, 2)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 4, 4), (3, 5, 9), (5, 17, 6)])
def test_tiles_give_any_size_back_unchanged(size) -> None:
    pixels = torch.rand(2, 3, *size)
    model = Bands()
    tokens = model.encode(pixels)
    torch.testing.assert_close(model.decode(tokens), pixels)
    assert tokens.coords is not None
    assert (tokens.coords[..., 1] < size[1] + 4).all()


def test_a_prefix_holds_the_first_rows_of_every_tile() -> None:
    pixels = torch.rand(1, 3, 2, 8, 8)
    model = Ordered()
    tokens = model.encode(pixels)
    for count in range(4, 17):
        shown = model.decode(tokens[:count]).unflatten(3, (2, 4)).unflatten(5, (2, 4))  # b c t y r x s
        for tile in range(4):
            rows = count // 4 + (tile < count % 4)
            part = shown[..., tile // 2, :, tile % 2, :]
            whole = pixels.unflatten(3, (2, 4)).unflatten(5, (2, 4))[..., tile // 2, :, tile % 2, :]
            torch.testing.assert_close(part[..., :rows, :], whole[..., :rows, :])
            assert not part[..., rows:, :].any()


def test_counts_that_stand_for_no_tiles_are_refused() -> None:
    tokens = Bands().encode(torch.rand(1, 3, 2, 8, 8))
    with pytest.raises(FormatError, match="all of them are needed"):
        Bands().decode(tokens[:15])
    with pytest.raises(FormatError, match="do not stand for 4 tiles"):
        Ordered().decode(tokens[:3])
    with pytest.raises(FormatError, match="no source"):
        Ordered().decode(Tokens(values=torch.zeros(1, 4, 24)))


def test_a_grid_gives_the_size_back_and_knows_its_centres() -> None:
    pixels = torch.full((1, 3, 3, 6, 9), 0.25)
    tokens = Means().encode(pixels)
    assert tokens.grid == (2, 2, 3)
    torch.testing.assert_close(Means().decode(tokens), pixels)
    assert tokens.coords is not None
    assert tokens.coords[0, 0].tolist() == [0.5, 1.5, 1.5]
    assert tokens.coords[0, -1].tolist() == [2.5, 5.5, 9.5]


@pytest.mark.parametrize("steps", [[1] * 8, [3, 5], [8], [2, 2, 4]])
def test_parts_of_any_size_give_what_the_whole_gives(steps) -> None:
    pixels = torch.rand(1, 3, 8, 2, 3)
    model = Sums()
    whole = model.encode(pixels)
    encoder, decoder = model.stream()
    given = [encoder.push(part) for part in pixels.split(steps, 2)] + [encoder.flush()]
    parts = [part for part in given if part is not None]
    joined = Tokens.cat(parts)
    torch.testing.assert_close(joined.values, whole.values)
    torch.testing.assert_close(joined.coords, whole.coords)
    assert joined.source == whole.source
    frames = torch.cat([decoder.push(part) for part in parts], 2)
    torch.testing.assert_close(frames, model.decode(whole))
    assert whole.coords is not None
    assert whole.coords[0, ::6, 0].tolist() == [0.0, 1.5, 3.5, 5.5, 7.5]


def test_a_stream_refuses_what_does_not_follow() -> None:
    model = Sums()
    encoder, decoder = model.stream()
    first, second = encoder.push(torch.rand(1, 3, 1, 2, 2)), encoder.push(torch.rand(1, 3, 2, 2, 2))
    assert first is not None
    assert second is not None
    with pytest.raises(FormatError, match="only a stream"):
        model.decode(second)
    with pytest.raises(FormatError, match="do not follow"):
        decoder.push(second)
    with pytest.raises(MediaError, match="change size"):
        encoder.push(torch.rand(1, 3, 2, 4, 4))
    encoder.flush()
    with pytest.raises(ConfigError, match="flushed"):
        encoder.push(torch.rand(1, 3, 1, 2, 2))


def test_padding_mirrors_space_and_repeats_the_last_frame() -> None:
    pixels = torch.rand(1, 3, 2, 3, 2)
    padded, source = fit(pixels, (4, 4, 4), head=1)
    assert source.pad == (3, 1, 2)
    assert padded.shape[2:] == (5, 4, 4)
    assert torch.equal(padded[:, :, 4], padded[:, :, 1])
    assert torch.equal(padded[:, :, :2, 3, :2], pixels[:, :, :, 1])
