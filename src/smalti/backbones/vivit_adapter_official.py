"""Weights for ViViT's factorised encoder: scenic's trees of JAX arrays, and ViTs for pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smalti.backbones.checkpoint_facts import counted, square_side, unwrapped
from smalti.errors import ConfigError
from smalti.nn.strict_loading import told

PARTS = {"SpatialTransformer": "spatial.encoder", "TemporalTransformer": "temporal"}
IN_BLOCKS = {
    "LayerNorm_0.scale": "norm1.weight",
    "LayerNorm_0.bias": "norm1.bias",
    "LayerNorm_1.scale": "norm2.weight",
    "LayerNorm_1.bias": "norm2.bias",
    "MlpBlock_0.Dense_0.kernel": "mlp.fc1.weight",
    "MlpBlock_0.Dense_0.bias": "mlp.fc1.bias",
    "MlpBlock_0.Dense_1.kernel": "mlp.fc2.weight",
    "MlpBlock_0.Dense_1.bias": "mlp.fc2.bias",
}
ATTENTION = "MultiHeadDotProductAttention_0"


class OfficialViViT:
    """A tree of scenic: kernels stand the other way round, heads have an axis of their own.

    Args:
        state: names, joined by "/" or ".", and tensors.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        names = {name: re.sub(r"^(optimizer\.target|params)\.", "", name.replace("/", ".")) for name in state}
        self.state = {names[name]: tensor for name, tensor in state.items()}

    def sizes(self) -> dict[str, Any]:
        """Fields of the configuration.

        Raises:
            ConfigError: it is not a tree of a factorised encoder.
        """
        state = self.state
        tubelet, patch, _, _, dim = told(state, "embedding.kernel").shape
        first = "cls_SpatialTransformer" in state
        places = told(state, "SpatialTransformer.posembed_input.pos_embedding")
        times = told(state, "TemporalTransformer.posembed_input.pos_embedding")
        query = {part: told(state, f"{part}.encoderblock_0.{ATTENTION}.query.kernel") for part in PARTS}
        return {
            "dim": dim,
            "depth": counted(state, "SpatialTransformer.encoderblock_"),
            "heads": query["SpatialTransformer"].shape[1],
            "temporal_depth": counted(state, "TemporalTransformer.encoderblock_"),
            "temporal_heads": query["TemporalTransformer"].shape[1],
            "mlp_ratio": told(state, "SpatialTransformer.encoderblock_0.MlpBlock_0.Dense_0.bias").shape[0]
            / dim,
            "patch": patch,
            "tubelet": tubelet,
            "size": square_side(places, int(first)) * patch,
            "frames": (times.shape[1] - int(first)) * tubelet,
            "pooling": "class" if first else "mean",
            "classes": (len(told(state, "output_projection.bias")),),
        }

    def renamed(self) -> dict[str, Tensor]:
        """Its tensors under our names.

        Raises:
            ConfigError: a part is missing.
        """
        state = self.state
        ours = {
            "spatial.tubelets.weight": told(state, "embedding.kernel").permute(4, 3, 0, 1, 2),
            "spatial.tubelets.bias": told(state, "embedding.bias"),
            "heads.0.weight": told(state, "output_projection.kernel").mT,
            "heads.0.bias": told(state, "output_projection.bias"),
        }
        for theirs, part in PARTS.items():
            if f"cls_{theirs}" in state:
                ours[f"{part}.class_token"] = state[f"cls_{theirs}"]
            ours[f"{part}.positions"] = told(state, f"{theirs}.posembed_input.pos_embedding")
            ours[f"{part}.norm.weight"] = told(state, f"{theirs}.encoder_norm.scale")
            ours[f"{part}.norm.bias"] = told(state, f"{theirs}.encoder_norm.bias")
            for number in range(counted(state, f"{theirs}.encoderblock_")):
                block = self._block(f"{theirs}.encoderblock_{number}.")
                ours |= {f"{part}.blocks.{number}.{name}": tensor for name, tensor in block.items()}
        return {name: tensor.contiguous() for name, tensor in ours.items()}

    def _block(self, prefix: str) -> dict[str, Tensor]:
        def at(name: str) -> Tensor:
            return told(self.state, prefix + name)

        block = {
            ours: at(name).mT if name.endswith("kernel") else at(name) for name, ours in IN_BLOCKS.items()
        }
        sides = ("query", "key", "value")
        kernels = [at(f"{ATTENTION}.{side}.kernel").flatten(1).mT for side in sides]
        biases = [at(f"{ATTENTION}.{side}.bias").flatten() for side in sides]
        return block | {
            "attn.qkv.weight": torch.cat(kernels),
            "attn.qkv.bias": torch.cat(biases),
            "attn.proj.weight": at(f"{ATTENTION}.out.kernel").flatten(0, 1).mT,
            "attn.proj.bias": at(f"{ATTENTION}.out.bias"),
        }


PICTURE_NAMES = (
    (r"^patch_embed\.proj\.", "tubelets."),
    (r"^cls_token$", "encoder.class_token"),
    (r"^pos_embed$", "encoder.positions"),
    (r"^(blocks|norm)\.", r"encoder.\1."),
)


def picture_weights(state: Mapping[str, Tensor], tubelet: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A ViT for pictures → fields of a configuration, and weights of the spatial part.

    Args:
        state: names and tensors as timm has them; heads are left out.
        tubelet: frames of a patch: the middle one starts as the picture's patch, the others at zero.

    Raises:
        ConfigError: it is not a plain ViT.
    """
    state = {name: x for name, x in unwrapped(state).items() if not name.startswith(("head", "fc_norm"))}
    kernel, places = told(state, "patch_embed.proj.weight"), told(state, "pos_embed")
    if kernel.ndim != 4:
        raise ConfigError(f"a ViT for pictures has patches in two dimensions, not {tuple(kernel.shape)}")
    dim, patch, first = kernel.shape[0], kernel.shape[-1], "cls_token" in state
    sizes = {
        "dim": dim,
        "depth": counted(state, "blocks."),
        "heads": max(dim // 64, 1),
        "temporal_heads": max(dim // 64, 1),
        "mlp_ratio": len(told(state, "blocks.0.mlp.fc1.weight")) / dim,
        "patch": patch,
        "size": square_side(places, int(first)) * patch,
        "pooling": "class" if first else "mean",
    }
    ours = {}
    for name, tensor in state.items():
        for pattern, renamed in PICTURE_NAMES:
            name = re.sub(pattern, renamed, name)
        ours[name] = tensor
    ours["tubelets.weight"] = inflate(kernel, tubelet)
    return sizes, ours


def inflate(kernel: Tensor, frames: int, how: str = "central") -> Tensor:
    """A kernel of pictures [d c h w] → one of clips [d c t h w].

    Args:
        kernel: of pictures.
        frames: of the clips.
        how: in the middle frame alone ("central"), or shared out evenly ("average").

    Raises:
        ConfigError: another way.
    """
    if how == "average":
        return kernel[:, :, None].expand(-1, -1, frames, -1, -1) / frames
    if how != "central":
        raise ConfigError(f"no way to inflate {how!r}: choose central or average")
    clip = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    clip[:, :, frames // 2] = kernel
    return clip
