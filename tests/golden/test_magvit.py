"""MAGVIT against the official modules: Open-MAGVIT2's networks and codes, and MAGVIT's masking rule."""

import pytest
import torch
from torch import Tensor

from smalti.generators.magvit_commit import MASK, condition, cosine_ratio, mask_tokens
from smalti.quantizers.lfq import LFQ, LFQConfig
from smalti.tokenizers.magvit import Magvit
from tests.golden.cases import Case, find, golden

EPSILON = 1e-5
VIDEO = [case for case in find("magvit") if "codebook_size" in case.config]
PICTURES = [case for case in find("magvit") if "ch" in case.config and case not in VIDEO]
COMMIT = [case for case in find("magvit") if "latent_shape" in case.config]


def build(case: Case) -> Magvit:
    about = case.config
    model = Magvit.from_official(case.weights, groups=about["groupnorm_groups"]).eval()
    told = model.config
    assert (told.channels, told.blocks, told.quantizer.bits) == (
        about["ch"],
        about["num_res_blocks"],
        about["z_channels"],
    )
    assert list(told.multipliers) == about["ch_mult"]
    return model


def signs(latents: Tensor) -> Tensor:
    return torch.where(latents > 0, 1.0, -1.0)


@pytest.mark.parametrize("case", VIDEO, ids=str)
def test_video_matches_the_official_module(case: Case) -> None:
    model = build(case)
    assert model.config.time_down == tuple(factor > 1 for factor in case.config["ch_mult"][:-1])
    video = case.inputs["video"]
    with torch.no_grad():
        latents = model.latents(video)
        case.check("z", latents)
        reconstruction, found = model(video)
        case.check("ids", found.ids[..., 0])
        case.check("quantized", found.values.movedim(-1, 1))
        case.check("rec", reconstruction)
        case.check("ids", model.encode_part(video / 2 + 0.5, {})[..., 0])
        case.check("rec", model.decode_part(found.ids, {}) * 2 - 1)


@pytest.mark.parametrize("case", VIDEO, ids=str)
def test_losses_of_the_codes_match(case: Case) -> None:
    bits = case.config["z_channels"]
    entropy = LFQ(LFQConfig(bits, entropy=1.0, epsilon=EPSILON, commitment=0.0)).train()
    commitment = LFQ(LFQConfig(bits, entropy=0.0, commitment=1.0)).train()
    latents = case.inputs["lfq_train"].movedim(1, -1)
    found = entropy(latents)
    case.check("lfq_ids", found.ids.flatten())
    case.check("lfq_entropy_loss", found.loss[None])
    case.check("lfq_per_sample_entropy", found.stats["sample_entropy"][None])
    case.check("lfq_codebook_entropy", found.stats["batch_entropy"][None])
    case.check("lfq_commit", commitment(latents).loss[None])


@pytest.mark.parametrize("case", PICTURES, ids=str)
def test_pictures_match_the_official_module(case: Case) -> None:
    model = build(case)
    assert not any(model.config.time_down)
    assert model.causal
    frames = torch.stack([case.inputs["image"], -case.inputs["image"]], 2)
    with torch.no_grad():
        latents = model.latents(frames)
        case.check("z", latents[:, :, 0])
        case.check("rec", model.decoder(signs(latents))[:, :, 0])


@golden("magvit", "*commit")
def test_conditions_and_masks_match(case: Case) -> None:
    video = case.inputs["video"].movedim(-1, 1)
    grid = tuple(case.config["latent_shape"])
    assert case.config["mask_token"] == MASK
    tasks = sorted({name.split(".")[0] for name in case.outputs if name.endswith(".latent_mask")})
    for task in tasks:
        given = condition(task, video, grid)
        case.check(f"{task}.latent_mask", given.region.expand(len(video), *grid))
        case.check(f"{task}.cond_video", given.pixels.movedim(1, -1))
        masked_at = [name for name in case.outputs if name.startswith(f"{task}.masked_r")]
        for name in masked_at:
            ratio = name.split("_r")[-1]
            masked = mask_tokens(
                case.inputs["tokens"],
                case.inputs["score"],
                torch.full((len(video),), float(ratio)),
                condition_tokens=case.inputs["cond_tokens"],
                region=given.region,
            )
            case.check(name, masked.tokens)
            case.check(f"{task}.segment_r{ratio}", masked.segments)
            case.check(f"{task}.weights_r{ratio}", masked.replaced.float())


@golden("magvit", "*commit")
def test_the_schedule_matches(case: Case) -> None:
    case.check("cosine_ratio", cosine_ratio(case.inputs["progress"]))
