"""EcoFormer against its official attention, hash learning and PVTv2."""

from __future__ import annotations

import torch

from smalti.backbones.ecoformer import EcoFormer, rename_official
from smalti.backbones.ecoformer_blocks import EcoFormerAttention, Hashing
from smalti.nn.kernel_hash import KernelHash, Likeness
from smalti.nn.strict_loading import load_strictly
from tests.golden.cases import Case, golden


@golden("ecoformer", "*attention*")
@torch.no_grad()
def test_attention_and_its_codes(case: Case) -> None:
    about, x = case.config, case.inputs["x"]
    model = EcoFormerAttention(
        about["dim"], about["num_heads"], Hashing(bits=about["nbits"], anchors=about["m"])
    ).eval()
    load_strictly(model, rename_official(case.weights) | {"age": torch.tensor(0)})
    case.check("codes", model.codes(x))
    case.check("y", model(x, (1, x.shape[1])))


@golden("ecoformer", "*hashlearn*")
def test_the_hash_is_learned(case: Case) -> None:
    about, inputs = case.config, case.inputs
    qk = inputs["qk"]
    model = KernelHash(
        qk.shape[1],
        qk.shape[3],
        about["nbits"],
        about["m"],
        about["topk"],
        about["sgd_lr"],
        about["momentum"],
        about["iterations"],
    )
    likeness = Likeness(qk, about["topk"], about["nbits"])
    pairs = torch.zeros_like(case.outputs["S"])
    case.check("S", pairs.scatter(-1, likeness.near, 1.0).scatter(-1, likeness.far, -1.0))
    model.projection.copy_(inputs["A_init"])
    model.fit(qk, inputs["anchor"])
    case.check("A", model.projection)
    case.check("mvec", model.mean)
    assert (model(qk) == case.outputs["codes"]).float().mean() >= 0.99


@golden("ecoformer", "*pvtv2*")
@torch.no_grad()
def test_the_backbone(case: Case) -> None:
    about = case.config
    model = EcoFormer.from_official(case.weights, heads=tuple(about["num_heads"]), eps=about["norm_eps"])
    config = model.eval().config
    read = (config.dims, config.ratios, config.depths, config.hashing.bits, config.hashing.anchors)
    told = (tuple(about[name]) for name in ("embed_dims", "mlp_ratios", "depths"))
    assert read == (*told, about["nbits"], about["m"])
    features = model.look(case.inputs["image"])
    case.check("features", features.pooled)
    case.check("logits", model.classify(features))
