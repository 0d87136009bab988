"""SwinBERT against its official Video Swin and captioner."""

from __future__ import annotations

import torch

from smalti.backbones.swinbert import SwinBERT
from smalti.nn.sparse_attention_mask import BLOCKED
from smalti.nn.strict_loading import load_strictly
from smalti.nn.video_swin import VideoSwin, VideoSwinConfig
from smalti.nn.video_swin_official import rename_video_swin, video_swin_config
from tests.golden.cases import Case, golden

VIDEO, CAPTIONER = "*videoswin*", "*captioner*"


def configured(about: dict) -> VideoSwinConfig:
    return VideoSwinConfig(
        dim=about["embed_dim"],
        depths=tuple(about["depths"]),
        heads=tuple(about["num_heads"]),
        window=tuple(about["window_size"]),
        patch=tuple(about["patch_size"]),
        time_stride=about["patch_size"][0],
        mlp_ratio=float(about.get("mlp_ratio", 4)),
        qkv_bias=about.get("qkv_bias", True),
        patch_norm=about["patch_norm"],
    )


def captioner(case: Case) -> SwinBERT:
    about = case.config
    return SwinBERT.from_official(
        case.weights,
        heads=about["bert"]["heads"],
        window=about["swin"]["window_size"],
        hard=about["soft2hard"],
    ).eval()


@golden("swinbert", VIDEO)
@torch.no_grad()
def test_every_stage_of_the_video_encoder(case: Case) -> None:
    encoder = VideoSwin(configured(case.config)).eval()
    load_strictly(encoder, rename_video_swin(case.weights))
    maps = encoder.embed(case.inputs["video"])
    for number, stage in enumerate(encoder.stages):
        maps = stage(maps)
        case.check(f"stage{number}", maps.movedim(-1, 1))
    case.check("out", encoder.norm(maps).movedim(-1, 1))
    case.check("out", encoder(case.inputs["video"]).movedim(-1, 1))
    case.check("out", encoder.pyramid(case.inputs["video"])[-1].movedim(-1, 1))


@golden("swinbert", VIDEO)
def test_sizes_of_the_video_encoder_are_read_off_its_weights(case: Case) -> None:
    found = video_swin_config(rename_video_swin(case.weights), case.config["window_size"])
    assert found == configured(case.config)


@golden("swinbert", CAPTIONER)
@torch.no_grad()
def test_logits_of_a_caption(case: Case) -> None:
    model = captioner(case)
    video = case.inputs["frames"].movedim(2, 1)
    case.check("logits", model.read(video, case.inputs["input_ids"]))


@golden("swinbert", CAPTIONER)
@torch.no_grad()
def test_the_mask_and_its_loss(case: Case) -> None:
    model, about = captioner(case), case.config
    assert model.mask is not None
    assert len(model.mask) == about["M"]
    case.check("loss_sparsity", model.mask.loss().view(1))
    seen = 1 - model.attention_bias(about["M"], about["L"])[0, 0] / BLOCKED
    torch.testing.assert_close(seen[about["L"] :, about["L"] :], model.mask.entries())
    seen[about["L"] :, about["L"] :] = 1
    for before in case.inputs["attention_mask_before"]:
        assert torch.equal(seen, before)


@golden("swinbert", CAPTIONER)
def test_sizes_of_the_captioner_are_read_off_its_weights(case: Case) -> None:
    config, about = captioner(case).config, case.config["bert"]
    text = config.text
    assert (text.vocabulary, text.dim, text.depth, text.hidden, text.positions) == (
        about["vocab"],
        about["hidden"],
        about["layers"],
        about["intermediate"],
        about["max_pos"],
    )
    assert config.features == about["img_feature_dim"]
    swin = configured(case.config["swin"])
    assert config.video == swin
