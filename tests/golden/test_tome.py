"""ToMe against its official functions and its patched timm model."""

from types import SimpleNamespace

import pytest
import torch

import smalti
from smalti.reducers import Assign, Context
from smalti.reducers.schedule import ramp
from smalti.reducers.tome import ToMe, ToMeConfig
from tests.golden.cases import Case, golden


def reduction(case: Case, weight: torch.Tensor | None = None) -> Assign:
    config = case.config
    protected = config["class_token"] + config["distill_token"]
    metric = case.inputs["metric"]
    reducer = ToMe()
    context = Context(keys=lambda: metric, mass=weight, protected=protected)
    found = reducer.reduce(case.inputs["x"], context, metric.shape[1] - config["r"])
    assert isinstance(found, Assign)
    return found


@golden("tome")
def test_merging(case: Case):
    x = case.inputs["x"]
    plain = reduction(case)
    case.check("merge_mean", plain.apply(x))
    case.check("merge_sum", plain.apply(x) * plain.mass[..., None])
    member = plain.source_map[:, None] == torch.arange(plain.count)[None, :, None]
    largest = x[:, None].masked_fill(~member[..., None], -torch.inf).amax(2)
    case.check("merge_amax", largest)
    case.check("source", member.float())
    weighted = reduction(case, case.inputs["size"].squeeze(-1))
    case.check("wavg_x", weighted.apply(x))
    case.check("wavg_size", weighted.mass[..., None])
    case.check("unmerge", weighted.restore(weighted.apply(x)))


@golden("tome")
def test_every_kth_token(case: Case):
    x, metric, k = case.inputs["x"], case.inputs["metric"], case.config["kth"]
    count = x.shape[1] // k
    found = ToMe(ToMeConfig(split="kth")).reduce(x, Context(keys=lambda: metric), count)
    case.check("kth_mean", found.apply(x))
    case.check("kth_unmerge", found.restore(found.apply(x))[:, : count * k])


@golden("tome")
def test_schedules(case: Case):
    case.check("r_schedule", torch.tensor(ramp(13, -1.0, 12)))
    case.check("r_schedule_up", torch.tensor(ramp(13, 0.5, 12)))


@golden("tome")
def test_a_patched_vision_transformer(case: Case):
    timm = pytest.importorskip("timm")
    vit, config = SimpleNamespace(**case.config["vit"]), case.config
    distilled = "dist_token" in case.weights
    models = timm.models
    build = (
        models.deit.VisionTransformerDistilled if distilled else models.vision_transformer.VisionTransformer
    )
    model = build(**vars(vit)).eval()
    model.load_state_dict(case.weights)
    image = case.inputs["image"]
    with torch.no_grad():
        case.check("vit_logits_r0", model(image))
        with smalti.reduce(model, "tome", r=config["vit_r"], proportional=config["prop_attn"]) as handle:
            case.check("vit_logits", model(image))
            case.check("vit_features", model.forward_features(image))
            case.check("vit_size", handle.reduction.mass[..., None])
            case.check("vit_source", (handle.reduction.matrix() > 0).float())
        case.check("vit_logits_r0", model(image))
