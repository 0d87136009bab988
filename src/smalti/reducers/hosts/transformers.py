"""Reducers in the vision models of transformers: ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP, VideoMAE, ViViT.

```
layer(x, log mass)                inside:  norm ► attention ► + ► step ► norm ► mlp ► +   (a class of its own)
   taps on the query and key       after:  layer ► step                                   (a hook)
   projections
heads that pool: mean by mass, attention pooling with log mass
dense heads, backbones: all tokens restored
```
The attention implementation of the configuration stays: eager or SDPA take log mass as a mask; the
others fit methods that weigh nothing. `hidden_states` have as many tokens as there were at each layer.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import UnsupportedError
from smalti.reducers.hosts.base import Host, Sizes, Undo, weighted_mean
from smalti.reducers.hosts.handle import Handle, Seen
from smalti.reducers.hosts.transformers_towers import (
    DENSE,
    MEANS,
    TASKS,
    TOWERS,
    Family,
    kind,
    videomae_attention,
)

BIASED = ("eager", "sdpa")  # implementations of attention that add a mask of numbers


class TransformersHost(Host):
    """A vision tower, alone or inside a model for a task."""

    def __init__(self, outer: nn.Module, tower: nn.Module, family: Family) -> None:
        self.outer, self.tower, self.family = outer, cast(Any, tower), family
        self.model = tower
        self.blocks = list(cast(Any, tower.get_submodule(family.layers)))
        self.prefix = _prefix(self.tower.embeddings) + _first_is_pooled(outer)
        self.patch = _patch(self.tower.config)
        self.pixels: tuple[int, ...] = ()
        self.sizes = _sizes(self.blocks[0], family, self.tower.config.hidden_size)

    @classmethod
    def find(cls, model: nn.Module) -> Host | None:
        """Towers, and the models for tasks whose use of them is known."""
        if not kind(model, (*TOWERS, *TASKS, *DENSE)):
            return None
        for module in model.modules():
            name = kind(module, TOWERS)
            if name:
                return cls(model, module, TOWERS[name])
        return None

    def grid(self, tokens: int) -> tuple[int, int, int] | None:
        """(t, h, w) of the patches, if all of them are there."""
        *front, height, width = self.pixels
        frames = front[1] if len(front) == 3 else 1
        t, h, w = (size // patch for size, patch in zip((frames, height, width), self.patch, strict=True))
        return (t, h, w) if t * h * w == tokens - self.prefix else None

    def install(self, handle: Handle, undo: Undo) -> None:
        """Hooks around every layer, a class with its own `forward` where tokens leave inside it."""
        undo.hook(self.tower.register_forward_pre_hook(_NoMask(self.tower), with_kwargs=True))
        undo.hook(self.tower.embeddings.register_forward_pre_hook(self._look, prepend=True))
        for layer, block in enumerate(self.blocks):
            attention = block.get_submodule(self.family.attention)
            call = _Around(handle, layer, _Taps(attention, self.family, undo))
            undo.hook(block.register_forward_pre_hook(call.before, with_kwargs=True))
            if not self.family.takes_mask:
                undo.put(attention, "smalti", call)
                undo.swap(attention, "Biased", videomae_attention)
            if handle.reducer.place == "inside":
                undo.put(block, "smalti", call)
                undo.swap(block, "Reduced", self.family.forward)
            else:
                undo.hook(block.register_forward_hook(call.after, prepend=True))
        _Pool(handle).install(self.outer, self.tower, undo)
        if kind(self.outer, DENSE):
            _Restore(handle).install(self.tower, undo)

    def _look(self, embeddings: nn.Module, args: tuple[Any, ...]) -> None:
        self.pixels = tuple(args[0].shape)


class _NoMask:
    """Refuses a caller's attention mask, which speaks of tokens that leave."""

    def __init__(self, tower: nn.Module) -> None:
        names = list(inspect.signature(tower.forward).parameters)
        self.place = names.index("attention_mask") if "attention_mask" in names else len(names)

    def __call__(self, tower: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = (*args[self.place : self.place + 1], kwargs.get("attention_mask"))
        if any(mask is not None for mask in given):
            raise UnsupportedError("a reduced model takes no attention mask of its own")


class _Taps:
    """Queries and keys of the attention that ran last, before rotation."""

    def __init__(self, attention: Any, family: Family, undo: Undo) -> None:
        self.attention, self.family = attention, family
        self.found: dict[str, Tensor] = {}
        for name in (family.query, family.key):
            undo.hook(getattr(attention, name).register_forward_hook(_Tap(self.found, name[0])))

    def take(self, rotations: tuple[Tensor, Tensor] | None) -> Seen:
        """What was seen, rotated as the attention does; forgotten afterwards."""
        attention = self.attention
        width = getattr(attention, "head_dim", None) or attention.attention_head_size
        q, k = (self.found.pop(name).unflatten(-1, (-1, width)).transpose(1, 2) for name in "qk")
        if rotations is not None:
            from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

            q, k = apply_rotary_pos_emb(q, k, *rotations)
        return q, k, width**-0.5


class _Tap:
    """A hook that remembers what a projection gave."""

    def __init__(self, found: dict[str, Tensor], name: str) -> None:
        self.found, self.name = found, name

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.found[self.name] = output


class _Around:
    """What happens before and after one layer."""

    def __init__(self, handle: Handle, layer: int, taps: _Taps) -> None:
        self.handle, self.layer, self.taps = handle, layer, taps
        self.bias: Tensor | None = None
        self.rotations: tuple[Tensor, Tensor] | None = None

    def before(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x, *_ = args  # a mask that is there is one of all tokens, made while tracing
        kwargs = {name: value for name, value in kwargs.items() if name != "attention_mask"}
        self.handle.enter(self.layer, x)
        self.bias = self.handle.bias(self.layer, x.dtype)
        if self.handle.weighs:
            _may_bias(self.taps.attention.config._attn_implementation)
        if kwargs.get("position_embeddings") is not None:
            self.rotations = kwargs["position_embeddings"] = self._kept(kwargs["position_embeddings"])
        return ((x, self.bias) if self.taps.family.takes_mask else (x,)), kwargs

    def _kept(self, rotations: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Rotations of the tokens that are left: a merged one turns as its heaviest source does."""
        where = self.handle.origin(self.layer)
        if where is None:
            return rotations
        patches = where[:, self.handle.host.prefix :] - self.handle.host.prefix
        cos, sin = (turn[patches][:, None] for turn in rotations)
        return cos, sin

    def step(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        return self.handle.step(self.layer, x, self.taps.take(self.rotations))

    def after(self, block: nn.Module, args: Any, x: Tensor) -> Tensor:
        return self.step(x)


def _may_bias(implementation: str) -> None:
    if implementation not in BIASED:
        raise UnsupportedError(
            f"attention of kind {implementation!r} takes no bias, but this method weighs merged tokens: "
            'call model.set_attn_implementation("sdpa") first, or choose a method that weighs nothing'
        )


class _Pool:
    """Means by mass in the heads that take means, and log mass in SigLIP's attention pooling."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.last: Tensor | None = None

    def install(self, outer: nn.Module, tower: Any, undo: Undo) -> None:
        name = kind(outer, MEANS)
        head = getattr(outer, MEANS[name]) if name else None
        if head is not None:
            undo.hook(tower.register_forward_hook(self._look))
            undo.hook(head.register_forward_pre_hook(self._mean))
        if getattr(tower, "use_head", False):
            undo.hook(tower.head.attention.register_forward_pre_hook(self._mask, with_kwargs=True))

    def _look(self, tower: nn.Module, args: Any, output: Any) -> None:
        self.last = output[0]

    def _mean(self, head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """The mean stands alone in what the head is given, or behind the class token."""
        assert self.last is not None
        front = self.handle.host.prefix
        tokens, self.last = self.last[:, front:], None
        mean = weighted_mean(tokens, self.handle.mass_of(tokens, front))
        return (torch.cat([args[0][:, : -mean.shape[1]], mean], 1),)

    def _mask(self, attention: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
        mass = self.handle.mass_of(args[1])
        if mass is not None:
            bias = mass.log().to(args[0].dtype)[:, None]
            kwargs["attn_mask"] = bias.repeat_interleave(attention.num_heads, 0)
        return args, kwargs


class _Restore:
    """All tokens again, for backbones and for heads that paint pictures; dropped tokens as they last were."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        handle.dense = True

    def install(self, tower: Any, undo: Undo) -> None:
        encoder = getattr(tower, "encoder", None) or getattr(tower, "model", None)
        if encoder is not None:
            undo.hook(encoder.register_forward_hook(self._levels))
        else:
            undo.hook(tower.layernorm.register_forward_pre_hook(self._last))

    def _last(self, norm: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        whole = self.handle.restore(args[0])
        self.handle.forget()
        return (whole,)

    def _levels(self, encoder: nn.Module, args: Any, output: Any) -> Any:
        restore = self.handle.restore
        output.last_hidden_state = restore(output.last_hidden_state)
        if output.hidden_states is not None:
            first, *levels = output.hidden_states
            levels = [None if y is None else restore(y, layer) for layer, y in enumerate(levels)]
            output.hidden_states = (first, *levels)
        self.handle.forget()
        return output


def _prefix(embeddings: Any) -> int:
    """Class, distillation and register tokens."""
    single = ("cls_token", "class_embedding", "distillation_token")
    registers = getattr(embeddings, "register_tokens", None)
    return sum(hasattr(embeddings, name) for name in single) + (
        0 if registers is None else registers.shape[1]
    )


def _first_is_pooled(outer: Any) -> bool:
    """VideoMAE without a mean classifies from its first patch, which so may not leave."""
    return kind(outer, ("VideoMAEForVideoClassification",)) != "" and outer.fc_norm is None


def _patch(config: Any) -> tuple[int, int, int]:
    tube = getattr(config, "tubelet_size", 1)
    if not isinstance(tube, int):
        t, h, w = tube
        return t, h, w
    size = config.patch_size
    h, w = (size, size) if isinstance(size, int) else size
    return tube, h, w


def _sizes(block: nn.Module, family: Family, dim: int) -> Sizes:
    attention = family.attention.partition(".")[0]
    products = [m for name, part in block.named_children() if name != attention for m in part.modules()]
    weights = sum(m.weight.numel() for m in products if isinstance(m, nn.Linear))
    return Sizes(dim, weights / (2 * dim))


HOSTS: tuple[type[Host], ...] = (TransformersHost,)
