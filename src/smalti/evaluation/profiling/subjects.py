"""Names → what takes part: a backbone beside a plain transformer of its size, or all mixers of tokens."""

from __future__ import annotations

import inspect
import re

import torch

from smalti import registry
from smalti.backbones.ecoformer import ADD, MULTIPLY
from smalti.errors import ConfigError, UnsupportedError
from smalti.evaluation.profiling.contender import Call, Contender, clip_shape, pixels
from smalti.evaluation.profiling.mixers import mixers
from smalti.evaluation.profiling.plain import HEAD, plain_of
from smalti.nn.flops import count_flops

MIXERS = "mixers"
WIDTH, HEADS = 384, 6
PIXELS = r"'b 3 ([t1] )?h w'"  # as signatures write them
FRAMES = 8  # of a clip, for backbones of video whose configuration names no number


def contenders(
    name: str, preset: str | None = None, width: int | None = None, heads: int | None = None
) -> list[Contender]:
    """The plain contender, then what it is measured beside.

    Args:
        name: of a backbone, or "mixers".
        preset: of the backbone.
        width: channels of the mixers, 384 when not given.
        heads: of the mixers, 6 when not given.

    Raises:
        ConfigError: an unknown name, or options of the other kind of subject.
        UnsupportedError: a backbone that reads something other than pixels.
    """
    if name == MIXERS:
        if preset is not None:
            raise ConfigError("mixers have no presets: choose their width and heads")
        wide, many = width or WIDTH, heads or HEADS
        if wide < 1 or many < 1 or wide % many:
            raise ConfigError(f"{many} heads do not divide {wide} channels")
        return mixers(wide, many)
    if width is not None or heads is not None:
        raise ConfigError(f"width and heads are those of mixers: choose a preset of {name}")
    return _backbone(name, preset)


def _backbone(name: str, preset: str | None) -> list[Contender]:
    card = registry.card(name, "backbones")
    source = str(next(iter(list(inspect.signature(card.cls.forward).parameters.values())[1:])).annotation)
    axes = re.search(PIXELS, source)
    if axes is None:
        raise UnsupportedError(f"{name} reads {source}, not pixels: its cost cannot be profiled")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = registry.create(name, preset, room="backbones").eval().requires_grad_(False)
        parameters = sum(p.numel() for p in model.parameters())
        plain = plain_of(parameters).eval().requires_grad_(False)
    frames = getattr(getattr(model, "config", None), "frames", None)
    if frames is None:
        frames = FRAMES if "video" in card.tags and "image" not in card.tags else 1
    if axes[1] != "t ":
        frames = 1

    def prepare(tokens: int) -> Call:
        clip = pixels(tokens, frames)
        source = clip if axes[1] else clip[:, :, 0]
        return lambda: model(source)

    def prepare_plain(tokens: int) -> Call:
        clip = pixels(tokens, frames)
        return lambda: plain(clip)

    counted = hasattr(model, "energy")

    def energy(tokens: int) -> float:
        return model.energy(clip_shape(tokens, frames)).joules

    def plain_energy(tokens: int) -> float:
        return count_flops(plain, pixels(tokens, frames)) * (MULTIPLY + ADD) * 1e-12

    seen = f"clips of up to {frames} frames" if frames > 1 else "pictures"
    width, depth = plain.norm.normalized_shape[0], len(plain.blocks)
    return [
        Contender(
            "plain transformer",
            sum(p.numel() for p in plain.parameters()),
            prepare_plain,
            f"{depth} blocks of {width} channels and {width // HEAD} heads, fused attention over all tokens",
            plain_energy if counted else None,
        ),
        Contender(
            name,
            parameters,
            prepare,
            f"preset {preset or next(iter(card.presets))}, on {seen}; parameters include those of its heads",
            energy if counted else None,
        ),
    ]
