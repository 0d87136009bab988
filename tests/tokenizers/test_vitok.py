from __future__ import annotations

import pytest
import torch
from torch import Tensor

import smalti
from smalti.errors import ConfigError
from smalti.tokenizers.vitok import ViTok
from smalti.tokenizers.vitok_places import fixed_table
from tests.tokenizers.tiny_vitok import TINY


def tiny(**changes: object) -> ViTok:
    torch.manual_seed(0)
    return smalti.create("vitok", **(TINY | changes)).eval()


def clip(frames: int = 4, side: int = 16) -> Tensor:
    return torch.rand(1, 3, frames, side, side)


def of_meta(preset: str) -> ViTok:
    with torch.device("meta"):
        return smalti.create("vitok", preset)


@pytest.mark.parametrize(
    ("preset", "encoder", "decoder"),
    [("S-B/1x16", 43e6, 86e6), ("B-B/1x16", 86e6, 86e6), ("L-L/1x16", 384e6, 384e6)],
)
def test_presets_have_the_papers_sizes(preset, encoder, decoder) -> None:
    model = of_meta(preset)
    for part, size in ((model.encoder, encoder), (model.decoder, decoder)):
        assert sum(p.numel() for p in part.parameters()) == pytest.approx(size, rel=0.02)


def test_the_default_costs_what_the_paper_says() -> None:
    model = of_meta("S-B/1x16")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(129e6, rel=0.02)
    assert model.flops((1, 3, 1, 256, 256)) == pytest.approx(34.8e9, rel=0.05)


def test_patches_and_channels_trade_at_equal_cost() -> None:
    coarse = ViTok.floating_points(tiny(tube=1, patch=16, channels=16), 1, 256, 256)
    fine = ViTok.floating_points(tiny(tube=1, patch=8, channels=4), 1, 256, 256)
    assert coarse == fine == 4096
    tokens = tiny(patch=8).encode(clip(3, 20))
    assert tokens.values.numel() == tiny(patch=8).floating_points(3, 20, 20)


@pytest.mark.parametrize("rotary", ["none", "1d_axial", "2d_axial", "2d_mixed"])
@pytest.mark.parametrize("positions", ["nope", "sincos1d", "sincos2d", "sincos3d", "learned", "dec"])
def test_every_kind_of_place_works_on_every_grid(rotary, positions) -> None:
    model = tiny(rotary=rotary, positions=positions, grid=(2, 4, 4))
    for pixels in (clip(4, 16), clip(7, 9)):
        assert model.decode(model.encode(pixels)).shape == pixels.shape


@pytest.mark.parametrize(
    ("changes", "apart"),
    [
        ({}, False),
        ({"rotary": "1d_axial"}, True),
        ({"rotary": "2d_mixed"}, True),
        ({"positions": "learned"}, True),
    ],
)
def test_places_tell_tokens_apart(changes, apart) -> None:
    model = tiny(**({"rotary": "none", "positions": "nope", "grid": (1, 2, 2)} | changes))
    same = torch.rand(1, 3, 2, 4, 4).repeat(1, 1, 1, 2, 2)  # four equal tokens
    same[..., 4:, 4:] += 0.1
    turned = same.flip(-1).unflatten(-1, (2, 4)).flip(-1).flatten(-2)  # the other order of columns
    first, second = (model.encode_grid(pixels) for pixels in (same, turned))
    assert ((first.flip(3) - second).abs().max() > 1e-5) == apart


def test_learned_positions_are_resampled() -> None:
    model = tiny(positions="learned", grid=(1, 2, 2), rotary="none")
    places = model.encoder_places
    zeros = torch.zeros(1, 16, 24)
    assert torch.equal(places(zeros[:, :4], (1, 2, 2)), places.table)
    wider = places(zeros, (1, 4, 4)).unflatten(1, (4, 4))
    torch.testing.assert_close(wider[0, 0, 0], places.table[0, 0])
    torch.testing.assert_close(wider[0, 3, 3], places.table[0, 3])


def test_fixed_positions_count_frame_column_row() -> None:
    table = fixed_table("sincos3d", (2, 3, 4), 12)
    last, waves = table[-1], torch.tensor([1.0, 1e-4])
    expected = torch.cat([wave(place * waves) for place in (1, 3, 2) for wave in (torch.sin, torch.cos)])
    torch.testing.assert_close(last, expected)


def test_no_frame_sees_a_later_one_where_blocks_are_causal() -> None:
    pixels = clip(6)
    changed = pixels.clone()
    changed[:, :, 4:] = 1 - changed[:, :, 4:]
    for causal in (True, False):
        model = tiny(block_causal=causal)
        moved = (model.encode_grid(pixels) - model.encode_grid(changed))[:, :2].abs().max()
        assert (moved == 0) if causal else (moved > 1e-4)
        latents = model.encode_grid(pixels)
        other = torch.cat([latents[:, :2], -latents[:, 2:]], 1)
        back = (model.decode_grid(latents) - model.decode_grid(other))[:, :, :4].abs().max()
        assert (back == 0) if causal else (back > 1e-4)


def test_latents_are_means_and_are_drawn_in_training() -> None:
    model, pixels = tiny(), clip()
    moments, grid = model.moments(2 * pixels - 1)
    torch.testing.assert_close(model.encode(pixels).values, moments[..., :4])
    assert (model.train()(pixels)[0] - model(pixels)[0]).abs().max() > 1e-3
    assert grid == (2, 4, 4)


def test_the_divergence_is_a_mean_and_nothing_of_the_prior() -> None:
    model = tiny(kl=0.5)
    assert model.posterior(torch.zeros(1, 5, 8)).loss == 0
    moments = torch.randn(2, 5, 8)
    mean, log_variance = moments.chunk(2, -1)
    expected = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    torch.testing.assert_close(model.posterior(moments).loss, 0.5 * expected)


def test_without_a_posterior_codes_are_what_the_encoder_gives() -> None:
    model, pixels = tiny(variational=False).train(), clip()
    frames, latents = model(2 * pixels - 1)
    assert model.encoder_to_code.out_features == 4
    assert latents.loss == 0
    torch.testing.assert_close(frames, model(2 * pixels - 1)[0])


def test_every_parameter_learns_and_the_frozen_ones_do_not() -> None:
    model, pixels = tiny(rotary="2d_mixed", positions="learned", grid=(2, 4, 4)).train(), clip()

    def learning() -> set[str]:
        model.zero_grad(set_to_none=True)
        frames, latents = model(2 * pixels - 1)
        (frames.square().mean() + latents.loss).backward()
        return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}

    assert learning() == {name for name, _ in model.named_parameters()}
    model.freeze_encoder()
    decoding = ("decoder.", "decoder_places", "decoder_turns", "code_to_decoder", "restore")
    assert learning() == {name for name, _ in model.named_parameters() if name.startswith(decoding)}


def test_any_size_trains() -> None:
    model, pixels = tiny(), torch.rand(2, 3, 4, 9, 7)
    found = model.reconstruct(pixels)
    torch.testing.assert_close(found.pixels.clamp(0, 1), model.decode(model.encode(pixels)))
    (found.pixels.mean() + found.loss).backward()
    assert next(model.parameters()).grad is not None


def test_half_precision_runs() -> None:
    for changes in ({}, {"rotary": "2d_mixed", "positions": "learned", "grid": (2, 4, 4)}):
        model, pixels = tiny(**changes).bfloat16(), clip()
        tokens = model.encode(pixels)
        assert tokens.values.dtype == model.decode(tokens).dtype == torch.float32


def test_what_cannot_be_built_or_read_is_refused() -> None:
    for changes, refused in (
        ({"heads": 5}, "must divide"),
        ({"heads": 4, "rotary": "2d_axial"}, "multiples of 4"),
        ({"channels": 0}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=refused):
            tiny(**changes)
    with pytest.raises(ConfigError, match="tubelet_embed"):
        ViTok.from_official({"other": torch.ones(1)})
