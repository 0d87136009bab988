"""LARP against its official modules: tokenizer, prior and generator."""

import pytest
import torch

from smalti.errors import ConfigError
from smalti.generators.larp import LARPGenerator
from smalti.tokenizers.larp import LARP
from smalti.tokenizers.larp_prior import LARPPrior
from tests.golden.cases import Case, find, golden


def tokenizer_cases(pattern: str):
    """Cases of the tokenizer have a video; those of prior and generator have not."""
    cases = [case for case in find("larp", pattern) if "prior" not in str(case)]
    return pytest.mark.parametrize("case", [pytest.param(case, id=str(case)) for case in cases])


def load(case: Case) -> LARP:
    about = case.config
    return LARP.from_official(case.weights, heads=about["heads"], frames=about["frame_num"]).eval()


@tokenizer_cases("*")
@torch.no_grad()
def test_the_tokenizer_matches_the_official_module(case: Case) -> None:
    model, about, video = load(case), case.config, case.inputs["video"]
    assert (model.config.size, model.config.tokens) == (about["input_size"], about["bottleneck_token_num"])
    assert model.config.encoder_depth == model.config.decoder_depth == about["depth"]
    case.check("patch_tokens", model.patches(video).flatten(2).mT + model.places)
    found = model.read(video)
    case.check("query_out", found)
    quantized = model.quantize(found)
    case.check("ids", quantized.ids[..., 0])
    case.check("regularized_z", quantized.values)
    case.check("encoded", model.leave(quantized.values))
    case.check("loss_q", quantized.loss[None])
    case.check("rec", model.write(quantized.values))


@tokenizer_cases("*")
def test_other_places_or_names_are_refused(case: Case) -> None:
    about, state = case.config, dict(case.weights)
    state["encoder_patch_pe"] = state["encoder_patch_pe"] + 0.1
    with pytest.raises(ConfigError, match="encoder_patch_pe is not"):
        LARP.from_official(state, heads=about["heads"], frames=about["frame_num"])
    del state["bottleneck.regularizer.embedding.weight"]
    with pytest.raises(ConfigError, match="has no"):
        LARP.from_official(state)


@golden("larp", "*prior*")
@torch.no_grad()
def test_the_prior_matches_the_official_module(case: Case) -> None:
    weights = {k.removeprefix("prior."): t for k, t in case.weights.items() if k.startswith("prior.")}
    prior = LARPPrior.from_official(weights, heads=case.config["prior"]["n_head"]).eval()
    case.check("prior_pred", prior.predict(case.inputs["prior_v"]))
    case.check("prior_logits", prior.logits(case.inputs["prior_v"], case.inputs["codebook_l2"]))


@golden("larp", "*prior*")
@torch.no_grad()
def test_the_generator_matches_the_official_module(case: Case) -> None:
    about = case.config["ar"]
    weights = {k.removeprefix("ar."): t for k, t in case.weights.items() if k.startswith("ar.")}
    model = LARPGenerator.from_official(weights, heads=about["n_head"], multiple=about["multiple_of"]).eval()
    assert (model.config.length, model.config.classes) == (about["max_seq_len"], about["num_classes"])
    case.check("ar_logits", model(case.inputs["ar_class"], case.inputs["ar_ids"][:, :-1]))
