"""VIOLET against its official Video Swin, which keeps all frames."""

from __future__ import annotations

import torch

from smalti.nn.strict_loading import load_strictly
from smalti.nn.video_swin import VideoSwin, VideoSwinConfig
from smalti.nn.video_swin_official import rename_video_swin, video_swin_config
from tests.golden.cases import Case, golden


def configured(about: dict) -> VideoSwinConfig:
    return VideoSwinConfig(
        dim=about["embed_dim"],
        depths=tuple(about["depths"]),
        heads=tuple(about["num_heads"]),
        window=tuple(about["window_size"]),
        patch=tuple(about["patch_size"]),
        time_stride=1,
    )


@golden("violet")
@torch.no_grad()
def test_the_video_encoder(case: Case) -> None:
    encoder = VideoSwin(configured(case.config)).eval()
    load_strictly(encoder, rename_video_swin(case.weights))
    video = case.inputs["video"]
    case.check("patch_embed", encoder.embed(video).movedim(-1, 1))
    case.check("features", encoder(video).movedim(-1, 1))
    case.check("features", encoder.pyramid(video)[-1].movedim(-1, 1))


@golden("violet")
def test_sizes_are_read_off_the_weights(case: Case) -> None:
    found = video_swin_config(rename_video_swin(case.weights), case.config["window_size"], time_stride=1)
    assert found == configured(case.config)
