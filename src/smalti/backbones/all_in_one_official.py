"""All in One's official checkpoints: what they tell, and their names in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smalti.backbones.checkpoint_facts import counted, square_side, unwrapped
from smalti.nn.strict_loading import told

RENAMES = (
    (r"^text_embeddings\.word_embeddings\.", "words.word."),
    (r"^text_embeddings\.position_embeddings\.", "words.position."),
    (r"^text_embeddings\.token_type_embeddings\.", "words.sentence."),
    (r"^text_embeddings\.LayerNorm\.", "words.norm."),
    (r"^token_type_embeddings\.", "kind."),
    (r"^transformer\.cls_token$", "pictures.class_token"),
    (r"^transformer\.pos_embed$", "pictures.places"),
    (r"^transformer\.temporal_embed$", "pictures.times"),
    (r"^transformer\.patch_embed\.proj\.", "pictures.patches."),
    (r"^transformer\.(blocks|norm)\.", r"\1."),
    (r"^pooler\.dense\.", "pooler."),
    (r"^mlm_score\.transform\.dense\.", "masked_words.dense."),
    (r"^mlm_score\.transform\.LayerNorm\.", "masked_words.norm."),
    (r"^mlm_score\.decoder\.", "masked_words.decoder."),
    (r"^mlm_score\.bias$", "masked_words.decoder.bias"),
    (r"^itm_score\.fc\.", "match."),
    (r"^txt_proj\.", "text_projection."),
    (r"^vid_proj\.", "video_projection."),
    (r"^rank_output\.", "rank."),
    (r"^vqa_classifier\.", "answer."),
)
UNUSED = re.compile(
    r"text_embeddings\.position_ids|transformer\.(head|mask_token|pre_logits).*|rank_output_2\..*"
    r"|(mpp_score|mc_vqa_classifier|vcop_classifier|nlvr2_classifier|spatial_mix|train_|val_|test_).*"
)


class OfficialState:
    """An official checkpoint.

    Args:
        state: names and tensors.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = {name: x for name, x in unwrapped(state).items() if not UNUSED.fullmatch(name)}

    def sizes(self) -> dict[str, Any]:
        """Fields of the configuration.

        Raises:
            ConfigError: it is not one of All in One.
        """
        state = self.state
        places = told(state, "transformer.pos_embed")
        patch, dim = told(state, "transformer.patch_embed.proj.weight").shape[-1], places.shape[-1]
        hidden = told(state, "transformer.blocks.0.mlp.fc1.weight").shape[0]
        return {
            "dim": dim,
            "depth": counted(state, "transformer.blocks."),
            "heads": max(dim // 64, 1),
            "mlp_ratio": hidden / dim,
            "patch": patch,
            "size": square_side(places) * patch,
            "frames": told(state, "transformer.temporal_embed").shape[1],
            "vocabulary": len(told(state, "text_embeddings.word_embeddings.weight")),
            "text_length": len(told(state, "text_embeddings.position_embeddings.weight")),
            "words_head": "mlm_score.bias" in state,
            "match_head": "itm_score.fc.weight" in state,
            "embedding": len(state["txt_proj.weight"]) if "txt_proj.weight" in state else 0,
            "answers": len(state["vqa_classifier.4.weight"]) if "vqa_classifier.4.weight" in state else 0,
            "rank_head": "rank_output.weight" in state,
        }

    def fitted(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its tensors under our names, fitted to another number of frames or words.

        Args:
            ours: names and tensors of the model that they are for.
        """
        renamed = {}
        for name, tensor in self.state.items():
            for pattern, other in RENAMES:
                name, found = re.subn(pattern, other, name)
                if found:
                    break
            renamed[name] = tensor
        times, wanted = renamed["pictures.times"], ours["pictures.times"]
        if times.shape != wanted.shape:
            renamed["pictures.times"] = torch.zeros_like(wanted)
            shared = min(times.shape[1], wanted.shape[1])
            renamed["pictures.times"][:, :shared] = times[:, :shared]
        if renamed["words.position.weight"].shape != ours["words.position.weight"].shape:
            renamed["words.position.weight"] = ours["words.position.weight"]
        return renamed
