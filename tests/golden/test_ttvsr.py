"""TTVSR against its official modules: trajectory attention, the whole network by given flows, SPyNet."""

import torch
from einops import rearrange
from torch.nn import functional as F

from smalti.backbones.ttvsr import TTVSR, Flows, rename_official
from smalti.nn.pyramid_flow import SPyNet
from smalti.nn.trajectories import KeyFrames, TrajectoryAttention, nearest_places
from tests.golden.cases import Case, golden


@golden("ttvsr", "*ltam*")
def test_trajectory_attention(case: Case) -> None:
    about, given = case.config, case.inputs
    attention = TrajectoryAttention(about["channels"], about["stride"])
    attention.load_state_dict({k.replace("fusion.", "fuse."): v for k, v in case.weights.items()})
    keys, *values = (
        rearrange(given[name], "b k d y x -> b k (y x) d")
        for name in ("key_tokens", "value_s1", "value_s2", "value_s3")
    )
    assert keys.shape[1] == about["keyframes"]
    frames = KeyFrames(F.normalize(keys, dim=-1), tuple(values))
    location = rearrange(given["location"], "b (k two) y x -> b k two y x", two=2)
    with torch.no_grad():
        case.check("y", attention(given["curr_feat"], given["anchor_feat"], frames, nearest_places(location)))


@golden("ttvsr", "*_net")
def test_the_network_by_given_flows(case: Case) -> None:
    about, given = case.config, case.inputs
    model = TTVSR.from_official(case.weights, stride=about["stride"], keyframe_stride=about["frame_stride"])
    model.eval()
    assert (model.config.channels, model.config.blocks) == (about["mid_channels"], about["num_blocks"])
    clip = rearrange(given["lrs"], "b t c h w -> b c t h w")
    flows = Flows(given["flows_forward"], given["flows_backward"])
    with torch.no_grad():
        case.check("sr", rearrange(model.restore(clip, flows), "b c t h w -> b t c h w"))


def by_formula(network: SPyNet) -> dict[str, torch.Tensor]:
    """The weights that the case describes, under the official names."""
    state, number = {}, 0
    for level, correction in enumerate(network.levels):
        for layer, conv in enumerate(correction[::2]):
            for kind in ("weight", "bias"):
                shape = getattr(conv, kind).shape
                places = torch.arange(shape.numel(), dtype=torch.float64)
                scale = 1.4 / (conv.in_channels * 49) ** 0.5 if kind == "weight" else 0.05
                values = torch.sin(places * (0.7 + 0.01 * number) + 0.3 * number) * scale
                name = f"basic_module.{level}.basic_module.{layer}.conv.{kind}"
                state[name] = values.float().view(shape)
                number += 1
    return state


@golden("ttvsr", "*spynet")
def test_optical_flow(case: Case) -> None:
    network = SPyNet().eval()
    network.load_state_dict(rename_official(by_formula(network)))
    with torch.no_grad():
        case.check("flow", network(case.inputs["ref"], case.inputs["supp"]))
