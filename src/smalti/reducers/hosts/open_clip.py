"""Reducers in the vision towers of open_clip: its own, and timm's by way of their own host.

```
block(x)     inside:  ln_1 ► attn (+ log mass) ► + ► step ► ln_2 ► mlp ► +
              after:  block ► step
pool: mean by mass, or attention pooling with log mass
forward_intermediates: levels have all their tokens
```
`attn` is a `MultiheadAttention`, which has no place for a bias of keys alone: while reduced, it has
another `forward` with the same weights. Token outputs have as many tokens as are left.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

from jaxtyping import Float
from open_clip import transformer
from open_clip.timm_model import TimmModel
from open_clip.utils import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import UnsupportedError
from smalti.reducers.hosts.base import Host, Sizes, Undo, body_of, weighted_mean
from smalti.reducers.hosts.handle import Handle, Seen


class OpenClipHost(Host):
    """open_clip's own `VisionTransformer`, alone or as `model.visual`."""

    prefix = 1

    def __init__(self, model: Any) -> None:
        self.model, self.tower, self.blocks = model, model, list(model.transformer.resblocks)
        self.first = _batch_dimension(self.blocks[0])
        products = [m for m in self.blocks[0].mlp.modules() if isinstance(m, nn.Linear)]
        dim = model.transformer.width
        self.sizes = Sizes(dim, sum(m.weight.numel() for m in products) / (2 * dim))

    @classmethod
    def find(cls, model: nn.Module) -> Host | None:
        """Towers, and models that have one as `visual`."""
        visual = getattr(model, "visual", model)
        if isinstance(visual, TimmModel):
            return _timm_host(visual)
        if not isinstance(visual, transformer.VisionTransformer):
            return None
        for block in cast(Any, visual.transformer.resblocks):
            if getattr(block.attn, "logit_scale", None) is not None:
                raise UnsupportedError(
                    "attention by scaled cosines takes no bias: merged tokens cannot be weighed"
                )
        return cls(visual)

    def grid(self, tokens: int) -> tuple[int, int, int] | None:
        """The patch grid of the tower's size."""
        h, w = self.tower.grid_size
        return (1, h, w) if h * w == tokens - 1 else None

    def install(self, handle: Handle, undo: Undo) -> None:
        """Hooks around every block, its own `forward` where tokens leave inside it."""
        for layer, block in enumerate(self.blocks):
            call = _Around(handle, layer, self.first)
            undo.hook(block.register_forward_pre_hook(call.before, with_kwargs=True))
            attention: Any = block.attn
            if isinstance(attention, nn.MultiheadAttention):
                undo.put(attention, "smalti", call)
                undo.put(attention, body_of(attention), MethodType(_attention, attention))
            else:
                undo.hook(attention.ln_q.register_forward_hook(call.query))
                undo.hook(attention.ln_k.register_forward_hook(call.key))
            if handle.reducer.place == "inside":
                undo.put(block, "smalti", call)
                undo.put(block, body_of(block), MethodType(_block_forward, block))
            else:
                undo.hook(block.register_forward_hook(call.after, prepend=True))
        _Pool(handle).install(self.tower, undo)
        undo.put(
            self.tower.transformer, "forward_intermediates", _Intermediates(self.tower.transformer, handle)
        )


class _Around:
    """What happens before, within and after one block; `first` is the dimension that counts the batch."""

    def __init__(self, handle: Handle, layer: int, first: int) -> None:
        self.handle, self.layer, self.first = handle, layer, first
        self.bias: Tensor | None = None
        self.q: Tensor | None = None
        self.k: Tensor | None = None

    def before(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x, *rest = args
        if any(value is not None for value in (*rest, *kwargs.values())):
            raise UnsupportedError("a reduced model takes no attention mask of its own")
        x_first = x.transpose(0, self.first)
        self.handle.enter(self.layer, x_first)
        self.bias = self.handle.bias(self.layer, x.dtype)
        by_argument = isinstance(block, transformer.CustomResidualAttentionBlock)
        return (x,), {"attn_mask": self.bias} if by_argument else {}

    def query(self, norm: nn.Module, args: Any, q: Tensor) -> None:
        self.q = q

    def key(self, norm: nn.Module, args: Any, k: Tensor) -> None:
        self.k = k

    def take(self) -> Seen:
        q, k, self.q, self.k = self.q, self.k, None, None
        assert q is not None
        assert k is not None
        return q, k, q.shape[-1] ** -0.5

    def step(self, x: Tensor) -> Tensor:
        """Reduce tokens in the block's own order of dimensions."""
        return self.handle.step(self.layer, x.transpose(0, self.first), self.take()).transpose(0, self.first)

    def after(self, block: nn.Module, args: Any, x: Tensor) -> Tensor:
        return self.step(x)


def _attention(
    attn: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    need_weights: bool = False,
    attn_mask: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Self-attention with the weights of a `MultiheadAttention`, and a bias of keys."""
    x = query.transpose(0, attn.smalti.first)
    projected = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = projected.unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    attn.smalti.q, attn.smalti.k = q, k
    dropout = attn.dropout if attn.training else 0.0
    mixed = F.scaled_dot_product_attention(q, k, v, attn.smalti.bias, dropout)
    return attn.out_proj(mixed.transpose(1, 2).flatten(2)).transpose(0, attn.smalti.first), None


def _block_forward(
    block: Any, x: Tensor, k_x: None = None, v_x: None = None, attn_mask: Tensor | None = None
) -> Tensor:
    """open_clip's blocks with tokens leaving between attention and MLP."""
    x = block.smalti.step(x + block.ls_1(_attended(block, block.ln_1(x), attn_mask)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _attended(block: Any, x: Tensor, attn_mask: Tensor | None) -> Tensor:
    if isinstance(block, transformer.CustomResidualAttentionBlock):
        return block.ln_attn(block.attn(x, attn_mask=attn_mask))
    return block.attention(x)


class _Pool:
    """Pooling that weighs tokens by mass."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    def install(self, tower: Any, undo: Undo) -> None:
        if tower.attn_pool is None:
            if tower.pool_type == "avg":
                undo.put(tower, "_global_pool", self.mean)
            return
        pools = [tower.attn_pool]
        if tower.attn_pool_contrastive is not None and tower.attn_pool_type == "parallel":
            pools.append(tower.attn_pool_contrastive)
        for pool in pools:
            undo.hook(pool.attn.register_forward_pre_hook(self.mask, with_kwargs=True))

    def mean(self, x: Float[Tensor, "b n d"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b m d"]]:
        tokens = x[:, 1:]
        return weighted_mean(tokens, self.handle.mass_of(tokens, 1)), tokens

    def mask(self, attn: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
        queries, keys, *_ = args
        mass = self.handle.mass_of(keys)
        if mass is not None:
            bias = mass.log().to(queries.dtype).repeat_interleave(attn.num_heads, 0)
            kwargs["attn_mask"] = bias[:, None].expand(-1, queries.shape[1], -1)
        return args, kwargs


class _Intermediates:
    """`Transformer.forward_intermediates` whose levels have all their tokens."""

    def __init__(self, blocks: nn.Module, handle: Handle) -> None:
        self.blocks, self.handle = blocks, handle

    def __call__(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        blocks, handle = cast(Any, self.blocks), self.handle
        levels, _ = feature_take_indices(len(blocks.resblocks), indices)
        before, handle.dense = handle.dense, True
        try:
            found = type(blocks).forward_intermediates(blocks, x, attn_mask, indices, stop_early)
            last, parts = found
            whole = [handle.restore(y, level) for y, level in zip(parts, sorted(set(levels)), strict=True)]
        finally:
            handle.dense = before
            handle.forget()
        return last, whole


def _batch_dimension(block: Any) -> int:
    return 0 if getattr(block.attn, "batch_first", True) else 1


def _timm_host(visual: TimmModel) -> Host:
    from smalti.reducers.hosts import find

    trunk = cast(nn.Module, visual.trunk)
    return find(trunk)


HOSTS: tuple[type[Host], ...] = (OpenClipHost,)
