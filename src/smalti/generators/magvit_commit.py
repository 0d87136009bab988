"""COMMIT: conditional masked modelling with interior conditions (MAGVIT: Yu et al., 2023, arXiv 2212.05199).

```
clip ─► condition(task) ─► pixels, the unknown filled ─► tokenizer ─► condition tokens c
                      └──► region [b|1 t h w] of the grid that the condition speaks of
tokens z, scores s ─► mask_tokens: where s is among the n lowest ─► c inside the region, else MASK; else z
                                                              n = ⌊N · cos(π/2 · progress)⌋
```
So a condition token is never hidden and never final: it is refined like any other. `generate` repeats this
with the model's own confidence as score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError, nearest

MASK = -1
Grid = tuple[int, int, int]
Mode = Literal["cond->input", "input->input", "cond->cond"]
Weighted = Literal["mask+refine", "mask+refine+recons"]


@dataclass(frozen=True)
class Condition:
    """What a task gives.

    Attributes:
        pixels: the clip with what is not given filled in.
        region: True where the grid's tokens stand for what is given.
    """

    pixels: Float[Tensor, "b c t h w"]
    region: Bool[Tensor, "1 t2 h2 w2"]


def middle(size: int) -> Tensor:
    """True in the middle half."""
    places = torch.arange(size)
    return (places >= size // 4) & (places < size * 3 // 4)


def sliding(frames: int, width: int) -> Tensor:
    """A window [frames, width] of half the width that slides from the left half to the right."""
    first = torch.linspace(0, width // 2, frames).round()[:, None]
    places = torch.arange(width)
    return (places >= first) & (places < first + width // 2)


def window(task: str, size: Grid) -> Tensor:
    """The window [t|1 h|1 w|1] of an outpainting or inpainting task, on a grid of this size."""
    frames, height, width = size
    rows, columns = middle(height)[None, :, None], middle(width)[None, None, :]
    slide = sliding(frames, width)[:, None, :]
    return {
        "outpaint_horizontal": rows,
        "outpaint_vertical": columns,
        "outpaint_central": rows & columns,
        "outpaint_dynamic_v": slide,
        "inpaint_central": rows & columns,
        "inpaint_dynamic": rows & slide,
    }[task]


WINDOWS = (
    "outpaint_horizontal",
    "outpaint_vertical",
    "outpaint_central",
    "outpaint_dynamic_v",
    "inpaint_central",
    "inpaint_dynamic",
)
TASKS = (
    "class_generation",
    "class_frame_prediction",
    "frame_prediction",
    "frame_interpolation",
    *WINDOWS,
)


def condition(
    task: str, pixels: Float[Tensor, "b c t h w"], grid: Grid, frames: int = 1, grids: int = 1
) -> Condition:
    """The condition of one of the ten tasks.

    Args:
        task: one of `TASKS`.
        pixels: the clip in [0, 1].
        grid: tokens in time, rows and columns.
        frames: that prediction is given at the beginning, and interpolation at both ends.
        grids: how many grids of tokens these are.

    Raises:
        ConfigError: unknown task, or frames that leave none to generate.
    """
    if task not in TASKS:
        raise ConfigError(f"no task {task!r}: {nearest(task, TASKS)}")
    ends = 2 if task == "frame_interpolation" else 1
    if not 0 < ends * frames < pixels.shape[2] or not 0 < grids <= grid[0]:
        raise ConfigError(
            f"{frames} frames and {grids} grids given leave nothing of {pixels.shape[2]} frames"
        )
    if task in WINDOWS:
        return _windowed(task, pixels, grid)
    region = torch.zeros(1, *grid, dtype=torch.bool, device=pixels.device)
    if task == "class_generation":
        return Condition(torch.zeros_like(pixels), region)
    region[:, :grids] = True
    given = pixels[:, :, :frames]
    missing = pixels.shape[2] - ends * frames
    if task == "frame_interpolation":
        region[:, grid[0] - grids :] = True
        last = pixels[:, :, pixels.shape[2] - frames :]
        share = torch.arange(1, missing + 1, device=pixels.device)[:, None, None] / (missing + 1)
        between = given[:, :, -1:] + (last[:, :, :1] - given[:, :, -1:]) * share
        return Condition(torch.cat([given, between, last], 2), region)
    repeated = given[:, :, -1:].expand(-1, -1, missing, -1, -1)
    return Condition(torch.cat([given, repeated], 2), region)


def _windowed(task: str, pixels: Tensor, grid: Grid) -> Condition:
    """Outpainting keeps a window and repeats its border, if it stands still; the rest is black."""
    inside, region = (window(task, size).to(pixels.device) for size in (tuple(pixels.shape[2:]), grid))
    if task.startswith("inpaint"):
        inside, region = ~inside, ~region
    if task in ("outpaint_horizontal", "outpaint_vertical", "outpaint_central"):
        filled = pixels
        for axis, still in ((3, task != "outpaint_vertical"), (4, task != "outpaint_horizontal")):
            size = pixels.shape[axis]
            if still:
                places = torch.arange(size, device=pixels.device).clamp(size // 4, size * 3 // 4 - 1)
                filled = filled.index_select(axis, places)
    else:
        filled = pixels * inside
    return Condition(filled, region.expand(grid)[None])


def cosine_ratio(progress: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Share of tokens to be masked, 1 at progress 0 and next to nothing at 1."""
    return torch.cos(math.pi / 2 * progress).clamp(1e-6, 1.0)


@dataclass(frozen=True)
class Masked:
    """What a model sees and should say.

    Attributes:
        tokens: input; MASK where nothing is known.
        without: the same without condition tokens, for guidance.
        segments: 1 where a condition token stands in the place of another.
        targets: the tokens themselves.
        weights: of the loss.
        replaced: True where the input is not the target.
    """

    tokens: Int[Tensor, "b t h w"]
    without: Int[Tensor, "b t h w"]
    segments: Int[Tensor, "b t h w"]
    targets: Int[Tensor, "b t h w"]
    weights: Float[Tensor, "b t h w"]
    replaced: Bool[Tensor, "b t h w"]


def mask_tokens(
    tokens: Int[Tensor, "b t h w"],
    scores: Float[Tensor, "b t h w"],
    ratio: Float[Tensor, "b"],
    *,
    condition_tokens: Int[Tensor, "b t h w"] | None = None,
    region: Bool[Tensor, "#b t h w"] | None = None,
    mode: Mode = "cond->input",
    weighted: Weighted = "mask+refine+recons",
    most: Int[Tensor, "b"] | None = None,
) -> Masked:
    """Mask the tokens with the lowest scores.

    Args:
        tokens: of the clip.
        scores: uniform noise in training, the model's confidence in generation.
        ratio: share of the tokens to mask; at least one is.
        condition_tokens, region: of the task; there is no condition when they are not given.
        mode: `cond->input` is COMMIT; `input->input` leaves the region's own tokens; `cond->cond` puts
            condition tokens there for good.
        weighted: losses of replaced tokens alone, or of all that the mode can mask.
        most: how many at most.

    Raises:
        ConfigError: a mode that does not exist, or without the condition that it needs.
    """
    if mode not in ("cond->input", "input->input", "cond->cond"):
        raise ConfigError(f"no mode {mode!r}: choose cond->input, input->input or cond->cond")
    if (region is None) != (condition_tokens is None) and mode != "input->input":
        raise ConfigError(f"mode {mode} needs the condition's tokens and its region, or neither")
    nowhere = torch.zeros_like(tokens, dtype=torch.bool)
    inside = nowhere if region is None else region.expand_as(tokens)
    given = tokens if condition_tokens is None else condition_tokens
    fixed = inside if mode != "cond->input" else nowhere
    if mode == "cond->cond":
        tokens = torch.where(inside, given, tokens)
    scores = scores.masked_fill(fixed, math.inf)
    free = (~fixed).flatten(1).sum(1)
    count = (free * ratio.clamp(1e-6, 1.0)).floor().long().clamp(min=1).minimum(free)
    if most is not None:
        count = count.minimum(most.clamp(min=1))
    ranked = scores.flatten(1).sort(1).values
    highest = ranked.gather(1, count[:, None] - 1)[:, :, None, None]
    replaced = (scores <= highest) & ~fixed
    masked = torch.where(replaced, MASK, tokens)
    refined = replaced & inside
    weights = replaced if weighted == "mask+refine" else ~fixed
    return Masked(
        torch.where(refined, given, masked), masked, refined.long(), tokens, weights.float(), replaced
    )


Predict = Callable[[Int[Tensor, "b t h w"]], Float[Tensor, "b t h w k"]]


@torch.no_grad()
def generate(
    predict: Predict,
    size: tuple[int, int, int, int],
    *,
    condition_tokens: Int[Tensor, "b t h w"] | None = None,
    region: Bool[Tensor, "#b t h w"] | None = None,
    mode: Mode = "cond->input",
    steps: int = 12,
    temperature: float = 4.5,
    guidance: float = 0.0,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Int[Tensor, "b t h w"]:
    """Tokens, from nothing or from a condition.

    At every step all unknown tokens are drawn; then the ones with the lowest log p + temperature · (1 -
    progress) · Gumbel become unknown again, or condition tokens again inside the region.

    Args:
        predict: logits of all codes for tokens some of which are MASK.
        size: samples, and the grid.
        condition_tokens, region, mode: as in `mask_tokens`.
        steps: 12 as official.
        temperature: of the noise that chooses what stays; 0 at the last step.
        guidance: g in l + g · (l - l without condition tokens).
        generator: of what is drawn.
        device: to work on.
    """
    blank = torch.full(size, MASK, device=device)
    everything = torch.ones(size[0], device=device)
    start = condition_tokens if mode != "cond->input" and condition_tokens is not None else blank
    now = mask_tokens(
        start,
        torch.zeros(size, device=device),
        everything,
        condition_tokens=condition_tokens,
        region=region,
        mode=mode,
    )
    tokens = blank
    for step in range(1, steps + 1):
        logits = predict(now.tokens)
        if guidance:
            logits = logits + guidance * (logits - predict(now.without))
        log_share = F.log_softmax(logits.float(), -1)
        drawn = torch.multinomial(log_share.exp().flatten(0, -2), 1, generator=generator).view(size)
        tokens = torch.where(now.replaced, drawn, now.targets)
        if step == steps:
            break
        sure = log_share.gather(-1, tokens[..., None])[..., 0]
        uniform = torch.rand(size, generator=generator, device=device).clamp(1e-20, 1 - 1e-7)
        noise = temperature * (1 - step / steps) * -(-uniform.log()).log()
        scores = (sure + noise).masked_fill(~now.replaced, math.inf)
        now = mask_tokens(
            tokens,
            scores,
            cosine_ratio(torch.full((size[0],), step / steps, device=device)),
            condition_tokens=condition_tokens,
            region=region,
            mode=mode,
            most=now.replaced.flatten(1).sum(1) - 1,
        )
    return tokens
