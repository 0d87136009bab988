from __future__ import annotations

import dataclasses
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from smalti.errors import ConfigError, FormatError, MediaError
from smalti.quantizers.residual_fsq import ResidualFSQConfig
from smalti.tokenizers.mosaic import Mosaic
from smalti.tokens import Tokens
from smalti.training.context import ContextObjective
from tests.tokenizers.tiny import tiny_config, tiny_mosaic

MODEL = tiny_mosaic()
SIDES = st.integers(1, 20)


def clip(frames: int = 1, height: int = 16, width: int = 16, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, height, width)


def grids(tokens: Tokens) -> Tensor:
    return tokens.ids.unflatten(1, tokens.grid)


def part(tokens: Tokens, first: int, last: int) -> Tokens:
    """The tokens of some grids, as a reader of token files gives them."""
    start, stop = (max(4 * index - 3, 0) for index in (first, last))
    stop = min(stop, tokens.source.frames)
    source = dataclasses.replace(tokens.source, first=start, frames=stop - start)
    ids = grids(tokens)[:, first:last]
    return Tokens(ids=ids.flatten(1, 3), grid=tuple(ids.shape[1:4]), source=source)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 20), SIDES, SIDES)
def test_any_size_and_length_comes_back(frames: int, height: int, width: int) -> None:
    pixels = clip(frames, height, width)
    tokens = MODEL.encode(pixels)
    assert tokens.grid == (1 + -(-(frames - 1) // 4), -(-height // 8), -(-width // 8))
    back = MODEL.decode(tokens)
    assert back.shape == pixels.shape
    assert 0 <= back.min() <= back.max() <= 1


def test_the_networks_of_the_tiny_model_matter() -> None:
    """Otherwise the tests below would prove little."""
    pixels = clip(5)
    plain = tiny_mosaic()
    for path in (plain.picture, plain.clip):
        for layer in (path.correct, path.to_pixels):
            nn.init.zeros_(layer.weight)
    assert (plain.encode(pixels).ids != MODEL.encode(pixels).ids).float().mean() > 0.3
    tokens = MODEL.encode(pixels)
    assert (plain.decode(tokens) - MODEL.decode(tokens)).abs().mean() > 0.02


def test_a_picture_is_a_clip_of_one_frame() -> None:
    pixels = clip(9)
    picture, whole = MODEL.encode(pixels[:, :, :1]), MODEL.encode(pixels)
    assert torch.equal(grids(picture)[:, 0], grids(whole)[:, 0])
    assert torch.equal(MODEL.decode(picture), MODEL.decode(whole)[:, :, :1])


@pytest.mark.parametrize("known", [1, 5, 9])
def test_later_frames_change_no_earlier_ids_or_pixels(known: int) -> None:
    pixels = clip(14)
    changed = pixels.clone()
    changed[:, :, known:] = clip(14 - known)
    one, other = MODEL.encode(pixels), MODEL.encode(changed)
    count = (known - 1) // 4 + 1
    assert torch.equal(grids(one)[:, :count], grids(other)[:, :count])
    assert not torch.equal(grids(one)[:, count], grids(other)[:, count])
    assert torch.equal(MODEL.decode(one)[:, :, :known], MODEL.decode(other)[:, :, :known])


def test_decoding_looks_back_one_grid_and_not_over_the_border_of_a_chunk() -> None:
    tokens = MODEL.encode(clip(17))  # chunks of two grids: 0 1 | 2 3 | 4
    ids = grids(tokens).clone()
    ids[:, 2] = MODEL.encode(clip()).ids.unflatten(1, (2, 2))
    before, after = MODEL.decode(tokens), MODEL.decode(dataclasses.replace(tokens, ids=ids.flatten(1, 3)))
    differs = (before != after).any(1).any(-1).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == list(range(5, 13))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_a_stream_gives_what_the_whole_gives(sizes: list[int]) -> None:
    pixels = clip(sum(sizes), 9, 17, batch=2)
    whole = MODEL.encode(pixels)
    encoder, decoder = MODEL.stream()
    parts = [encoder.push(piece) for piece in pixels.split(sizes, 2)] + [encoder.flush()]
    parts = [tokens for tokens in parts if tokens is not None]
    joined = Tokens.cat(parts)
    assert torch.equal(joined.ids, whole.ids)
    assert torch.equal(joined.coords, whole.coords)
    assert torch.equal(joined.mass, whole.mass)
    assert (joined.grid, joined.source) == (whole.grid, whole.source)
    frames = [decoder.push(tokens) for tokens in parts]
    assert [piece.shape[2] for piece in frames] == [tokens.source.frames for tokens in parts]
    assert torch.equal(torch.cat(frames, 2), MODEL.decode(whole))


def test_coordinates_are_the_centres_of_what_a_token_stands_for() -> None:
    tokens = MODEL.encode(clip(8, 16, 24))
    coords = tokens.coords.unflatten(1, tokens.grid)[0]
    assert coords[:, 0, 0, 0].tolist() == [0, 2.5, 6]  # frames 0 | 1 2 3 4 | 5 6 7 and one of padding
    assert coords[0, :, 0, 1].tolist() == [3.5, 11.5]
    assert coords[0, 0, :, 2].tolist() == [3.5, 11.5, 19.5]
    assert tokens.source.pad == (1, 0, 0)
    assert MODEL.encode(clip(1, 17, 15)).source.pad == (0, 7, 1)


def test_samples_of_a_batch_do_not_meet() -> None:
    pixels = clip(6, batch=3)
    together = MODEL.encode(pixels)
    frames = MODEL.decode(together)
    for index in range(3):
        alone = MODEL.encode(pixels[index : index + 1])
        assert torch.equal(alone.ids, together.ids[index : index + 1])
        torch.testing.assert_close(MODEL.decode(alone), frames[index : index + 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("patch", "size"), [(8, (70, 41)), (8, (20, 90)), (16, (50, 130))])
def test_tiles_give_what_the_whole_frame_gives(patch: int, size: tuple[int, int]) -> None:
    whole, tiles = (tiny_mosaic(patch=patch, tile=tile) for tile in (768, 2 * patch))
    pixels = clip(5, *size)
    tokens = whole.encode(pixels)
    assert torch.equal(tiles.encode(pixels).ids, tokens.ids)
    torch.testing.assert_close(tiles.decode(tokens), whole.decode(tokens), rtol=0, atol=1e-5)


def test_any_first_stages_decode() -> None:
    pixels = clip(6)
    tokens = MODEL.encode(pixels)
    frames = []
    for quality, codes in enumerate(MODEL.stages, 1):
        prefix = MODEL.encode(pixels, quality)
        assert torch.equal(prefix.ids, tokens.ids[..., :codes])
        frames.append(MODEL.decode(prefix))
        assert frames[-1].shape == pixels.shape
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(frames))
    wide = tiny_mosaic(quantizer=ResidualFSQConfig(opened=(12, 24), limits=(4, 6)))
    tokens = wide.encode(pixels)
    assert wide.stages[0] > 1
    with pytest.raises(FormatError, match="end inside a stage"):
        wide.decode(tokens.codebooks(wide.stages[0] - 1))


@pytest.mark.parametrize("chunk", [2, 16])
def test_a_chunk_decodes_alone(chunk: int) -> None:
    model = tiny_mosaic(chunk=chunk)
    pixels = clip(4 * chunk + 6, 8, 8)
    tokens = model.encode(pixels)
    frames = model.decode(tokens)
    alone = part(tokens, chunk, chunk + 2)
    assert alone.source.first == 4 * chunk - 3
    assert torch.equal(model.decode(alone), frames[:, :, 4 * chunk - 3 : 4 * chunk + 5])


def test_tokens_from_inside_a_chunk_are_refused() -> None:
    tokens = MODEL.encode(clip(14))
    with pytest.raises(FormatError, match="start at frame 1, inside a chunk"):
        MODEL.decode(part(tokens, 1, 3))
    between = dataclasses.replace(tokens, source=dataclasses.replace(tokens.source, first=3))
    with pytest.raises(FormatError, match="start at frame 3, inside a token's 4 frames"):
        MODEL.decode(between)


def test_a_stream_wants_its_tokens_in_order() -> None:
    tokens = MODEL.encode(clip(14))
    decoder = MODEL.stream().decoder
    decoder.push(part(tokens, 0, 1))
    with pytest.raises(FormatError, match="frame 5 do not follow"):
        decoder.push(part(tokens, 2, 3))


@pytest.mark.parametrize("field", ["grid", "source"])
def test_tokens_without_a_place_are_refused(field: str) -> None:
    with pytest.raises(FormatError, match="grid and source"):
        MODEL.decode(dataclasses.replace(MODEL.encode(clip()), **{field: None}))
    values = Tokens(values=torch.rand(1, 4, 6), grid=(1, 2, 2))
    with pytest.raises(FormatError, match="one is missing"):
        MODEL.decode(values)


def test_what_a_stream_holds_does_not_grow() -> None:
    encoder, decoder = MODEL.stream()
    frame = 3 * 16 * 16 * 4
    for _ in range(23):
        tokens = encoder.push(clip().requires_grad_())
        assert encoder.held.untyped_storage().nbytes() <= 3 * frame
        assert not encoder.held.requires_grad
        if tokens is not None:
            decoder.push(tokens)
            assert decoder.past.untyped_storage().nbytes() == 6 * 2 * 2 * 4
    held = [name for stream in (encoder, decoder) for name, value in vars(stream).items()
            if isinstance(value, Tensor | list | dict | tuple)]  # fmt: skip
    assert held == ["held", "past"]
    encoder.push(clip(20))
    assert encoder.held.untyped_storage().nbytes() <= 3 * frame


def test_nothing_is_left_where_frames_end_with_a_group() -> None:
    encoder = MODEL.stream().encoder
    assert encoder.push(clip(5)).source.frames == 5
    assert encoder.flush() is None
    assert MODEL.stream().encoder.flush() is None


def test_frames_that_change_size_are_refused() -> None:
    encoder = MODEL.stream().encoder
    encoder.push(clip())
    with pytest.raises(MediaError, match="change size"):
        encoder.push(clip(1, 16, 24))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_pixels_of_another_precision_give_the_same_tokens(dtype: torch.dtype) -> None:
    pixels = clip(5).to(dtype)
    assert torch.equal(MODEL.encode(pixels).ids, MODEL.encode(pixels.float()).ids)


def smooth(batch: int, frames: int, side: int) -> Tensor:
    """Colours that change slowly in space and time."""
    coarse = torch.rand(batch, 3, min(frames, 2), side // 8, side // 8)
    return nn.functional.interpolate(coarse, (frames, side, side), mode="trilinear")


@pytest.fixture(scope="module")
def linear() -> Mosaic:
    """Fitted linear paths and networks that give nothing yet."""
    torch.manual_seed(0)
    fine = ResidualFSQConfig(step=1 / 16, opened=(64, 64, 64), limits=(100, 0, 0), first_limit=300)
    model = Mosaic(tiny_config(quantizer=fine)).eval()
    model.fit_linear(smooth(24, 1, 32), smooth(24, 9, 32)[:, :, 1:5])
    return model


def test_fitted_rows_are_orthonormal(linear: Mosaic) -> None:
    for path in (linear.picture, linear.clip):
        torch.testing.assert_close(path.analysis @ path.analysis.T, torch.eye(64), rtol=0, atol=1e-4)
        assert torch.equal(path.synthesis, path.analysis.T)


def test_fitted_rows_give_smooth_clips_back(linear: Mosaic) -> None:
    pixels = smooth(2, 9, 32)
    error = (linear.decode(linear.encode(pixels)) - pixels).square().mean((0, 1, 3, 4))
    assert (-10 * error.log10()).min() > 35


def test_a_picture_stands_for_four_frames_that_do_not_move(linear: Mosaic) -> None:
    picture = smooth(2, 1, 32)
    still = picture.expand(-1, -1, 4, -1, -1)
    past = linear.past_of_picture(linear.picture.analyse(picture, linear.encoder))
    latents = linear.clip.analyse(still, linear.encoder)
    known = linear.still >= 0
    assert known.sum() > 10
    torch.testing.assert_close(past[:, known], latents[:, known], rtol=0, atol=1e-4)
    assert not past[:, ~known].any()
    assert latents[:, ~known].abs().max() < 1e-3  # they hold motion, of which there is none


def test_half_precision_rounds_every_weight() -> None:
    model = tiny_mosaic().half_precision()
    for parameter in model.parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, parameter.half().float())


def test_a_context_model_is_there_once_it_was_set() -> None:
    model = tiny_mosaic()
    assert model.entropy_coder() is None
    objective = ContextObjective(model.quantizer, 8)
    model.set_context(objective.arrays(model.still))
    coder = model.entropy_coder()
    assert coder is model.entropy_coder()
    model.set_context(ContextObjective(model.quantizer, 8).arrays(model.still))
    assert coder is not model.entropy_coder()
    ids = grids(model.encode(clip(9)))[0].numpy()
    streams = coder.encode(ids, model.stages)
    assert (coder.decode(streams, ids.shape[:3], model.stages) == ids).all()


def test_loaded_weights_bring_their_own_context_model() -> None:
    model, other = tiny_mosaic(), tiny_mosaic()
    arrays = ContextObjective(model.quantizer, 8).arrays(model.still)
    model.set_context(arrays)
    other.set_context(arrays | {"picture_0_leave_bias": arrays["picture_0_leave_bias"] + 1000})
    ids = grids(model.encode(clip(9)))[0].numpy()
    wanted = other.entropy_coder().encode(ids, model.stages)
    assert model.entropy_coder().encode(ids, model.stages) != wanted
    nn.ModuleList([model]).load_state_dict(nn.ModuleList([other]).state_dict())
    assert model.entropy_coder().encode(ids, model.stages) == wanted
    pickle.loads(pickle.dumps(model))


def test_a_flushed_stream_takes_no_more_frames() -> None:
    for frames in (4, 5):
        encoder = MODEL.stream().encoder
        encoder.push(clip(frames))
        encoder.flush()
        with pytest.raises(ConfigError, match="was flushed"):
            encoder.push(clip())
        assert encoder.flush() is None
