"""Open-MAGVIT2's names of weights, and how weights of pictures become weights of video."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn.strict_loading import numbered, renamed

Place = Literal["last", "middle"]
EMA = "model_ema."
RULES = (
    (r"\.conv_1\.", "."),
    (r"\.conv_in\.", ".enter."),
    (r"\.conv_out\.", ".leave."),
    (r"\.norm_out\.", ".norm."),
    (r"\.mid_block\.", ".middle."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.(?:down|up)\.(\d+)\.block\.", r".levels.\1."),
    (r"\.down\.(\d+)\.downsample\.", r".down.\1."),
    (r"\.up\.(\d+)\.upsample\.conv1\.", r".up.\1.conv."),
    (r"\.gamma\.", ".scale."),
    (r"\.beta\.", ".shift."),
)


def our_names(state: Mapping[str, Tensor], ema: bool) -> dict[str, Tensor]:
    """An official checkpoint's encoder and decoder under our names; the decoder's levels from the coarsest.

    Kernels of pictures [o i h w] become flat ones [o i 1 h w].
    """
    plain = {name: tensor for name, tensor in state.items() if re.match(r"(encoder|decoder)\.", name)}
    if ema:
        plain = {name: state.get(EMA + name.replace(".", ""), tensor) for name, tensor in plain.items()}
    coarsest = max(numbered(plain, r"decoder\.up\.(\d+)\."), default=0)

    def turned(found: re.Match[str]) -> str:
        return f"{found[1]}.{coarsest - int(found[2])}."

    ours = {}
    for name, tensor in renamed(plain, RULES).items():
        name = re.sub(r"^(decoder\.(?:levels|up|adaptive))\.(\d+)\.", turned, name)
        ours[name] = tensor[:, :, None] if tensor.ndim == 4 else tensor
    return ours


def inflated(
    pictures: Mapping[str, Tensor], video: Mapping[str, Tensor], place: Place = "last"
) -> dict[str, Tensor]:
    """Weights of video that do to every frame what those of pictures do, by one frame of their kernels: the
    last of causal kernels, the middle one of those that look both ways.

    Where channels become frames, both frames get the picture's channels.

    Raises:
        ConfigError: tensors that no such step joins.
    """
    out = {}
    for name, wanted in video.items():
        if name not in pictures:
            raise ConfigError(f"the model of pictures has no {name}: its levels or blocks differ")
        flat = pictures[name]
        if wanted.shape[:1] != flat.shape[:1]:
            flat = flat.repeat(wanted.shape[0] // flat.shape[0], *[1] * (flat.ndim - 1))
        if wanted.ndim == 5 and wanted.shape[2] != flat.shape[2]:
            deep = torch.zeros(*flat.shape[:2], wanted.shape[2], *flat.shape[3:], dtype=flat.dtype)
            deep[:, :, -1 if place == "last" else wanted.shape[2] // 2] = flat[:, :, 0]
            flat = deep
        if flat.shape != wanted.shape:
            raise ConfigError(
                f"{name} is {tuple(flat.shape)} in the model of pictures, {tuple(wanted.shape)} is wanted"
            )
        out[name] = flat
    return out
