"""UniFormerV2 against its official module: tokens of every block, the query, logits."""

import torch
from einops import rearrange

from smalti.backbones.uniformerv2 import UniFormerV2
from tests.golden.cases import Case, golden


@golden("uniformerv2")
def test_matches_the_official_module(case: Case) -> None:
    about = case.config
    model = UniFormerV2.from_official(
        {f"backbone.{name}": tensor for name, tensor in case.weights.items()},
        heads=about["heads"],
        reader_heads=about["n_head"],
        read_layers=tuple(about["return_list"]),
        reader_dropout=about["mlp_dropout"][0],
    ).eval()
    told = model.config
    assert (told.width, told.depth, told.patch) == (about["width"], about["layers"], about["patch_size"])
    assert (told.resolution, told.classes) == (about["input_resolution"], about["num_classes"])
    assert told.temporal_downsample == about["temporal_downsample"]
    assert told.local == (0 if about["no_lmhra"] else 1 + about["double_lmhra"])
    assert told.local_reduction == about.get("dw_reduction", 1.5)
    assert told.reader_mlp_ratio == about["mlp_factor"]
    assert told.frozen == about.get("frozen", False)
    video, read = case.inputs["video"], 0
    with torch.no_grad():
        for number, step in enumerate(model.steps(video)):
            case.check(f"resblock{number}", rearrange(step.tokens, "b t n d -> n (b t) d"))
            if number in about["return_list"]:
                case.check(f"query{read}", rearrange(step.query, "b one d -> one b d"))
                read += 1
        case.check("logits", model.logits(model.encode(video).pooled))
    assert read == about["n_layers"]


@golden("uniformerv2")
def test_a_head_keeps_the_classes_that_are_asked_for(case: Case) -> None:
    heads = {"heads": case.config["heads"], "reader_heads": case.config["n_head"]}
    layers = tuple(case.config["return_list"])
    model = UniFormerV2.from_official(case.weights, **heads, read_layers=layers, labels=[2, 0]).eval()
    assert model.config.classes == 2
    with torch.no_grad():
        logits = model.logits(model.encode(case.inputs["video"]).pooled)
    torch.testing.assert_close(
        logits, case.outputs["logits"][:, [2, 0]], atol=case.tolerance, rtol=case.tolerance
    )
