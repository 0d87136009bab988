"""What ResidualViT learns by: leaning frames must say of captions what the whole frames would say.

```
frames ─► all of CLIP (no gradient) ─► teacher ─┐ softmax over captions, and over clips
       └► few patches + A f ─────────► student ─┴──► cross-entropy of student to teacher
captions ─► CLIP's text tower (no gradient) ────┘
```
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smalti.backbones.residualvit import ResidualViT
from smalti.backbones.residualvit_schedule import key_frames, routes
from smalti.errors import ConfigError
from smalti.nn.patches import reflect_to_multiple

CLIP_SCALE = 100.0


class Leaning(NamedTuple):
    """Features of the leaning frames of every clip [b m e]: by few patches, and by all of CLIP."""

    student: Tensor
    teacher: Tensor


def features_to_match(model: ResidualViT, pixels: Float[Tensor, "b 3 t h w"]) -> Leaning:
    """Both features of all leaning frames, the teacher's without gradient; every frame is encoded once.

    Raises:
        ConfigError: no frame of these clips leans on another.
    """
    clip = reflect_to_multiple(model.normalise(pixels), model.config.patch)
    batch, _, count = clip.shape[:3]
    way = routes(key_frames(batch, count, model.config.interval)[0])
    if not len(way.leaning):
        raise ConfigError(
            f"clips of {count} frames at an interval of {model.config.interval} have no leaning frame "
            "to learn of: give longer clips or a longer interval"
        )
    frames = rearrange(clip, "b c t h w -> (b t) c h w")
    with torch.no_grad():
        teacher = model.whole(frames)
    source = way.whole[way.source.flatten()[way.leaning]]
    student = model.lean(frames[way.leaning], teacher[source], frames[source])
    return Leaning(student.unflatten(0, (batch, -1)), teacher[way.leaning].unflatten(0, (batch, -1)))


def language_distillation(
    student: Float[Tensor, "b m e"],
    teacher: Float[Tensor, "b m e"],
    captions: Float[Tensor, "b e"],
    scale: float = CLIP_SCALE,
) -> Float[Tensor, ""]:
    """Cross-entropy of students to teachers over language (the paper's J of both directions).

    Of every frame over the captions of the batch, and of every caption over the clips of the batch; means of
    each are added, where the paper writes sums.

    Args:
        student: features by few patches.
        teacher: of the same frames, by all of CLIP.
        captions: one of every clip.
        scale: of cosines, exp(logit_scale) of CLIP.
    """
    language = F.normalize(captions.float(), dim=-1)
    ours, theirs = (scale * F.normalize(x.float(), dim=-1) @ language.mT for x in (student, teacher.detach()))
    by_caption = -(theirs.softmax(-1) * ours.log_softmax(-1)).sum(-1).mean()
    by_clip = -(theirs.softmax(0) * ours.log_softmax(0)).sum(0).mean()
    return by_caption + by_clip


def feature_distillation(
    student: Float[Tensor, "b m e"], teacher: Float[Tensor, "b m e"], kind: str = "cosine"
) -> Float[Tensor, ""]:
    """The losses without language that the paper compares with: "cosine" or "mse".

    Raises:
        ConfigError: no such kind.
    """
    if kind == "cosine":
        return (1 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1)).mean()
    if kind == "mse":
        return F.mse_loss(student.float(), teacher.detach().float())
    raise ConfigError(f"no distillation of features by {kind!r}: choose cosine or mse")


def agreement(model: ResidualViT, pixels: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "m"]:
    """Cosine of leaning frames' features to those of all of CLIP, by distance in the clip's frames."""
    with torch.no_grad():
        found = features_to_match(model, pixels)
    return F.cosine_similarity(found.student.float(), found.teacher.float(), dim=-1).mean(0)
