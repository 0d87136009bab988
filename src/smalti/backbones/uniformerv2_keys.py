"""Names of official UniFormerV2 and CLIP weights → ours, and what they tell of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.backbones.checkpoint_facts import square_side
from smalti.backbones.picture_frames import resample_positions
from smalti.nn.strict_loading import told

OFFICIAL_NAMES = (
    (r"^conv1\.", "patches."),
    (r"^class_embedding$", "class_token"),
    (r"^positional_embedding$", "position"),
    (r"^ln_pre\.", "norm_before."),
    (r"^transformer\.resblocks\.(\d+)\.lmhra([12])\.pos_embed\.", r"blocks.\1.local\2."),
    (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1.image."),
    (r"^transformer\.temporal_cls_token$", "reader.query"),
    (r"^transformer\.dpe\.(\d+)\.", r"reader.blocks.\1.position."),
    (r"^transformer\.dec\.(\d+)\.", r"reader.blocks.\1."),
    (r"^transformer\.balance$", "reader.balance"),
    (r"^transformer\.proj\.0\.", "head.norm."),
    (r"^transformer\.proj\.2\.", "head.linear."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.image\.attn\.in_proj_", ".image.attn.qkv."),
    (r"\.image\.ln_([12])\.", r".image.norm\1."),
    (r"\.ln_1\.", ".norm_query."),
    (r"\.ln_2\.", ".norm_mlp."),
    (r"\.ln_3\.", ".norm_tokens."),
    (r"\.(local[12])\.0\.", r".\1.norm."),
    (r"\.(local[12])\.1\.", r".\1.down."),
    (r"\.(local[12])\.2\.", r".\1.time."),
    (r"\.(local[12])\.3\.", r".\1.up."),
)
OF_THE_PICTURE = re.compile(r"(patches|class_token|position|norm_before|blocks\.\d+\.image)(\.|$)")


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names → ours; the reader's product for queries, keys and values is taken apart."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for official, ours in OFFICIAL_NAMES:
            name = re.sub(official, ours, name)
        if ".attn.in_proj_" in name:
            dim = len(tensor) // 3
            found[name.replace("in_proj_", "q.")] = tensor[:dim]
            found[name.replace("in_proj_", "kv.")] = tensor[dim:]
        else:
            found[name] = tensor
    return found


def clip_pictures(
    state: Mapping[str, Tensor], frames: int, side: int, centred: bool = True
) -> dict[str, Tensor]:
    """What CLIP's picture tower gives to a video model, under our names.

    Args:
        state: of a whole CLIP, or of its picture tower alone.
        frames: of a patch.
        side: of the square of patches that positions are wanted for.
        centred: a picture's patch becomes the middle frame of a clip's; else an equal share of every frame.

    Raises:
        ConfigError: this is no CLIP.
    """
    visual = {n.removeprefix("visual."): tensor for n, tensor in state.items() if n.startswith("visual.")}
    found = {n: t.float() for n, t in renamed(visual or state).items() if OF_THE_PICTURE.match(n)}
    flat = told(found, "patches.weight")
    if flat.ndim == 4:
        inflated = flat[:, :, None].repeat(1, 1, frames, 1, 1) / frames
        if centred:
            inflated.zero_()[:, :, frames // 2] = flat
        found["patches.weight"] = inflated
    found["position"] = fitted(told(found, "position"), side)
    return found


def fitted(position: Float[Tensor, "n d"], side: int) -> Float[Tensor, "m d"]:
    """Positions of a class token and of a square of patches, for a square of another side."""
    own = square_side(position[None])
    places = resample_positions(position[None, 1:], (own, own), (side, side))[0]
    return torch.cat([position[:1], places])


def reduction(width: int, inner: int) -> float:
    """By how much the channels of local relations are reduced, so that `width // reduction` is `inner`."""
    likely = round(width / inner, 2)
    return likely if width // likely == inner else width / (inner + 0.5)
