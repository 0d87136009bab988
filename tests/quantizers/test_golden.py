"""The quantizers of official tokenizers, from the cases recorded of whole tokenizers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smalti.quantizers import LFQ, DualConfig, Multiscale, VectorQuantizer
from smalti.quantizers.grouped import disentanglement
from tests.golden.cases import Case, golden


def rows(map_: Tensor) -> Tensor:
    """[b d …] → [n d]."""
    return map_.movedim(1, -1).flatten(0, -2)


@golden("magvit")
def test_lookup_free_codes_and_entropies(case: Case) -> None:
    if "lfq_train" not in case.inputs:
        pytest.skip("no quantizer in training in this case")
    z = rows(case.inputs["lfq_train"])
    out = LFQ(bits=z.shape[1], epsilon=1e-5, entropy=1.0, commitment=0.0).train()(z)
    case.check("lfq_ids", out.ids[:, 0])
    case.check("lfq_per_sample_entropy", out.stats["sample_entropy"][None])
    case.check("lfq_codebook_entropy", out.stats["batch_entropy"][None])
    case.check("lfq_entropy_loss", out.loss[None])
    case.check("lfq_commit", LFQ(bits=z.shape[1], commitment=1.0).eval()(z).loss[None])


@golden("fqgan")
def test_factorized_codes_and_losses(case: Case) -> None:
    if "vq_z" not in case.inputs:
        pytest.skip("no quantizer in this case")
    z, codebook = rows(case.inputs["vq_z"]), case.inputs["vq_codebook"]
    options = {"codebook_size": len(codebook), "dim": z.shape[1], "learn": "gradient", "normalize": True}
    quantizer = VectorQuantizer(**options, entropy=0.03, entropy_epsilon=1e-5).train()
    quantizer.codebook.data.copy_(codebook)
    out = quantizer(z)
    case.check("vq_ids", out.ids[:, 0])
    entropy = 0.03 * (out.stats["sample_entropy"] - out.stats["batch_entropy"])
    case.check("entropy_loss_ratio.03", entropy[None])
    case.check("vq_loss", (out.loss.detach() - entropy)[None] / 1.25)
    pair = [rows(case.inputs[f"dis_{name}"]) for name in "ab"]
    case.check("disentangle_loss_ratio0.1", 0.1 * disentanglement(pair)[None])


@golden("titok")
def test_normalized_codes_and_loss(case: Case) -> None:
    codebook = case.weights.get("quantize.embedding.weight")
    if codebook is None or "zq" not in case.outputs or not case.config["vq_model"].get("use_l2_norm"):
        pytest.skip("no quantizer of this kind in this case")
    options = {"codebook_size": len(codebook), "dim": codebook.shape[1], "learn": "gradient"}
    quantizer = VectorQuantizer(**options, normalize=True).eval()
    quantizer.codebook.data.copy_(codebook)
    out = quantizer(case.outputs["z"].movedim(1, -1))
    case.check("ids", out.ids[..., 0])
    case.check("zq", out.values.movedim(-1, 1))
    case.check("quantizer_loss", out.loss[None])


@golden("tokenflow")
def test_two_codebooks_over_scales(case: Case) -> None:
    semantic, pixel = (case.weights[f"quantize.embedding_{kind}.weight"] for kind in ("vqkd", "vqgan"))
    of = DualConfig(len(semantic), semantic.shape[1], pixel.shape[1])
    grid = case.outputs["quant_sum"].shape[-1]
    scales = tuple((side, side) for side in case.config["scales"])
    quantizer = Multiscale(of=of, scales=scales).eval()
    quantizer.quantizer.semantic.data.copy_(semantic)
    quantizer.quantizer.pixel.data.copy_(pixel)
    parts = [case.outputs["semantic_z"].unflatten(1, (grid, grid)), case.outputs["pixel_z"].movedim(1, -1)]
    out = quantizer(torch.cat(parts, -1))
    case.check("ids", out.ids[..., 0])
    case.check("quant_sum", out.values.movedim(-1, 1))
    case.check("quant_sum", quantizer.lookup(case.outputs["ids"].long()[..., None]).movedim(-1, 1))
