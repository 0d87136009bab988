"""Names of PoNet's official checkpoints, of the text encoder and of the Long Range Arena, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

EMBEDDINGS = {"word": "word", "position": "position", "token_type": "sentence"}
OFFICIAL_NAMES = (
    (r"^(ponet|model)\.", ""),
    (r"^embeddings\.(word|position|token_type)_embeddings\.", lambda m: f"{EMBEDDINGS[m[1]]}."),
    (r"^embeddings\.LayerNorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^transformer_(\d+)\.", r"blocks.\1."),
    (r"^blocks\.(\d+)\.attention\.self\.dense_", r"blocks.\1.mixer."),
    (r"^blocks\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.mixer.proj."),
    (r"^blocks\.(\d+)\.attention\.output\.LayerNorm\.", r"blocks.\1.norm1."),
    (r"^blocks\.(\d+)\.output\.LayerNorm\.", r"blocks.\1.norm2."),
    (r"^blocks\.(\d+)\.(intermediate\.dense|mlpblock\.0)\.", r"blocks.\1.mlp.fc1."),
    (r"^blocks\.(\d+)\.(output\.dense|mlpblock\.3)\.", r"blocks.\1.mlp.fc2."),
    (r"^blocks\.(\d+)\.mha\.ff\.", r"blocks.\1.mixer.proj."),
    (r"^blocks\.(\d+)\.mha\.W_v\.", r"blocks.\1.mixer.o."),
    (r"^blocks\.(\d+)\.mha\.W_", r"blocks.\1.mixer."),
    (r"^pooler\.dense\.", "pooler."),
    (r"^cls\.predictions\.transform\.dense\.", "masked_words.dense."),
    (r"^cls\.predictions\.transform\.LayerNorm\.", "masked_words.norm."),
    (r"^cls\.predictions\.bias$", "masked_words.decoder.bias"),
    (r"^cls\.predictions\.decoder\.", "masked_words.decoder."),
    (r"^cls\.seq_relationship\.", "head."),
    (r"^seq_classifer\.mlpblock\.", "head."),
)
PARTS = ("q", "k", "o", "segment", "local")


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names of either layout → ours; five maps of a mixer become one product."""
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        for pattern, ours in OFFICIAL_NAMES:
            name = re.sub(pattern, ours, name)
        if not name.endswith("position_ids"):
            renamed[name] = tensor
    for name in [n for n in renamed if re.search(r"mixer\.q\.(weight|bias)$", n)]:
        parts = [name.replace("mixer.q.", f"mixer.{part}.") for part in PARTS]
        if all(part in renamed for part in parts):
            together = torch.cat([renamed.pop(part) for part in parts])
            renamed[name.replace("mixer.q.", "mixer.maps.")] = together
    return renamed
