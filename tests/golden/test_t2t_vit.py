"""T2T-ViT against its official module: tokens of the three splits, class token, logits."""

import torch

from smalti.backbones.t2t_vit import T2TViT
from tests.golden.cases import Case, golden


@golden("t2t-vit")
def test_matches_the_official_module(case: Case) -> None:
    about = case.config
    model = T2TViT.from_official(
        case.weights, heads=about["num_heads"], qk_scale=about.get("qk_scale")
    ).eval()
    told = model.config
    assert (told.mixing, told.size, told.depth) == (about["tokens_type"], about["img_size"], about["depth"])
    assert (told.dim, told.token_dim, told.classes, told.mlp_ratio) == (
        about["embed_dim"],
        about["token_dim"],
        about["num_classes"],
        about["mlp_ratio"],
    )
    with torch.no_grad():
        case.check("tokens", model.tokens_to_token(case.inputs["image"])[0])
        features = model.encode(case.inputs["image"])
        case.check("cls", features.pooled)
        case.check("logits", model.head(features.pooled))


@golden("t2t-vit")
def test_sinusoids_are_the_official_ones(case: Case) -> None:
    model = T2TViT.from_official(case.weights, heads=case.config["num_heads"])
    torch.testing.assert_close(T2TViT(model.config).pos_embed, case.weights["pos_embed"])
