from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from smalti.errors import ConfigError
from smalti.quantizers.residual_fsq import ResidualFSQConfig
from smalti.training.objectives import MosaicObjective, MosaicOptions, NeighbourRate
from smalti.training.objectives.mosaic import first_look
from tests.tokenizers.tiny import tiny_mosaic


def objective(**options) -> MosaicObjective:
    return MosaicObjective(tiny_mosaic(), MosaicOptions(stage_weights=(3.0, 2.0, 1.0), **options))


def clips(frames: int = 9, batch: int = 4) -> Tensor:
    coarse = torch.rand(batch, 3, 2, 4, 4) * 0.4 + 0.3
    return torch.nn.functional.interpolate(coarse, (frames, 32, 32), mode="trilinear")


BATCH = {"pictures": clips(1), "clips": clips(9)}


class Made:
    """Batches of chosen media."""

    def __init__(self, *media: str) -> None:
        self.media = media or tuple(BATCH)

    def batch(self, step: int, seed: int = 0) -> dict[str, Tensor]:
        torch.manual_seed(1000 * seed + step)
        made = {"pictures": clips(1), "clips": clips(9)}
        return {name: made[name] for name in self.media}


def test_the_rate_of_laplacian_latents_is_their_entropy() -> None:
    rate = NeighbourRate(2)
    spread = torch.tensor([8.0, 2.0])[:, None, None]
    z = torch.distributions.Laplace(0, 1).sample((4, 2, 64, 64)) * spread
    rate.start_from(z)
    step = torch.full((4, 1, 1, 1), 0.25)
    bits = rate(z, torch.zeros_like(z), step).mean((0, 2, 3))
    entropy = torch.log2(2 * math.e * spread.flatten() / 0.25)
    torch.testing.assert_close(bits, entropy, rtol=0.05, atol=0)


def test_larger_steps_need_fewer_bits() -> None:
    rate = NeighbourRate(3)
    z = torch.randn(3, 3, 16, 16)
    rate.start_from(z)
    steps = torch.tensor([0.1, 1.0, 10.0])[:, None, None, None]
    bits = rate(z, torch.zeros_like(z), steps).mean((1, 2, 3))
    assert bits[0] > bits[1] + 2
    assert bits[1] > bits[2]


def test_a_latent_does_not_predict_itself() -> None:
    rate = NeighbourRate(2)
    torch.nn.init.normal_(rate.leave.weight)
    z = torch.randn(1, 2, 5, 5)
    rate(z, torch.zeros_like(z), torch.ones(1, 1, 1, 1)).sum().backward()
    assert not rate.around.weight.grad[..., 1, 1].any()
    assert rate.around.weight.grad[..., 0, 1].any()


def test_every_weight_learns_from_pictures_and_clips() -> None:
    model = objective()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    total = sum(model(BATCH).total for _ in range(12))
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name != "picture_rate.before.weight":  # nothing comes before a picture
            assert parameter.grad.any(), name


def test_parts_name_the_medium_the_measure_and_the_stage() -> None:
    loss = objective()(BATCH)
    assert loss.total.isfinite()
    found = {name for _ in range(9) for name in objective()(BATCH).parts}
    for medium in BATCH:
        for measure in ("bits", "structure", "psnr"):
            assert {f"{medium}/{measure}@{stage}" for stage in (1, 2, 3)} & found
    assert {name.split("/")[0] for name in found} == set(BATCH)
    assert all(not value.requires_grad for value in loss.parts.values())


def test_the_frames_of_training_are_the_frames_of_decoding() -> None:
    """One stage and nothing forgotten: the logged distortion is that of `decode(encode(pixels))`."""
    quantizer = ResidualFSQConfig(step=0.1, opened=(6,), limits=(40,), first_limit=60)
    tokenizer = tiny_mosaic(quantizer=quantizer, chunk=16)
    torch.nn.init.normal_(tokenizer.picture.to_pixels.weight, std=0.005)
    torch.nn.init.normal_(tokenizer.clip.to_pixels.weight, std=0.005)
    tokenizer.fit_linear(clips(1, 16), clips(9, 16)[:, :, 1:5])
    model = MosaicObjective(tokenizer, MosaicOptions(stage_weights=(1.0,), forget=0.0))
    pixels = clips(9)
    with torch.no_grad():
        logged = model({"clips": pixels}).parts["clips/psnr@1"]
        decoded = tokenizer.decode(tokenizer.encode(pixels))
    assert 0 < decoded.min() < decoded.max() < 1
    groups = (slice(0, 1), slice(1, 5), slice(5, 9))
    error = torch.stack([(decoded - pixels)[:, :, g].square().mean((1, 2, 3, 4)) for g in groups]).mean(0)
    torch.testing.assert_close(logged, (-10 * error.log10()).mean(), rtol=0, atol=1e-3)


def test_a_forgotten_past_does_not_matter() -> None:
    pixels = clips(5)
    changed = pixels.clone()
    changed[:, :, 0] = 1 - changed[:, :, 0]

    def seen_by_second_group(forget: float) -> list[Tensor]:
        model, pasts = objective(forget=forget), []
        synthesise = model.tokenizer.clip.synthesise
        model.tokenizer.clip.synthesise = lambda z, past, *rest: (
            pasts.append(past) or synthesise(z, past, *rest)
        )
        with torch.no_grad():
            for clip in (pixels, changed):
                torch.manual_seed(3)
                model({"clips": clip})
        return pasts

    one, other = seen_by_second_group(1.0)
    assert not one.any()
    assert not other.any()
    model = objective(forget=0.0)
    model.tokenizer.still.copy_(torch.arange(6))
    one, other = seen_by_second_group(0.0)
    assert one.shape == other.shape


def test_parameters_are_in_one_group_each_at_their_rate() -> None:
    model = objective(linear_rate=0.04)
    groups = {group["factor"]: group["params"] for group in model.parameter_groups()}
    assert groups.keys() == {1.0, 0.04, 4.0}
    listed = [parameter for group in groups.values() for parameter in group]
    assert len(listed) == len({id(p) for p in listed}) == len(list(model.parameters()))
    linear = (model.tokenizer.picture, model.tokenizer.clip)
    slow = {id(p) for path in linear for p in (path.mean, path.analysis, path.synthesis)}
    assert {id(p) for p in groups[0.04]} == slow
    assert {id(p) for p in groups[4.0]} == {
        id(p) for r in (model.picture_rate, model.clip_rate) for p in r.parameters()
    }


def test_training_lowers_the_loss() -> None:
    model = objective()
    torch.manual_seed(0)
    model.start(Made())
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for step in range(40):
        torch.manual_seed(step % 4)
        loss = model(BATCH).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


@pytest.mark.parametrize("medium", ["pictures", "clips"])
def test_one_medium_alone_is_enough(medium: str) -> None:
    assert objective()({medium: BATCH[medium]}).total.isfinite()


def test_principal_components_are_fitted_to_pictures_or_to_what_stands_for_them() -> None:
    pictures, groups = first_look(Made(), batches=3)
    assert pictures.shape == (12, 3, 1, 32, 32)
    assert groups.shape == (12, 3, 4, 32, 32)
    seen = [Made().batch(step, 99) for step in range(3)]
    assert torch.equal(groups[4:8], seen[1]["clips"][:, :, 1:5])
    pictures, groups = first_look(Made("clips"), batches=3)
    assert torch.equal(pictures, groups[:, :, :1])
    pictures, groups = first_look(Made("pictures"), batches=3)
    assert torch.equal(groups, pictures.repeat(1, 1, 4, 1, 1))


def test_given_weights_are_kept_and_only_the_rates_start_anew() -> None:
    model = objective()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.start(Made(), fresh=False)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"picture_rate.spread", "clip_rate.spread"}
    model.start(Made(), fresh=True)
    assert not torch.equal(model.tokenizer.picture.analysis, before["tokenizer.picture.analysis"])


def test_samples_are_originals_beside_what_decodes() -> None:
    model = objective().eval()
    rows = model.samples(BATCH)
    assert rows.shape == (8, 2, 3, 32, 32)
    for part, name in ((slice(0, 4), "pictures"), (slice(4, 8), "clips")):
        decoded = model.tokenizer.decode(model.tokenizer.encode(BATCH[name]))
        assert torch.equal(rows[part, 0], BATCH[name][:, :, -1])
        torch.testing.assert_close(rows[part, 1], decoded[:, :, -1])


def test_every_stage_needs_its_weight() -> None:
    with pytest.raises(ConfigError, match="2 weights for 3 stages"):
        MosaicObjective(tiny_mosaic(), MosaicOptions(stage_weights=(1.0, 2.0)))


def test_checkpoints_hold_the_tokenizer_and_the_two_rates() -> None:
    names = {name.split(".")[0] for name in objective().state_dict()}
    assert names == {"tokenizer", "picture_rate", "clip_rate"}


def test_a_checkpoint_with_a_context_model_of_another_form_is_loaded() -> None:
    model, other = objective(), objective()
    state = model.state_dict()
    state["tokenizer.context.older"] = torch.zeros(3)
    state["tokenizer.context.tails"] = torch.zeros(2, 2)
    state["picture_rate.spread"] = torch.full((6,), 7.0)
    other.tokenizer.context.tails.fill_(5)
    other.load_state_dict(state)
    assert (other.tokenizer.context.tails == 5).all()
    assert (other.picture_rate.spread == 7).all()
    with pytest.raises(RuntimeError, match="Unexpected"):
        other.load_state_dict({**state, "picture_rate.older": torch.zeros(1)})
