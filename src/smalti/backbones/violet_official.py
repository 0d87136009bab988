"""Names of VIOLET's official checkpoints, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from smalti.nn.bert_encoder import rename_bert
from smalti.nn.video_swin_official import rename_video_swin

OFFICIAL_NAMES = (
    (r"^enc_img\.emb_cls$", "first"),
    (r"^enc_img\.emb_pos$", "places"),
    (r"^enc_img\.emb_len$", "times"),
    (r"^enc_img\.norm\.", "norm."),
    (r"^enc_txt\.emb_txt\.", "embeddings."),
    (r"^trsfr\.", "encoder."),
    (r"^fc_mtm\.", ""),
    (r"^fc_mvm\.", "masked_codes."),
    (r"^fc\.", "head."),
)


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names → ours; both tables of places lose their axes of length one."""
    video, rest = {}, {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name.startswith("enc_img.swin."):
            video[name.removeprefix("enc_img.swin.")] = tensor
            continue
        for pattern, ours in OFFICIAL_NAMES:
            name, found = re.subn(pattern, ours, name)
            if found:
                break
        rest[name] = tensor
    if "places" in rest:
        rest["places"] = rest["places"].squeeze(1)
    if "times" in rest:
        rest["times"] = rest["times"].squeeze(2)
    return rename_bert(rest) | {f"video.{name}": t for name, t in rename_video_swin(video).items()}
