"""Names of parameters in the public C-ViViT implementations (phenaki-pytorch, OmniTokenizer), and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from smalti.nn.strict_loading import renamed

PUBLIC_NAMES = [  # of the public implementations, and ours
    (r"^encoder\.|^decoder\.", ""),
    (r"^enc_spatial_transformer\.", "encoder.space."),
    (r"^enc_temporal_transformer\.", "encoder.time."),
    (r"^dec_spatial_transformer\.", "decoder.space."),
    (r"^dec_temporal_transformer\.", "decoder.time."),
    (r"^to_patch_emb_first_frame\.", "encoder.patches.first."),
    (r"^to_patch_emb\.", "encoder.patches.rest."),
    (r"(patches\.\w+)\.1\.", r"\1.norm."),
    (r"(patches\.\w+)\.2\.", r"\1.linear."),
    (r"(patches\.\w+)\.3\.", r"\1.out."),
    (r"^to_pixels_first_frame\.0\.", "decoder.pixels.first."),
    (r"^to_pixels\.0\.", "decoder.pixels.rest."),
    (r"(layers\.\d+)\.0\.dsconv\.", r"\1.peg."),
    (r"(layers\.\d+)\.1\.", r"\1.attention."),
    (r"(layers\.\d+)\.2\.", r"\1.cross."),
    (r"(layers\.\d+)\.3\.0\.", r"\1.feed.norm."),
    (r"(layers\.\d+)\.3\.1\.", r"\1.feed.into."),
    (r"(layers\.\d+)\.3\.4\.", r"\1.feed.out."),
    (r"\.to_(q|kv|out)\.", r".\1."),
    (r"attention\.spatial_rel_pos_bias\.", "attention.bias."),
    (r"\.net\.2\.", ".net.4."),
    (r"\.net\.1\.0\.", ".net.2."),
    (r"\.net\.0\.0\.", ".net.0."),
]
UNUSED = r"\.beta$|attention\.context_norm\."  # zeros, and norms of what self-attention never reads


def public_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint of the public implementations under our names, without what is empty or never used."""
    found = renamed({name: tensor for name, tensor in state.items() if tensor.numel()}, PUBLIC_NAMES)
    return {name: tensor for name, tensor in found.items() if not re.search(UNUSED, name)}
