"""CDT against its official module: latents, conditions, one step and two, whole and in parts."""

import pytest
import torch
from torch import Tensor

from smalti.nn.causal_conv import State
from smalti.tokenizers.cdt import CDT
from tests.golden.cases import Case, golden


def build(case: Case, **changes) -> CDT:
    about = case.config
    model = CDT.from_official(
        case.weights,
        pad={"constant": "zeros", "replicate": "repeat"}[about["pad_mode"]],
        enlarge="nearest" if about["new_upsample"] else "transposed",
        timesteps=about["num_timesteps"],
        **changes,
    ).eval()
    told = model.config
    assert [int(flag) for flag in told.space_down] == about["space_down"]
    assert [int(flag) for flag in told.time_down] == about["time_down"]
    assert list(told.multipliers) == about["context_dim_mults"]
    assert list(told.unet_multipliers) == about["unet_mults"]
    assert (told.finest, told.quantizer.dim) == (about["out_channels"], about["latent_dim"])
    assert (told.width, told.unet_width) == (about["context_dim"], about["unet_dim"])
    return model


def latents(case: Case) -> Tensor:
    return case.outputs["latent_mean"]


@golden("cdt")
@torch.no_grad()
def test_the_encoder_matches(case: Case) -> None:
    model, video = build(case), case.inputs["video"]
    mean, log_variance = model.encoder(video).chunk(2, 1)
    case.check("posterior_mean", mean)
    case.check("posterior_logvar", log_variance.clamp(-30, 20))
    case.check("latent_mean", model.posterior(video).values.movedim(-1, 1))
    state: State = {}
    parts = [model.posterior(part, state).values for part in video.split([1, 4, 4], 2)]
    case.check("latent_chunked_1_4_4", torch.cat(parts, 1).movedim(-1, 1))


@golden("cdt")
@torch.no_grad()
def test_conditions_and_the_whole_clip_match(case: Case) -> None:
    model, noise = build(case), case.inputs["noise_times_gamma"]
    context = model.context(latents(case))
    for number, condition in enumerate(context):
        case.check(f"context_{number}", condition)
    case.check("rec_1step", model.denoise(noise, context, steps=1))
    case.check("rec_2step", model.denoise(noise, context, steps=2))


@golden("cdt")
@pytest.mark.parametrize("steps", [1, 2])
@torch.no_grad()
def test_parts_match_the_official_whole(case: Case, steps: int) -> None:
    case.check(f"rec_{steps}step", in_chunks(build(case), case, steps))


@golden("cdt")
@torch.no_grad()
def test_parts_match_the_official_parts_with_their_forgetting(case: Case) -> None:
    case.check("rec_1step_chunked", in_chunks(build(case, forget_last=True), case, steps=1))


def in_chunks(model: CDT, case: Case, steps: int) -> Tensor:
    noise, state, frames = case.inputs["noise_times_gamma"], {}, 0
    out = []
    for part in latents(case).split(1, 2):
        context = model.context(part, state)
        more = context[0].shape[2]
        out.append(model.denoise(noise[:, :, frames : frames + more], context, state, steps))
        frames += more
    return torch.cat(out, 2)
