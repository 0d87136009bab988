"""ViTok against the authors' module: moments, divergence, reconstruction."""

import torch

from smalti.tokenizers.vitok import ViTok
from tests.golden.cases import Case, golden


def official(case: Case) -> ViTok:
    about = case.config
    side = about["img_size"] // about["patch_size"]
    return ViTok.from_official(
        case.weights,
        heads=about["num_heads"],
        rotary=about["rope_style"] if about["rope_theta"] else "none",
        rotary_base=about["rope_theta"],
        grid=(about["num_frames"] // about["tubelet_size"], side, side),
    ).eval()


@golden("vitok")
def test_matches_the_official_module(case: Case) -> None:
    model, clip = official(case), case.inputs["video"]
    with torch.no_grad():
        moments, grid = model.moments(clip)
        mean, log_variance = moments.chunk(2, -1)
        case.check("mean", mean)
        case.check("logvar", log_variance.clamp(-30, 20))
        case.check("rec_from_mean", model.rebuild(mean, grid))
        case.check("rec_from_mean", model(clip)[0])
        losses = torch.stack([model.posterior(each).loss for each in moments])
    case.check("kl", losses / model.config.kl)


@golden("vitok")
def test_sizes_are_read_from_the_checkpoint(case: Case) -> None:
    about, told = case.config, official(case).config
    assert (told.width, told.channels, told.positions) == (
        about["width"],
        about["code_width"],
        about["posemb"],
    )
    assert (told.tube, told.patch) == (about["tubelet_size"], about["patch_size"])
    assert (told.encoder_depth, told.decoder_depth) == (about["encoder_depth"], about["decoder_depth"])
