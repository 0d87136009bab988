"""Names of Video Swin's official checkpoints, ours, and the sizes that weights tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod

from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.video_swin import VideoSwinConfig

OFFICIAL_NAMES = (
    (r"^patch_embed\.proj\.", "patch."),
    (r"^patch_embed\.norm\.", "patch_norm."),
    (r"^layers\.", "stages."),
    (r"\.relative_position_bias_table$", ".bias.table"),
    (r"\.downsample\.", ".merge."),
)


def rename_video_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the official encoder → ours; a head of classes and indices that follow from sizes are left."""
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("backbone.")
        if name.endswith("relative_position_index") or name.startswith("cls_head."):
            continue
        for pattern, ours in OFFICIAL_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    return renamed


def video_swin_config(
    state: Mapping[str, Tensor], window: Sequence[int] = (8, 7, 7), time_stride: int | None = None
) -> VideoSwinConfig:
    """The configuration that weights under our names tell.

    Args:
        state: names of one encoder.
        window: which weights do not tell.
        time_stride: frames between patches, which they do not tell either; a patch's own when not given.

    Raises:
        ConfigError: no encoder, or a window that does not fit its tables of biases.
    """
    try:
        dim, _, *patch = state["patch.weight"].shape
        counts: dict[int, int] = {}
        for name in state:
            if found := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.norm1\.weight", name):
                stage = int(found[1])
                counts[stage] = max(counts.get(stage, 0), int(found[2]) + 1)
        tables = [state[f"stages.{stage}.blocks.0.attn.bias.table"] for stage in sorted(counts)]
        hidden = len(state["stages.0.blocks.0.mlp.fc1.weight"])
    except KeyError as error:
        raise ConfigError(f"this is no checkpoint of a Video Swin: no {error}") from error
    rows = prod(2 * length - 1 for length in window)
    if not tables or len(tables[0]) != rows:
        raise ConfigError(
            f"a window of {tuple(window)} has {rows} relative positions, "
            f"the checkpoint {[len(table) for table in tables[:1]]}: give the window that it was trained with"
        )
    t, h, w = window
    return VideoSwinConfig(
        dim=dim,
        depths=tuple(counts[stage] for stage in sorted(counts)),
        heads=tuple(table.shape[1] for table in tables),
        window=(t, h, w),
        patch=(patch[0], patch[1], patch[2]),
        time_stride=patch[0] if time_stride is None else time_stride,
        mlp_ratio=hidden / dim,
        qkv_bias="stages.0.blocks.0.attn.qkv.bias" in state,
        patch_norm="patch_norm.weight" in state,
    )
