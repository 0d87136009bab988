"""LookupViT's weights in the layout of vit-pytorch's LookViT, the re-implementation that can be had."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from smalti.nn.strict_loading import told

VIT_PYTORCH_NAMES = (
    (r"^to_patches\.3\.", "patch_norm."),
    (r"^highres_norm\.", "lookup_norm."),
    (r"^to_logits\.", "head."),
    (r"^layers\.(\d+)\.0\.norm\.", r"blocks.\1.refine.norm1."),
    (r"^layers\.(\d+)\.0\.to_out\.1\.", r"blocks.\1.refine.attn.proj."),
    (r"^layers\.(\d+)\.0\.", r"blocks.\1.refine.attn."),
    (r"^layers\.(\d+)\.1\.0\.", r"blocks.\1.refine.norm2."),
    (r"^layers\.(\d+)\.1\.1\.", r"blocks.\1.refine.mlp.fc1."),
    (r"^layers\.(\d+)\.1\.4\.", r"blocks.\1.refine.mlp.fc2."),
    (r"^layers\.(\d+)\.2\.norm\.", r"blocks.\1.gather.norm_q."),
    (r"^layers\.(\d+)\.2\.norm_context\.", r"blocks.\1.gather.norm_kv."),
    (r"^layers\.(\d+)\.2\.to_out\.1\.", r"blocks.\1.gather.proj."),
    (r"^layers\.(\d+)\.2\.to_(q|k|v)\.", r"blocks.\1.gather.\2."),
    (r"^layers\.(\d+)\.3\.norm_context\.", r"blocks.\1.infuse.norm."),
    (r"^layers\.(\d+)\.3\.to_out\.1\.", r"blocks.\1.infuse.proj."),
    (r"^layers\.(\d+)\.3\.to_v\.", r"blocks.\1.infuse.v."),
    (r"^layers\.(\d+)\.4\.", r"blocks.\1.stream_norm."),
    (r"^layers\.(\d+)\.5\.0\.", r"blocks.\1.lookup_norm."),
    (r"^layers\.(\d+)\.5\.1\.", r"blocks.\1.lookup_mlp.fc1."),
    (r"^layers\.(\d+)\.5\.4\.", r"blocks.\1.lookup_mlp.fc2."),
)


def vit_pytorch_keys(state: Mapping[str, Tensor], patch: int, depth: int) -> dict[str, Tensor]:
    """Names of vit-pytorch's LookViT → ours.

    Its convolution over patches as channels becomes one over pixels, norms without bias and with one taken
    off their weight become usual ones, queries, keys and values of self-attention one product, and the
    biases that it does not have are zero. Its table of positions, which it never uses, is left out.
    """
    state = dict(state)
    state.pop("pos_embedding", None)
    ours = {
        "patch_embed.weight": rearrange(
            state.pop("to_patches.1.weight"), "d (p q c) i j -> d c 1 (i p) (j q)", p=patch, q=patch
        ),
        "patch_embed.bias": state.pop("to_patches.1.bias"),
    }
    for number in range(depth):
        parts = [told(state, f"layers.{number}.0.to_{name}.weight") for name in "qkv"]
        for name in "qkv":
            del state[f"layers.{number}.0.to_{name}.weight"]
        state[f"layers.{number}.0.qkv.weight"] = torch.cat(parts)
    for name, tensor in state.items():
        for pattern, replacement in VIT_PYTORCH_NAMES:
            name, found = re.subn(pattern, replacement, name)
            if found:
                break
        if name.endswith(".gamma"):
            ours[name.replace(".gamma", ".weight")] = tensor + 1
            ours[name.replace(".gamma", ".bias")] = torch.zeros_like(tensor)
        else:
            ours[name] = tensor
            if name.endswith(("proj.weight", "head.weight")):
                ours[name.replace(".weight", ".bias")] = tensor.new_zeros(len(tensor))
    return ours
