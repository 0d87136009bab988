"""How well captions find their clips and clips their captions: recall, median and mean rank.

```
similarity [captions clips], owner [captions] ─┬─► rank of every caption's clip ─► text_to_video
                                               └─► rank of every clip's best caption ─► video_to_text
```
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError


@dataclass(frozen=True)
class Recall:
    """Ranks in figures.

    Attributes:
        r1: percent of queries that find what they seek first.
        r5: percent among the first five.
        r10: percent among the first ten.
        median: rank (MdR), 1 at best; the lower of the two middle ones.
        mean: rank (MnR), 1 at best.
    """

    r1: float
    r5: float
    r10: float
    median: float
    mean: float


def ranks(similarity: Float[Tensor, "q n"], truth: Int[Tensor, "q"]) -> Int[Tensor, "q"]:
    """The rank, from 1, of what every query seeks. What is as similar stands before it.

    Raises:
        ConfigError: a position that does not exist, or similarities that are no numbers.
    """
    if len(truth) and not 0 <= int(truth.min()) <= int(truth.max()) < similarity.shape[1]:
        raise ConfigError(f"queries seek positions {truth.min()} to {truth.max()} of {similarity.shape[1]}")
    if similarity.isnan().any():
        raise ConfigError("similarities hold NaN")
    return (similarity >= similarity.gather(1, truth[:, None])).sum(1)


def recall(found: Int[Tensor, "q"]) -> Recall:
    """Figures of some ranks.

    Raises:
        ConfigError: no ranks.
    """
    if not len(found):
        raise ConfigError("recall needs at least one query")
    r1, r5, r10 = ((found <= bound).double().mean().item() * 100 for bound in (1, 5, 10))
    return Recall(r1, r5, r10, float(found.median()), found.double().mean().item())


def text_to_video(similarity: Float[Tensor, "c v"], owner: Int[Tensor, "c"] | None = None) -> Recall:
    """Captions that seek their clips.

    Args:
        similarity: of every caption to every clip.
        owner: the clip of every caption; the same position when not given.
    """
    return recall(ranks(similarity, _owners(similarity, owner)))


def video_to_text(similarity: Float[Tensor, "c v"], owner: Int[Tensor, "c"] | None = None) -> Recall:
    """Clips that seek captions: the best of a clip's own against the best of every other clip.

    Args:
        similarity: of every caption to every clip.
        owner: the clip of every caption; the same position when not given.

    Raises:
        ConfigError: a clip without a caption.
    """
    owners, clips = _owners(similarity, owner), similarity.shape[1]
    if len(owners.unique()) < clips:
        raise ConfigError(f"only {len(owners.unique())} of {clips} clips have a caption")
    best = similarity.new_full((clips, clips), -torch.inf)
    best = best.scatter_reduce(0, owners[:, None].expand(-1, clips), similarity, "amax")
    return recall(ranks(best.mT, torch.arange(clips, device=similarity.device)))


def _owners(similarity: Float[Tensor, "c v"], owner: Int[Tensor, "c"] | None) -> Int[Tensor, "c"]:
    captions, clips = similarity.shape
    if owner is not None:
        return owner
    if captions != clips:
        raise ConfigError(f"{captions} captions of {clips} clips need owners")
    return torch.arange(captions, device=similarity.device)
