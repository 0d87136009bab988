"""One look at a reducer on a few pictures: tokens, arithmetic, time, likeness, overlays."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from smalti.evaluation.audit import cost
from smalti.evaluation.audit.material import Material, material
from smalti.evaluation.audit.passes import BATCH
from smalti.evaluation.audit.subject import Subject
from smalti.evaluation.dataset import StrPath
from smalti.evaluation.overlay import overlay
from smalti.nn.flops import count_flops
from smalti.reducers.base import Reducer
from smalti.reducers.hosts import reduce
from smalti.reducers.reduction import Reduction

REPEATS = 5


@dataclass(frozen=True)
class Glance:
    """What a look shows.

    Attributes:
        pictures: as the model saw them.
        grid: rows and columns of patches.
        counts: tokens after every block, those in front included.
        flops, full_flops: multiply-adds of one picture, reduced and full.
        speed: time for one picture.
        cosines: of every picture's pooled features with the full model's.
        reductions: one for every batch.
    """

    pictures: Material
    grid: tuple[int, int]
    counts: tuple[int, ...]
    flops: int
    full_flops: int
    speed: cost.Speed
    cosines: tuple[float, ...]
    reductions: tuple[Reduction, ...]

    def overlay(self, place: int) -> Image.Image:
        """A picture with its tokens drawn on it."""
        return overlay(
            self.pictures.picture(place), self.reductions[place // BATCH], self.grid, place % BATCH
        )


@torch.no_grad()
def glance(
    model: nn.Module,
    reducer: str | Reducer,
    keep: float,
    paths: Sequence[StrPath],
    *,
    size: int | None = None,
) -> Glance:
    """Pictures through a model, full and reduced.

    Args:
        model: one that `smalti.reduce` knows; it comes back as it was.
        reducer: a name, or a reducer.
        keep: share of the tokens that is left after the last block.
        paths: pictures.
        size: pixels a side; the model's own when not given.

    Raises:
        ConfigError: an unknown reducer, a share outside (0, 1], a size that does not fit.
        UnsupportedError: a model that no host knows.
        MediaError: a picture that cannot be read.
    """
    subject = Subject(model, size)
    pictures = material(list(paths), subject.size)
    batches = list(pictures.batches(BATCH))
    before = torch.cat([subject.answer(pixels).pooled for pixels in batches])
    one = subject.input(batches[0][:1])
    full_flops, twin = count_flops(model, one), copy.deepcopy(model)
    with reduce(model, reducer, keep=keep) as handle:
        answers, reductions = [], []
        for pixels in batches:
            answers.append(subject.answer(pixels, handle).pooled)
            reductions.append(handle.reduction)
        flops = count_flops(model, one)
        speed = cost.speed(twin, handle, one, full_flops / flops, REPEATS)
        counts = handle.counts
    cosines = F.cosine_similarity(before, torch.cat(answers), dim=1).tolist()
    return Glance(pictures, subject.grid, counts, flops, full_flops, speed, tuple(cosines), tuple(reductions))
