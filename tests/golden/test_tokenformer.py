"""TokenFormer against its official Pattention and layer."""

from __future__ import annotations

import torch

from smalti.backbones.tokenformer import rename_official
from smalti.backbones.tokenformer_block import TokenBlock, TokenFormerConfig, Words
from smalti.nn.strict_loading import load_strictly
from smalti.nn.token_parameters import Pattention
from tests.golden.cases import Case, golden


@golden("tokenformer", "*pattention*")
@torch.no_grad()
def test_pattention(case: Case) -> None:
    model = Pattention(*(case.config[name] for name in ("d_in", "d_out", "n", "norm")))
    load_strictly(model, rename_official(case.weights))
    case.check("y", model(case.inputs["x"]))
    case.check("y_masked", model(case.inputs["x"], case.inputs["mask"].bool()))


@golden("tokenformer", "*layer*")
@torch.no_grad()
def test_a_layer_of_the_language_model(case: Case) -> None:
    about = case.config
    config = TokenFormerConfig(
        about["hidden"],
        heads=about["heads"],
        tokens=(about["n_qkv"], about["n_proj"], about["n_ffn"]),
        norm=about["theta"],
        pictures=None,
        words=Words(rotary=about["rotary_pct"]),
    )
    block = TokenBlock(config).eval()
    load_strictly(block, rename_official(case.weights))
    x = case.inputs["x"].transpose(0, 1)
    query = block.query(torch.nn.functional.layer_norm(x, x.shape[-1:], eps=block.eps))
    case.check("query", query.transpose(0, 1))
    case.check("y", block(x).transpose(0, 1))
