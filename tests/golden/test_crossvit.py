"""CrossViT against its official module: tokens after every multi-scale block, class tokens, logits."""

import torch

from smalti.backbones.crossvit import CrossViT
from tests.golden.cases import Case, golden

BRANCHES = ("s", "l")


@golden("crossvit")
def test_matches_the_official_module(case: Case) -> None:
    about = case.config
    model = CrossViT.from_official(
        case.weights,
        heads=tuple(about["num_heads"]),
        patches=tuple(about["patch_size"]),
        qk_scale=about.get("qk_scale"),
    ).eval()
    told = model.config
    assert told.sizes == tuple(about["img_size"])
    assert told.dims == tuple(about["embed_dim"])
    assert told.depths == tuple(map(tuple, about["depth"]))
    assert told.mlp_ratios == tuple(about["mlp_ratio"][:2])
    assert told.conv_stem == about.get("multi_conv", False)
    assert (told.qkv_bias, told.classes) == (about["qkv_bias"], about["num_classes"])
    image = case.inputs["image"]
    with torch.no_grad():
        x = model.embed(image).branches
        for number, block in enumerate(model.blocks):
            x = block(x)
            for name, tokens in zip(BRANCHES, x, strict=True):
                case.check(f"block{number}_{name}", tokens)
        pooled = model.encode(image).pooled
        for name, part in zip(BRANCHES, pooled.split(list(told.dims), -1), strict=True):
            case.check(f"cls_{name}", part)
        case.check("logits", model.logits(pooled))
