"""Reducers in models that other people wrote, and in ours: `smalti.reduce(model, "tome", keep=0.5)`.

`timm.py`, `transformers.py` and `open_clip.py` know one library each, `smalti_backbones.py` our own models;
none of them is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from smalti import registry
from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers.base import Reducer
from smalti.reducers.hosts.base import Host
from smalti.reducers.hosts.handle import Handle
from smalti.reducers.schedule import Schedule


def reduce(
    model: nn.Module,
    reducer: str | Reducer,
    preset: str | None = None,
    *,
    keep: float | None = None,
    r: int | tuple[int, float] | Sequence[int] | None = None,
    flops: float | None = None,
    counts: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    **options: Any,
) -> Handle:
    """Make a pretrained model run on fewer tokens, until `handle.undo()` or the end of a `with`.

    ```
    with smalti.reduce(model, "tome", keep=0.5) as handle:
        logits = model(images)
    ```
    Args:
        model: a vision model of timm, transformers or open_clip, or one of our backbones of plain blocks.
        reducer: a name that `smalti.systems("reducers")` knows, or a reducer.
        preset: of the reducer.
        keep: share of the tokens that is left after the last block.
        r: tokens to remove at every block: a number, (number, inflection), or a list.
        flops: share of the blocks' arithmetic that is left.
        counts: tokens left after every block.
        layers: blocks at which tokens leave, from 0; the method's own choice when not given.
        options: of the reducer's configuration.

    Raises:
        UnsupportedError: a model that no host knows; the message says what was looked for.
        ConfigError: an unknown reducer or option, a share outside (0, 1], a model that is reduced already.
    """
    if isinstance(reducer, str):
        reducer = registry.create(reducer, preset, room="reducers", **options)
    elif options or preset:
        raise ConfigError(
            f"options {sorted(options)} belong to a reducer's name, not to a reducer that is made"
        )
    given = (r, keep, flops, counts)
    own = getattr(reducer, "counts", None)
    if all(value is None for value in given) and own is not None:
        keep = 1.0  # the method's own schedule
    schedule = Schedule(r, keep, flops, counts, layers)
    assert isinstance(reducer, Reducer)
    return Handle(find(model), reducer, schedule)


def find(model: nn.Module) -> Host:
    """The host of a model.

    Raises:
        UnsupportedError: none knows it.
    """
    inner = getattr(model, "_orig_mod", model)  # as torch.compile wraps it
    library = {cls.__module__.partition(".")[0] for cls in type(inner).__mro__}
    if "timm" in library:
        from smalti.reducers.hosts.timm import HOSTS
    elif "transformers" in library:
        from smalti.reducers.hosts.transformers import HOSTS
    elif "open_clip" in library:
        from smalti.reducers.hosts.open_clip import HOSTS
    elif "smalti" in library:
        from smalti.reducers.hosts.smalti_backbones import HOSTS
    else:
        HOSTS = ()
    for host in HOSTS:
        found = host.find(inner)
        if found is not None:
            return found
    raise UnsupportedError(
        f"no host knows {type(inner).__module__}.{type(inner).__name__}: looked for vision transformers of "
        "timm (VisionTransformer, Eva, Swin), transformers (ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP, "
        "VideoMAE, ViViT: bare, classifiers, two towers, backbones, masked modeling), "
        "open_clip (VisionTransformer, and timm's) and smalti (t2t-vit, tokenformer, vivit-adapter)"
    )
