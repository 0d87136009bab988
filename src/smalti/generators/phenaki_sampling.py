"""Sampling with Phenaki's generator: one video, or a story of many scenes.

```
scene k: last frames of scene k-1 ─► tokenizer ─► prefix, kept ─► sample(text k) ─► tokenizer ─► new frames
```
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smalti.errors import ConfigError
from smalti.generators.phenaki import Critic, MaskGit, drawn_ids, uniform
from smalti.nn.causal_conv import State
from smalti.tokens import Tokens

FIXED = -1e4  # score of tokens that are never masked again


def hidden_at(step: int, steps: int, tokens: int) -> int:
    """Tokens that are masked at a step: all at the first, then round(tokens · cos(π/2 · step/steps))."""
    return max(round(tokens * math.cos(math.pi / 2 * step / steps)), 1)


@torch.no_grad()
def sample(
    generator: MaskGit,
    grid: tuple[int, int, int],
    text: Float[Tensor, "b m e"] | None = None,
    read: Bool[Tensor, "b m"] | None = None,
    *,
    n: int = 1,
    prefix: Int[Tensor, "b p h w"] | None = None,
    steps: int = 18,
    guidance: float | tuple[float, float] = 3.0,
    temperature: float = 0.9,
    critic: Critic | None = None,
    noise: float = 1.0,
    anneal: Literal["fixed", "decay", "increase"] = "decay",
    random: torch.Generator | None = None,
) -> Tokens:
    """Videos as tokens.

    Args:
        generator: trained.
        grid: frames, rows and columns of tokens, the prefix with them.
        text, read: as `MaskGit` takes them.
        n: videos, where neither text nor prefix tells.
        prefix: ids of the first grids, which stay as they are.
        steps: 12 to 48 in the paper.
        guidance: weight of the text, or its first and last weight (the paper's goes from 1 to 12).
        temperature: of the draws at first; it falls to 0.
        critic: chooses what is masked again among all new tokens, else the generator's confidence does
            among those just drawn.
        noise, anneal: what is added to the critic's scores, and how it changes with the steps.
        random: where chance comes from.

    Raises:
        ConfigError: a prefix that leaves nothing to fill or has another size than the grid.
    """
    device = generator.to_logits.weight.device
    known = 0 if prefix is None else prefix.shape[1] * prefix.shape[2] * prefix.shape[3]
    if prefix is not None and (prefix.shape[1] >= grid[0] or tuple(prefix.shape[2:]) != tuple(grid[1:])):
        raise ConfigError(f"a prefix of {tuple(prefix.shape[1:])} grids does not begin a video of {grid}")
    batch = len(text) if text is not None else n if prefix is None else len(prefix)
    count = math.prod(grid) - known
    ids = torch.full((batch, count), generator.mask_id, device=device)
    front = ids[:, :0] if prefix is None else prefix.flatten(1)
    hidden = torch.ones_like(ids, dtype=torch.bool)
    for step in range(steps):
        left = (steps - step - 1) / steps
        weight = guidance if isinstance(guidance, (int, float)) else _between(*guidance, step, steps)
        ids = torch.where(hidden, generator.mask_id, ids)
        logits = generator.guided(torch.cat([front, ids], 1).unflatten(1, grid), text, read, weight)[
            :, known:
        ]
        drawn = drawn_ids(logits, temperature * left, random)
        ids = torch.where(hidden, drawn, ids)
        if step == steps - 1:
            break
        if critic is not None:
            whole = torch.cat([front, ids], 1).unflatten(1, grid)
            scores = critic.guided(whole, text, read, weight)[:, known:, 0]
            strength = {"fixed": 1.0, "decay": left, "increase": 1 - left}[anneal]
            scores = scores + noise * strength * (uniform(scores, random) - 0.5)
        else:
            sure = logits.float().softmax(-1).gather(2, drawn[..., None])[..., 0]
            scores = torch.where(hidden, 1 - sure, FIXED)
        again = scores.topk(hidden_at(step + 1, steps, count), 1).indices
        hidden = torch.zeros_like(hidden).scatter(1, again, True)
    return Tokens(ids=torch.cat([front, ids], 1)[..., None], grid=grid)


@runtime_checkable
@runtime_checkable
class VideoCodes(Protocol):
    """What `story` asks of a tokenizer; `tokenizers.phenaki.Phenaki` is one."""

    compression: tuple[int, int, int]

    def encode_part(self, pixels: Tensor, state: State) -> Tensor:
        """Codes [b t h w 1]."""
        ...

    def decode_part(self, codes: Tensor, state: State) -> Tensor:
        """Frames."""
        ...


@torch.no_grad()
def story(
    generator: MaskGit,
    tokenizer: VideoCodes,
    texts: Sequence[Float[Tensor, "b _words e"]],
    size: tuple[int, int],
    *,
    frames: int = 11,
    remembered: int = 5,
    start: Float[Tensor, "b 3 s y x"] | None = None,
    **options: Any,
) -> Float[Tensor, "b 3 f y x"]:
    """A video of any length: every text continues from the last frames of what came before.

    Args:
        generator: trained on the tokenizer's codes.
        tokenizer: causal, so that a few frames are encoded as they were alone.
        texts: vectors of the words of every scene.
        size: height and width, multiples of the tokenizer's.
        frames: of the first scene; every further one adds the largest multiple of a tube below.
        remembered: frames that a scene sees of the last (the paper's 5), 1 + k tubes.
        start: a picture or clip to begin from, 1 + k tubes, which comes first in the video.
        options: of `sample`.

    Raises:
        ConfigError: frames that are not 1 + k tubes.
    """
    tube, rows, columns = tokenizer.compression
    for name, count in (("frames", frames), ("remembered", remembered)):
        if count < 1 or (count - 1) % tube:
            raise ConfigError(f"{name} must be 1 + k·{tube}, not {count}")
    plane = (size[0] // rows, size[1] // columns)
    video, usable = start, 0
    for text in texts:
        prefix = None
        if video is not None:
            usable = min(remembered, 1 + (video.shape[2] - 1) // tube * tube)
            prefix = tokenizer.encode_part(video[:, :, -usable:].clamp(0, 1), {})[..., 0]
        grids = (0 if prefix is None else prefix.shape[1]) + (frames - 1) // tube + (prefix is None)
        tokens = sample(generator, (grids, *plane), text, prefix=prefix, **options)
        assert tokens.ids is not None  # as `sample` gives them
        scene = tokenizer.decode_part(tokens.ids.unflatten(1, (grids, *plane)), {})
        video = scene if video is None else torch.cat([video, scene[:, :, usable:]], 2)
    if video is None:
        raise ConfigError("a story needs at least one text or a start")
    return video.clamp(0, 1)


def _between(first: float, last: float, step: int, steps: int) -> float:
    return first + (last - first) * step / max(steps - 1, 1)
