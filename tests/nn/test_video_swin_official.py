"""Official names of Video Swin, and sizes read off weights."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.video_swin import VideoSwin
from smalti.nn.video_swin_official import rename_video_swin, video_swin_config
from tests.nn.test_video_swin import TINY


def test_names_and_sizes_of_a_checkpoint_that_was_trained_to_classify() -> None:
    model = VideoSwin(TINY)
    back = {"patch.": "patch_embed.proj.", "patch_norm.": "patch_embed.norm.", "stages.": "layers."}
    official = {"cls_head.fc_cls.weight": torch.zeros(2, 2)}
    for name, tensor in model.state_dict().items():
        for ours, theirs in back.items():
            name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
        name = name.replace(".bias.table", ".relative_position_bias_table").replace(".merge.", ".downsample.")
        official["backbone." + name] = tensor
    official["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(18, 18)
    renamed = rename_video_swin(official)
    assert renamed.keys() == model.state_dict().keys()
    assert video_swin_config(renamed, (2, 3, 3)) == TINY
    with pytest.raises(ConfigError, match="window"):
        video_swin_config(renamed)
    with pytest.raises(ConfigError, match=r"patch\.weight"):
        video_swin_config({})
