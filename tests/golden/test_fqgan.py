"""FQGAN against its official modules: tokenizers of two and three codebooks, their losses, and FAR."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from smalti.generators.fqgan import FAR
from smalti.quantizers.grouped import disentanglement
from smalti.quantizers.vq import VectorQuantizer
from smalti.tokenizers.fqgan import BRANCHES, FQGAN
from tests.golden.cases import Case, golden


def rows(maps: Tensor) -> Tensor:
    """[b d h w] → [n d]."""
    return maps.movedim(1, -1).flatten(0, -2)


@golden("fqgan")
def test_tokenizers_match_the_official_module(case: Case) -> None:
    if "VQModel" not in case.about["module"]:
        pytest.skip("no tokenizer in this case")
    about = case.config
    model = FQGAN.from_official(
        case.weights, head_heads=about["adapter_heads"], groups=about["groupnorm_groups"]
    ).eval()
    told = model.config
    assert (told.channels, told.multiples, told.blocks, told.latent, told.size, told.head_depth) == (
        about["ch"],
        tuple(about["ch_mult"]),
        about["num_res_blocks"],
        about["z_channels"],
        about["image"],
        about["adapter_layers"],
    )
    branches = BRANCHES[told.quantizer.groups]
    assert f"quant_{branches[-1]}" in case.outputs
    with torch.no_grad():
        out = model(case.inputs["image"])
    parts = out.quantized.values.chunk(len(branches), -1)
    for number, branch in enumerate(branches):
        case.check(f"ids_{branch}", out.quantized.ids[..., number].flatten())
        case.check(f"quant_{branch}", parts[number].movedim(-1, 1))
    case.check("rec", out.pixels)


@golden("fqgan")
def test_losses_match_the_official_ones(case: Case) -> None:
    if "vq_z" not in case.inputs:
        pytest.skip("no losses in this case")
    codebook = case.inputs["vq_codebook"]
    config = FQGAN.from_official(
        case.weights, head_heads=case.config["adapter_heads"], groups=case.config["groupnorm_groups"]
    ).config.quantizer
    quantizer = VectorQuantizer(config.of).train()
    quantizer.codebook.data.copy_(codebook)
    out = quantizer(rows(case.inputs["vq_z"]))
    case.check("vq_ids", out.ids[:, 0])
    entropy = out.stats["sample_entropy"] - out.stats["batch_entropy"]
    sheet = {name: float(found[0]) for name in case.outputs if (found := re.findall(r"[\d.]+$", name))}
    weights = {name.rstrip(".0123456789"): (name, weight) for name, weight in sheet.items()}
    name, weight = weights["entropy_loss_ratio"]
    case.check(name, weight * entropy[None])
    name, beta = weights["commit_loss_beta"]
    own = (out.loss.detach() - config.of.entropy * entropy)[None]
    case.check("vq_loss", own / (1 + config.of.commitment))
    case.check(name, own * beta / (1 + config.of.commitment))
    name, weight = weights["disentangle_loss_ratio"]
    pair = [rows(case.inputs[f"dis_{which}"]) for which in "ab"]
    case.check(name, weight * disentanglement(pair)[None])


@golden("fqgan", "*far*")
def test_the_generator_matches_the_official_module(case: Case) -> None:
    about = case.config
    model = FAR.from_official(
        case.weights, heads=about["n_head"], side=round(about["block_size"] ** 0.5)
    ).eval()
    told = model.config
    assert (told.dim, told.depth, told.head_depth, told.classes, told.codes) == (
        about["dim"],
        about["n_layer"],
        about["ar_n_layer"],
        about["num_classes"],
        about["vocab_size"],
    )
    ids = torch.stack([case.inputs[f"ids_{n + 1}"] for n in range(told.codebooks)], -1)
    with torch.no_grad():
        logits = model(ids, case.inputs["class"])
        for number in range(told.codebooks):
            case.check(f"logits_{number + 1}", logits[:, :, number])
        case.check("loss", model.loss(ids, case.inputs["class"], drop=0.0)[None])
