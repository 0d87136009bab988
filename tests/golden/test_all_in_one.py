"""All in One against its official module: joint features, single passes, rolling."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from smalti.backbones.all_in_one import AllInOne
from smalti.nn.token_rolling import TokenRoll
from tests.golden.cases import Case, golden

KINDS = {"v0": "ends", "v2": "official-moving", "v3": "official-channels"}


@golden("all-in-one", "*joint*")
@torch.no_grad()
def test_matches_the_official_module(case: Case) -> None:
    about = case.config
    model = AllInOne.from_official(case.weights, heads=about["heads"]).eval()
    told = model.config
    assert (told.dim, told.depth, told.patch, told.size, told.frames, told.vocabulary) == tuple(
        about[name] for name in ("dim", "depth", "patch", "img_size", "frames", "vocab")
    )
    video = rearrange(case.inputs["video"], "b t c h w -> b c t h w")
    ids, mask = case.inputs["text_ids"], case.inputs["text_mask"].bool()
    joint = model.infer(video, ids, mask)
    case.check("text_feats", joint.text)
    case.check("image_feats", joint.video)
    case.check("cls_feats", joint.pooled)
    case.check("text_only_proj", model.text_projection(model.infer(None, ids, mask).text))
    case.check("video_only_proj", model.video_projection(model.infer(video).video))


@golden("all-in-one", "*roll*")
def test_rolling(case: Case) -> None:
    x = rearrange(case.inputs["x"], "(b t) n d -> b t n d", t=case.config["n_segment"])
    for name in case.outputs:
        _, version, layer = name.split("_")
        roll = TokenRoll(KINDS[version], case.config["n_div"])
        case.check(name, roll(x, int(layer.removeprefix("layer"))).flatten(0, 1))


@golden("all-in-one", "*roll*")
@pytest.mark.parametrize("kind", ["moving", "channels"])
def test_rolling_without_what_is_odd_in_the_official_code(case: Case, kind) -> None:
    x = rearrange(case.inputs["x"], "(b t) n d -> b t n d", t=case.config["n_segment"])
    roll = TokenRoll(kind, case.config["n_div"])
    if kind == "channels":
        wanted = case.outputs["roll_v3_layer0"].view_as(x)
        assert torch.equal(roll(x), wanted)  # of fewer channels than the share nothing moves in either
        return
    part, wanted = x.shape[2] // case.config["n_div"], case.outputs["roll_v2_layer1"].view_as(x).clone()
    wanted[:, :, 1 : 1 + part] = x[:, :, 1 : 1 + part]
    assert torch.equal(roll(x, 1), wanted)
