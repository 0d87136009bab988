"""Reducers in timm's vision transformers: ViT, DeiT, DINOv2, CLIP and SigLIP towers, the Eva family, Swin.

```
block(x, attn_mask=log mass)        inside:  norm1 ► attn ► + ► step ► norm2 ► mlp ► +
   taps on attn.q_norm, attn.k_norm  after:  block ► step
pool: mean by mass, or attention pooling with log mass        forward_intermediates: all tokens restored
```
"""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

import torch
from jaxtyping import Float
from timm.layers import apply_rot_embed_cat
from timm.models import eva, swin_transformer, vision_transformer
from torch import Tensor, nn

from smalti.errors import UnsupportedError
from smalti.reducers.hosts.base import Host, Sizes, Undo, body_of, weighted_mean
from smalti.reducers.hosts.handle import Handle, Seen


class Taps:
    """Queries and keys of the attention that ran last, before rotation."""

    def __init__(self, attention: nn.Module, undo: Undo) -> None:
        self.q = self.k = None
        undo.hook(cast(nn.Module, attention.q_norm).register_forward_hook(self._query))
        undo.hook(cast(nn.Module, attention.k_norm).register_forward_hook(self._key))

    def _query(self, module: nn.Module, given: Any, q: Tensor) -> None:
        self.q = q

    def _key(self, module: nn.Module, given: Any, k: Tensor) -> None:
        self.k = k

    def take(self, attention: Any, rope: Tensor | None) -> Seen:
        """What was seen, rotated as the attention does; forgotten afterwards."""
        q, k, self.q, self.k = self.q, self.k, None, None
        assert q is not None
        assert k is not None
        if rope is not None:
            half, front = getattr(attention, "rotate_half", False), attention.num_prefix_tokens
            q, k = (
                torch.cat([x[:, :, :front], apply_rot_embed_cat(x[:, :, front:], rope, half=half)], 2)
                for x in (q, k)
            )
        return q, k, attention.scale


class TimmHost(Host):
    """A `VisionTransformer` or `Eva` of plain pre-norm blocks."""

    def __init__(self, model: Any) -> None:
        self.model, self.blocks, self.prefix = model, model.blocks, model.num_prefix_tokens
        self.sizes = _sizes(model.blocks[0])

    @classmethod
    def find(cls, model: nn.Module) -> Host | None:
        """ViT, DeiT and Eva models."""
        if not isinstance(model, vision_transformer.VisionTransformer | eva.Eva):
            return None
        blocks = {type(block) for block in cast(Any, model).blocks}
        known = {vision_transformer.Block, eva.EvaBlock}
        if blocks - known:
            names = ", ".join(sorted(cls.__name__ for cls in blocks - known))
            raise UnsupportedError(
                f"blocks of kind {names} do not compute attention and MLP one after the other from the same "
                "stream: only Block and EvaBlock of timm do"
            )
        pool = getattr(model, "global_pool", "")
        if pool in ("prr", "avgmax"):
            raise UnsupportedError(
                f"a pool of kind {pool!r} takes no mask, so merged tokens cannot be weighed in it"
            )
        return cls(model)

    def grid(self, tokens: int) -> tuple[int, int, int] | None:
        """The patch grid of the model's own size, or a square."""
        size = getattr(self.model.patch_embed, "grid_size", None)
        if size is not None and size[0] * size[1] == tokens - self.prefix:
            return (1, *size)
        return super().grid(tokens)

    def install(self, handle: Handle, undo: Undo) -> None:
        """Hooks around every block, its own `forward` where tokens leave inside it."""
        inside = handle.reducer.place == "inside"
        for layer, block in enumerate(self.blocks):
            taps = Taps(cast(nn.Module, block.attn), undo)
            call = _Around(handle, layer, taps)
            undo.hook(block.register_forward_pre_hook(call.before, with_kwargs=True))
            if inside:
                undo.put(block, "smalti", call)
                forward = _eva_forward if isinstance(block, eva.EvaBlock) else _block_forward
                undo.put(block, body_of(block), MethodType(forward, block))
            else:
                undo.hook(block.register_forward_hook(call.after, with_kwargs=True, prepend=True))
        self._weigh_pool(handle, undo)
        undo.put(self.model, "forward_intermediates", _Intermediates(self, handle))

    def _weigh_pool(self, handle: Handle, undo: Undo) -> None:
        model: Any = self.model
        if model.attn_pool is not None:
            skipped = 0 if isinstance(model, eva.Eva) or model.pool_include_prefix else self.prefix
            pool = _Pool(handle, skipped)
            undo.hook(model.attn_pool.register_forward_pre_hook(pool.mask, with_kwargs=True))
        elif model.global_pool == "avg":
            front = 0 if getattr(model, "pool_include_prefix", False) else self.prefix
            undo.put(model, "pool", _Pool(handle, front).mean)


class _Pool:
    """Pooling that weighs tokens by mass, behind `front` tokens that it does not see."""

    def __init__(self, handle: Handle, front: int) -> None:
        self.handle, self.front = handle, front

    def mask(self, pool: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mass = self.handle.mass_of(args[0], self.front)
        if mass is not None:
            kwargs["attn_mask"] = mass[:, None, None].log().to(args[0].dtype)
        return args, kwargs

    def mean(self, x: Float[Tensor, "b n d"], pool_type: str | None = None) -> Float[Tensor, "b d"]:
        if pool_type not in (None, "avg"):
            raise UnsupportedError(f"a reduced model pools by mass, not by {pool_type!r}")
        tokens = x[:, self.front :]
        return weighted_mean(tokens, self.handle.mass_of(tokens, self.front))


class _Around:
    """What happens before and after one block."""

    def __init__(self, handle: Handle, layer: int, taps: Taps) -> None:
        self.handle, self.layer, self.taps = handle, layer, taps
        self.rope: Tensor | None = None

    def before(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x, *rest = args
        self.handle.enter(self.layer, x)
        if isinstance(block, eva.EvaBlock):
            rope = kwargs.get("rope", rest[0] if rest else None)
            self.rope = kwargs["rope"] = _kept(rope, self.handle, self.layer)
            rest = []
        if kwargs.get("attn_mask") is not None or rest or kwargs.get("is_causal"):
            raise UnsupportedError("a reduced model takes no attention mask of its own")
        bias = self.handle.bias(self.layer, x.dtype)
        return (x,), kwargs if bias is None else {**kwargs, "attn_mask": bias}

    def step(self, block: Any, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        return self.handle.step(self.layer, x, self.taps.take(block.attn, self.rope))

    def after(self, block: nn.Module, args: Any, kwargs: Any, x: Tensor) -> Tensor:
        return self.step(block, x)


def _block_forward(
    block: Any, x: Float[Tensor, "b n d"], attn_mask: Tensor | None = None, is_causal: bool = False
) -> Float[Tensor, "b m d"]:
    """timm's `Block` with tokens leaving between attention and MLP."""
    x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), attn_mask=attn_mask)))
    x = block.smalti.step(block, x)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _eva_forward(
    block: Any,
    x: Float[Tensor, "b n d"],
    rope: Tensor | None = None,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Float[Tensor, "b m d"]:
    """timm's `EvaBlock` with tokens leaving between attention and MLP."""
    attended = block.attn(block.norm1(x), rope=rope, attn_mask=attn_mask)
    x = x + block.drop_path1(attended if block.gamma_1 is None else block.gamma_1 * attended)
    x = block.smalti.step(block, x)
    fed = block.mlp(block.norm2(x))
    return x + block.drop_path2(fed if block.gamma_2 is None else block.gamma_2 * fed)


def _kept(rope: Tensor | None, handle: Handle, layer: int) -> Tensor | None:
    """Rotations of the tokens that are left: a merged one turns as its heaviest source does."""
    where = handle.origin(layer)
    if rope is None or where is None:
        return rope
    patches = where[:, handle.host.prefix :] - handle.host.prefix
    kept = rope[..., patches, :]  # [b m d], or [heads b m d] where every head turns its own way
    return kept[:, None] if rope.ndim == 2 else kept.movedim(0, 1)


class _Intermediates:
    """`forward_intermediates` whose levels have all their tokens."""

    def __init__(self, host: TimmHost, handle: Handle) -> None:
        self.host, self.handle = host, handle
        self.original = cast(Any, type(host.model)).forward_intermediates

    def __call__(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        **options: Any,
    ) -> Any:
        from timm.models._features import feature_take_indices

        model, handle, prefix = cast(Any, self.host.model), self.handle, self.host.prefix
        levels, _ = feature_take_indices(len(model.blocks), indices)
        before, handle.dense = handle.dense, True
        try:
            found = self.original(
                model, x, indices, True, norm, stop_early, "NLC", intermediates_only, **options
            )
            final, parts = (None, found) if intermediates_only else found
            whole = [torch.cat([p[1], p[0]], 1) if prefix else p for p in parts]
            whole = [handle.restore(y, level) for y, level in zip(whole, sorted(set(levels)), strict=True)]
            final = None if final is None else handle.restore(final)
        finally:
            handle.dense = before
            handle.forget()
        maps = [y[:, prefix:] for y in whole]
        if output_fmt == "NCHW":
            h, w = model.patch_embed.dynamic_feat_size(x.shape[-2:])
            maps = [y.unflatten(1, (h, w)).permute(0, 3, 1, 2).contiguous() for y in maps]
        fronts = [y[:, :prefix] for y in whole]
        if output_dict:
            named: dict[str, Any] = {"image_intermediates": maps}
            if prefix and return_prefix_tokens:
                named["image_intermediates_prefix"] = fronts
            return named if intermediates_only else {**named, "image_features": final}
        if return_prefix_tokens and prefix:
            maps = list(zip(maps, fronts, strict=True))
        return maps if intermediates_only else (final, maps)


class SwinHost(Host):
    """A `SwinTransformer`: tokens leave inside the windows of attention and come back before it ends."""

    @classmethod
    def find(cls, model: nn.Module) -> Host | None:
        """Swin models are refused with the reason."""
        if isinstance(model, swin_transformer.SwinTransformer):
            raise UnsupportedError(
                "Swin keeps its tokens on a grid between blocks: only methods that work inside windows fit, "
                "such as cluster-reconstruct on its own backbone"
            )
        return None


def _sizes(block: Any) -> Sizes:
    products = [m for m in block.mlp.modules() if isinstance(m, nn.Linear)]
    dim = (
        block.norm1.normalized_shape[0]
        if hasattr(block.norm1, "normalized_shape")
        else products[0].in_features
    )
    return Sizes(dim, sum(m.weight.numel() for m in products) / (2 * dim))


HOSTS: tuple[type[Host], ...] = (TimmHost, SwinHost)
