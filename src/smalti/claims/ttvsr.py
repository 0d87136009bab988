"""TTVSR: attention along trajectories brings detail back into real clips that neighbours alone do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smalti import media
from smalti.backbones.ttvsr import TTVSR, Flows, TTVSRConfig
from smalti.backbones.ttvsr_training import charbonnier
from smalti.claims.base import Finding, Lab, claim
from smalti.errors import ConfigError
from smalti.media.worlds import World, render
from smalti.nn.flops import count_flops
from smalti.registry import replace
from smalti.training.corpora.fetch import cache_home
from smalti.training.corpora.manifest import Manifest

SCALE, SHORT, FRAMES, RATE = 4, 144, 12, 12.5  # pixels of the short side, frames of a window, a second
CROP, LENGTH, BATCH, STEPS = 96, 8, 2, 110
PICTURES, FIRST_STEPS = 8, 500  # single frames, at first, without any propagation
SMALL = TTVSRConfig(channels=24, extract=2, blocks=3, flow="zero", fine=16)
REACH = 5  # of the search for flow, in halves of coarse pixels
BICUBIC, WITHOUT, WITH = "bicubic", "without trajectories", "with trajectories"


class Window(NamedTuple):
    """Frames of a clip as they are and four times coarser, and the flow between the coarse ones.

    Attributes:
        fine: [1 3 t 4h 4w].
        coarse: [1 3 t h w].
        flows: of the coarse frames.
    """

    fine: Tensor
    coarse: Tensor
    flows: Flows


def window(frames: Float[Tensor, "1 3 t h w"]) -> Window:
    """A window of frames whose sides four divides."""
    flat = frames[0].transpose(0, 1)
    size = (flat.shape[2] // SCALE, flat.shape[3] // SCALE)
    coarse = F.interpolate(flat, size, mode="bicubic", antialias=True).clamp(0, 1)
    flows = Flows(matched(coarse[1:], coarse[:-1])[None], matched(coarse[:-1], coarse[1:])[None])
    return Window(frames, coarse.transpose(0, 1)[None], flows)


def matched(
    reference: Float[Tensor, "n 3 h w"], support: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n 2 h w"]:
    """Flow by search: the shift, to half a pixel, under which the surroundings of a pixel are most alike."""
    size = reference.shape[-2:]
    first, second = (
        F.interpolate(x.mean(1, keepdim=True), scale_factor=2, mode="bicubic", align_corners=False)
        for x in (reference, support)
    )
    height, width = first.shape[-2:]
    around = F.pad(second, (REACH,) * 4, mode="replicate")
    shifts = [(y, x) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1)]
    best = torch.full_like(first, torch.inf)
    flow = first.new_zeros(len(first), 2, height, width)
    for y, x in sorted(shifts, key=lambda shift: shift[0] ** 2 + shift[1] ** 2):  # at a tie the least
        moved = around[..., REACH + y : REACH + y + height, REACH + x : REACH + x + width]
        error = F.avg_pool2d((first - moved).square(), 9, 1, 4, count_include_pad=False)
        better = error < 0.98 * best
        best = torch.where(better, error, best)
        flow = torch.where(better, flow.new_tensor([x, y]).view(1, 2, 1, 1), flow)
    return F.interpolate(flow, size, mode="nearest") / 2


def real_windows(splits: Sequence[str], most: int) -> dict[str, Window]:
    """Windows of the corpus' clips: `most` of a long one, spread over it, else one from its middle.

    Raises:
        ConfigError: the corpus is not assembled on this machine.
    """
    root = cache_home() / "data" / "clips"
    manifest = Manifest.read(root)
    if manifest is None:
        raise ConfigError("no clips: assemble them with smalti data clips")
    found = {}
    for item in manifest.items:
        if item.split not in splits or not item.fps or item.fps > 100:
            continue
        start, end = item.start or 0.0, item.end or item.frames / item.fps
        count = min(most, max(int((end - start) / 20), 1))
        share = SHORT / min(item.width, item.height)
        size = tuple(round(side * share / SCALE) * SCALE for side in (item.height, item.width))
        for number in range(count):
            middle = start + (end - start) * (number + 0.5) / count
            begin = max(middle - FRAMES / RATE / 2, start)
            cut = media.read(
                root / item.file,
                size=size,
                fps=RATE,
                start=begin,
                end=begin + (FRAMES + 0.5) / RATE,
                progress=False,
            )
            if cut.pixels.shape[2] >= FRAMES:
                pixels = cut.pixels[:, :, :FRAMES]
                found[f"{item.package}, {item.inner.rpartition('/')[2]}, {begin:.0f} s"] = window(pixels)
    return found


def rendered_windows(first: int, count: int) -> dict[str, Window]:
    """The same of small worlds, for a quick run."""
    world = World(96, 96, FRAMES)
    return {
        f"world {seed}": window(render(world.scene(seed)).pixels[None])
        for seed in range(first, first + count)
    }


def cut_out(whole: Window, begin: int, top: int, left: int, side: int, length: int) -> Window:
    """A part of a window; `top`, `left` and `side` in coarse pixels."""
    rows, columns = slice(top, top + side), slice(left, left + side)
    fine_rows, fine_columns = (slice(SCALE * x, SCALE * (x + side)) for x in (top, left))
    return Window(
        whole.fine[:, :, begin : begin + length, fine_rows, fine_columns],
        whole.coarse[:, :, begin : begin + length, rows, columns],
        Flows(*(flow[:, begin : begin + length - 1, :, rows, columns] for flow in whole.flows)),
    )


def on_frames(windows: Sequence[Window], steps: int, seed: int) -> dict[str, Tensor]:
    """Weights of a network that has learned to restore single frames: what both networks start from."""
    torch.manual_seed(seed)
    model = TTVSR(SMALL)
    fit(model, windows, steps, seed, PICTURES, 1, 2e-3)
    return model.state_dict()


def train(
    attend: bool, weights: dict[str, Tensor], windows: Sequence[Window], steps: int, seed: int
) -> TTVSR:
    """A network with or without trajectories, taught on clips."""
    model = TTVSR(replace(SMALL, {"attend": attend}))
    model.load_state_dict(weights if attend else {n: t for n, t in weights.items() if "attention" not in n})
    fit(model, windows, steps, seed + 1, BATCH, LENGTH, 1e-3)
    return model.eval()


def fit(
    model: TTVSR, windows: Sequence[Window], steps: int, seed: int, batch: int, length: int, rate: float
) -> None:
    """Charbonnier's loss and Adam, the rate falling along a cosine."""
    optimizer = torch.optim.Adam(model.parameters(), rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, rate / 20)
    generator = torch.Generator().manual_seed(seed)
    side = CROP // SCALE

    def draw(most: int) -> int:
        return int(torch.randint(most, (), generator=generator))

    for _ in range(steps):
        parts = []
        for _ in range(batch):
            whole = windows[draw(len(windows))]
            height, width = whole.coarse.shape[-2:]
            place = draw(FRAMES - length + 1), draw(height - side + 1), draw(width - side + 1)
            parts.append(cut_out(whole, *place, side, length))
        fine, coarse = (torch.cat([part[field] for part in parts]) for field in (0, 1))
        flows = Flows(*(torch.cat(both) for both in zip(*(part.flows for part in parts), strict=True)))
        loss = charbonnier(model.restore(coarse, flows), fine)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def decibels(error: Tensor) -> float:
    """PSNR of a difference of pixels in [0, 1]."""
    return -10 * error.square().mean().log10().item()


def judged(restored: Float[Tensor, "1 3 t h w"], whole: Window) -> dict[str, float]:
    """PSNR of the frames, and of what changes from one to the next."""
    error = restored - whole.fine
    return {"psnr": decibels(error), "time": decibels(error.diff(dim=2))}


@claim("ttvsr", minutes=4.0)
def ttvsr(lab: Lab) -> Finding:
    """Clips that no training saw, made four times finer by networks that differ in trajectories alone."""
    if lab.quick:
        training, tested = rendered_windows(0, 2), rendered_windows(100, 2)
    else:
        training, tested = real_windows(("train",), 8), real_windows(("held-out",), 1)
    rows: list[dict[str, Any]] = []
    for name, whole in tested.items():
        flat = whole.coarse[0].transpose(0, 1)
        bicubic = F.interpolate(flat, scale_factor=SCALE, mode="bicubic", align_corners=False).clamp(0, 1)
        rows.append({"clip": name, "method": BICUBIC, **judged(bicubic.transpose(0, 1)[None], whole)})
    for seed in lab.seeds:
        weights = on_frames(list(training.values()), lab.some(FIRST_STEPS, 2), seed)
        for method, attend in ((WITHOUT, False), (WITH, True)):
            model = train(attend, weights, list(training.values()), lab.some(STEPS, 2), seed)
            for name, whole in tested.items():
                restored = model.upscale(whole.coarse, whole.flows)
                rows.append({"clip": name, "method": method, "seed": seed, **judged(restored, whole)})
    model = TTVSR(SMALL).eval()
    plain = TTVSR(replace(SMALL, {"attend": False})).eval()
    for side in (32, 64):
        clip = torch.rand(1, 3, LENGTH, side, side)
        more = count_flops(model, clip) - count_flops(plain, clip)
        measure = "multiply-adds of trajectories a pixel"
        rows.append({"measure": measure, "side": side, "count": more / side**2})
    return told(rows, len(training))


def told(rows: list[dict[str, Any]], windows: int) -> Finding:
    """What the measurements say.

    Args:
        rows: measurements.
        windows: that were trained on.
    """
    tested = list(dict.fromkeys(row["clip"] for row in rows if "clip" in row))
    extra = [row["count"] for row in rows if "count" in row]
    seeds = sorted({row["seed"] for row in rows if "seed" in row})

    def mean(method: str, field: str, **of: Any) -> float:
        wanted = {"method": method, **of}.items()
        found = [row[field] for row in rows if all(row.get(key) == value for key, value in wanted)]
        return sum(found) / len(found)

    def gains(field: str) -> list[float]:
        """Of trajectories, for every seed."""
        return [mean(WITH, field, seed=seed) - mean(WITHOUT, field, seed=seed) for seed in seeds]

    better = sum(mean(WITH, "psnr", clip=name) > mean(WITHOUT, "psnr", clip=name) for name in tested)

    def draw(axes: Any) -> None:
        for method in (WITHOUT, WITH):
            above = [mean(method, "psnr", clip=name) - mean(BICUBIC, "psnr", clip=name) for name in tested]
            axes.plot(above, range(len(tested)), "o", label=method)
        axes.axvline(0, color="black", linewidth=1)
        axes.set_yticks(range(len(tested)), [name[:24] for name in tested], fontsize=7)
        axes.set(xlabel="PSNR above bicubic, dB")
        axes.legend(fontsize=8)

    methods = (BICUBIC, WITHOUT, WITH)
    return Finding(
        statements={
            "on held-out clips it beats bicubic in PSNR": mean(WITH, "psnr") > mean(BICUBIC, "psnr"),
            "with trajectories its PSNR is above that of the same network without them, for every seed": (
                min(gains("psnr")) > 0
            ),
            "what changes from frame to frame is truer than with bicubic": mean(WITH, "time")
            > mean(BICUBIC, "time"),
            "it is truer than without trajectories, for every seed": min(gains("time")) > 0,
            "what trajectories cost a pixel does not grow with the picture": extra[1] <= 1.01 * extra[0],
        },
        figure="; ".join(
            f"{method} {mean(method, 'psnr'):.2f} dB, changes {mean(method, 'time'):.2f} dB"
            for method in methods
        )
        + "; trajectories gain "
        + ", ".join(f"{gain:+.4f}" for gain in gains("psnr"))
        + " dB by seed, in changes "
        + ", ".join(f"{gain:+.4f}" for gain in gains("time"))
        + f", and are better on {better} of {len(tested)} clips; they cost {extra[0]:.0f} and {extra[1]:.0f} "
        "multiply-adds a pixel at 32 and 64 pixels",
        rows=rows,
        data=f"{len(tested)} held-out clips of the corpus, {FRAMES} frames of {SHORT} pixels or more, "
        f"restored from a quarter of it; trained on {windows} windows of other clips",
        notes="24 channels and 3 blocks instead of 64 and 60. Both networks start from the same "
        f"{FIRST_STEPS} steps on single frames and learn for {STEPS} of {BATCH} clips, instead of 400,000 "
        "of 8. Flow is given to both, by search to half a pixel, instead of SPyNet. "
        "Taught from nothing by 160 steps of clips alone, both stayed at bilinear enlargement (23.52 dB). "
        "So few steps teach little use of far frames: gains are of the size of the difference of seeds.",
        draw=draw,
    )
