"""FlexTok's encoder, rounding and decoder against the official modules."""

import pytest
import torch
from einops import rearrange

from smalti.nn.flow_sampling import ProjectedGuidance, classifier_free
from smalti.tokenizers.flextok_blocks import grid_places
from smalti.tokenizers.flextok_resampler import FlexTokResampler
from tests.golden.cases import Case, golden

CLOSE_SAMPLES = 1e-3  # the case's own words: "samples 1e-3"


def load(case: Case) -> FlexTokResampler:
    about = case.config
    given = {"levels": tuple(about["levels"]), "grid": tuple(about["grid"])}
    model = FlexTokResampler.from_official(
        case.weights, patch=about["patch"], head_dim=about["head_dim"], **given
    )
    return model.eval()


def first(maps: torch.Tensor) -> torch.Tensor:
    """Channels first, as our latents have them."""
    return rearrange(maps, "b h w c -> b c h w")


def last(maps: torch.Tensor) -> torch.Tensor:
    return rearrange(maps, "b c h w -> b h w c")


@golden("flextok")
def test_places_are_the_official_ones(case: Case) -> None:
    rows, columns = case.config["grid"]
    for part, dim in (("enc", "dim_enc"), ("dec", "dim_dec")):
        places = grid_places(rows, columns, case.config[dim])
        case.check(f"{part}_posemb", rearrange(places, "(h w) d -> 1 d h w", h=rows))


@golden("flextok")
@torch.no_grad()
def test_the_encoder_matches_the_official_module(case: Case) -> None:
    model = load(case)
    found = model.read(first(case.inputs["latents"]))
    case.check("z", found)
    quantized = model.quantizer(found)
    case.check("quant", quantized.values)
    case.check("ids", quantized.ids[..., 0])
    codes = torch.arange(len(case.outputs["first_codes"]))
    case.check("first_codes", model.quantizer.lookup(codes[:, None]))


@golden("flextok")
@torch.no_grad()
def test_the_decoder_matches_the_official_module(case: Case) -> None:
    model, inputs = load(case), case.inputs
    noise, values, count = first(inputs["noise"]), case.outputs["quant"], len(inputs["noise"])
    everything = torch.ones(count, dtype=torch.bool)
    conditions = {
        "velocity": model.condition(values),
        "velocity_keep_k": model.condition(values, inputs["keep_k"]),
        "velocity_null": model.condition(values, None, everything),
    }
    for name, registers in conditions.items():
        case.check(name, last(model.velocity(noise, inputs["t"], registers)[0]))


@golden("flextok")
@pytest.mark.parametrize("kind", ["cfg", "apg"])
def test_samples_match_the_official_pipeline(case: Case, kind: str) -> None:
    model, about = load(case), case.config
    guide = (classifier_free if kind == "cfg" else ProjectedGuidance)(about["guidance"])
    noise, kept = first(case.inputs["noise"]), case.inputs["keep_k"]
    found = model.sample(case.outputs["quant"], noise, about["steps"], guide, kept)
    case.check(f"sample_{kind}", last(found), CLOSE_SAMPLES)
