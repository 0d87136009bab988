"""TiTok against its official modules: both kinds of tokenizer, and MaskGIT's logits and draws."""

from __future__ import annotations

import re

import torch

from smalti.generators.titok import TiTokGenerator
from smalti.tokenizers.titok import TiTok
from tests.golden.cases import Case, golden


def heads_of(case: Case) -> tuple[int, int]:
    """The recorded sizes replace the official ones; heads are told in words alone."""
    sizes = dict(re.findall(r"(\w+): width \d+, \d+ layers, (\d+) heads", case.config["tiny_sizes"]))
    about = case.config["vq_model"]
    return int(sizes[about["vit_enc_model_size"]]), int(sizes[about["vit_dec_model_size"]])


def check_tokenizer(case: Case, cls: type) -> None:
    about = case.config["vq_model"]
    model = cls.from_official(case.weights, heads=heads_of(case)).eval()
    told = model.config
    assert (told.length, told.patch, told.size) == (
        about["num_latent_tokens"],
        about["vit_enc_patch_size"],
        case.config["crop_size"],
    )
    assert told.scrambled == about.get("is_legacy", True)
    assert (told.quantizer.codebook_size, told.quantizer.dim) == (about["codebook_size"], about["token_size"])
    assert (told.quantizer.normalize, told.quantizer.commitment) == (
        about["use_l2_norm"],
        about["commitment_cost"],
    )
    picture = case.inputs["image"]
    with torch.no_grad():
        case.check("z", model.encoder(picture).mT[:, :, None])
        out = model(picture)
        case.check("ids", out.quantized.ids.mT)
        case.check("zq", out.quantized.values.mT[:, :, None])
        case.check("quantizer_loss", out.quantized.loss[None])
        if out.logits is None:
            case.check("decoder_out", out.pixels)
        else:
            case.check("decoder_out", out.logits.movedim(-1, 1))
        case.check("recon", out.pixels)
        values = model.quantizer.lookup(case.outputs["ids"].mT)
        for name in case.outputs:
            if found := re.fullmatch(r"recon_len(\d+)", name):
                case.check(name, model.render(model.predict(values[:, : int(found[1])])))


@golden("titok", "case_*")
def test_tokenizers_match_the_official_module(case: Case) -> None:
    check_tokenizer(case, TiTok)


@golden("titok", "maskgit_*")
def test_the_generator_matches_the_official_module(case: Case) -> None:
    about = case.config
    classes = case.inputs["cond"]
    for name in ("constant", "linear", "power_cosine"):
        model = TiTokGenerator.from_official(
            case.weights,
            heads=about["heads"],
            steps=about["steps"],
            temperature=about["randomize_temperature"],
            guidance=about["guidance_scale"],
            power=about["guidance_scale_pow"],
            rise=name.replace("_", "-"),
        ).eval()
        told = model.config
        assert (told.codes, told.length, told.classes, told.depth) == (
            about["codebook"],
            about["seq_len"],
            about["classes"],
            about["layers"],
        )
        with torch.no_grad():
            case.check("logits_cond", model(case.inputs["ids"], classes))
            case.check("logits_uncond", model(case.inputs["ids"], torch.full_like(classes, model.null)))
        case.check(f"gen_{name}", model.sample(len(classes), classes).ids[..., 0])
