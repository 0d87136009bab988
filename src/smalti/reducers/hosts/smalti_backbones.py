"""Reducers in our own backbones whose tokens pass a plain stack of blocks: known by name, not imported.

```
block(x, log mass)   inside:  attend ► step ► feed        stem ──► grid of the tokens
   taps on its keys   after:  block ► step                Features: on no grid any more
t2t-vit, tokenformer (pictures): the whole model        vivit-adapter: its spatial part, step by step
```
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import MethodType
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import UnsupportedError
from smalti.nn.transformer import Block
from smalti.reducers.hosts.base import Host, Sizes, Undo, body_of, weighted_mean
from smalti.reducers.hosts.handle import Handle, Seen

ITSELF = "has fewer tokens by its own method"
MAPS = "keeps its tokens on maps between blocks"
REFUSED = {
    "AllInOne": "rolls tokens between neighbouring frames, which must lie on the same grid",
    "CenterCLIP": ITSELF,
    "CrossViT": "has two branches of tokens, which meet in their class tokens",
    "EVAD": ITSELF,
    "EcoFormer": MAPS,
    "HoT": ITSELF,
    "HourglassEncoder": ITSELF,
    "IARed2ViT": ITSELF,
    "LookupViT": ITSELF,
    "PoNet": "pools over neighbours and segments, and has no attention to weigh tokens in",
    "ResidualViT": ITSELF,
    "S2AFormer": MAPS,
    "S5": "runs state spaces over tokens, whose order and distance tell",
    "STViT": ITSELF,
    "STViTR": ITSELF,
    "SwinBERT": MAPS,
    "TTVSR": "fetches pixels along trajectories and has no tokens to spare",
    "UniFormerV2": "mixes frames by convolutions on the grid of their patches",
    "VIOLET": MAPS,
    "VQToken": ITSELF,
}


@dataclass(frozen=True)
class ParameterSizes(Sizes):
    """Attributes:
    tokens: parameter tokens of each query, key and value; of the attention's output; of the feed-forward.
    """

    tokens: tuple[int, int, int]

    def cost(self, before: int, after: int) -> float:
        """Multiply-adds of a block: two products with every parameter token in the place of one."""
        asked, out, fed = self.tokens
        attention = 2 * self.dim * (3 * asked + out) * before + 2 * before**2 * self.dim
        return float(attention + 2 * self.dim * fed * after)


class BackboneHost(Host):
    """A stack of blocks and the stem that makes its tokens.

    Args:
        model: that runs the blocks.
        blocks: in order.
        prefix: tokens in front that never leave.
        sizes: what a block costs.
        stem: the module that comes before the tokens.
        rows_columns: of the tokens, from what the stem gives.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[nn.Module],
        prefix: int,
        sizes: Sizes,
        stem: nn.Module,
        rows_columns: Callable[[Any], tuple[int, int]],
    ) -> None:
        self.model, self.blocks, self.prefix, self.sizes = model, list(blocks), prefix, sizes
        self.stem, self.rows_columns = stem, rows_columns
        self._grid: tuple[int, int, int] | None = None

    @classmethod
    def find(cls, model: nn.Module) -> Host | None:
        """Our backbones of plain blocks; those of another structure are refused by name."""
        name = next(
            (c.__name__ for c in type(model).__mro__ if c.__name__ in KNOWN or c.__name__ in REFUSED), ""
        )
        if name in REFUSED:
            raise UnsupportedError(f"{type(model).__name__} {REFUSED[name]}: reducers do not fit into it")
        return KNOWN[name](model) if name else None

    def grid(self, tokens: int) -> tuple[int, int, int] | None:
        """As the stem gave it last."""
        if self._grid is None or self._grid[1] * self._grid[2] != tokens - self.prefix:
            return super().grid(tokens)
        return self._grid

    def install(self, handle: Handle, undo: Undo) -> None:
        """Hooks around every block, its own `forward` where tokens leave inside it."""
        undo.hook(self.stem.register_forward_hook(self._look))
        undo.hook(self.model.register_forward_hook(_off_grid))
        for layer, block in enumerate(self.blocks):
            around = _Around(handle, layer, _QueriesKeys(block, undo))
            undo.hook(block.register_forward_pre_hook(around.before))
            if handle.reducer.place == "inside":
                undo.put(block, "smalti", around)
                forward = _block_forward if isinstance(block, Block) else _token_block_forward
                undo.put(block, body_of(block), MethodType(forward, block))
            else:
                undo.hook(block.register_forward_hook(around.after, prepend=True))

    def _look(self, stem: nn.Module, given: Any, made: Any) -> None:
        self._grid = (1, *self.rows_columns(made))


class SpatialHost(BackboneHost):
    """The spatial part of a factorised video transformer; a mean over its tokens is weighed by mass."""

    def install(self, handle: Handle, undo: Undo) -> None:
        """The same, and the mean of the encoder."""
        super().install(handle, undo)
        if self.prefix == 0:
            encoder: Any = self.model.encoder
            undo.hook(encoder.register_forward_hook(_WeighedMean(handle)))


class _WeighedMean:
    """The second thing that an encoder gives, by mass."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    def __call__(self, encoder: nn.Module, given: Any, made: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return made[0], weighted_mean(made[0], self.handle.mass_of(made[0]))


class _QueriesKeys:
    """Queries and keys of a block's attention that ran last."""

    def __init__(self, block: Any, undo: Undo) -> None:
        self.parts: dict[str, Tensor] = {}
        if isinstance(block, Block):
            self.heads, self.scale = block.attn.heads, getattr(block.attn, "scale", None)
            undo.hook(block.attn.qkv.register_forward_hook(self._fused))
        else:
            self.heads, self.scale = block.heads, None
            undo.hook(block.query.register_forward_hook(self._query))
            undo.hook(block.key.register_forward_hook(self._key))

    def _fused(self, layer: nn.Module, given: Any, made: Tensor) -> None:
        self.parts["q"], self.parts["k"], _ = made.chunk(3, -1)

    def _query(self, layer: nn.Module, given: Any, made: Tensor) -> None:
        self.parts["q"] = made

    def _key(self, layer: nn.Module, given: Any, made: Tensor) -> None:
        self.parts["k"] = made

    def take(self) -> Seen:
        """What was seen; forgotten afterwards."""
        q, k = (rearrange(self.parts.pop(p), "b n (h c) -> b h n c", h=self.heads) for p in "qk")
        return q, k, q.shape[-1] ** -0.5 if self.scale is None else self.scale


class _Around:
    """What happens before and after one block."""

    def __init__(self, handle: Handle, layer: int, seen: _QueriesKeys) -> None:
        self.handle, self.layer, self.seen = handle, layer, seen

    def before(self, block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = given
        if any(part is not None for part in rest):
            raise UnsupportedError("a reduced model takes no attention mask of its own")
        self.handle.enter(self.layer, x)
        return x, self.handle.bias(self.layer, x.dtype)

    def step(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        return self.handle.step(self.layer, x, self.seen.take())

    def after(self, block: nn.Module, given: Any, x: Tensor) -> Tensor:
        return self.step(x)


def _block_forward(block: Any, x: Float[Tensor, "b n d"], bias: Tensor | None = None) -> Tensor:
    """`Block` with tokens leaving between attention and MLP."""
    return block.feed(block.smalti.step(block.attend(x, bias)))


def _token_block_forward(block: Any, x: Float[Tensor, "b n d"], allowed: Tensor | None = None) -> Tensor:
    """TokenFormer's block with tokens leaving between attention and feed-forward."""
    x = block.smalti.step(x + block.drop_path(block.attend(x, allowed)))
    return x + block.drop_path(block.mlp(F.layer_norm(x, x.shape[-1:], eps=block.eps)))


def _off_grid(model: nn.Module, given: Any, made: Any) -> Any:
    """Features of fewer tokens lie on no grid."""
    grid = getattr(made, "grid", None)
    if grid is None or made.tokens.shape[1] == made.prefix + grid[0] * grid[1] * grid[2]:
        return made
    return dataclasses.replace(made, grid=None)


def _plain_sizes(block: Any) -> Sizes:
    return Sizes(block.norm1.normalized_shape[0], float(block.mlp.fc1.out_features))


def _t2t_vit(model: Any) -> Host:
    return BackboneHost(
        model, model.blocks, 1, _plain_sizes(model.blocks[0]), model.tokens_to_token, lambda made: made[1]
    )


def _tokenformer(model: Any) -> Host:
    if model.config.pictures is None:
        raise UnsupportedError(
            "a language model writes from every token: only the form for pictures is a host"
        )
    sizes = ParameterSizes(model.config.dim, float(model.config.dim), model.config.tokens)
    return BackboneHost(model, model.blocks, 1, sizes, model.patches, lambda made: tuple(made.shape[-2:]))


def _vivit_adapter(model: Any) -> Host:
    spatial = model.spatial
    prefix = int(spatial.encoder.class_token is not None)
    sizes = _plain_sizes(spatial.encoder.blocks[0])
    return SpatialHost(
        spatial, spatial.encoder.blocks, prefix, sizes, spatial.tubelets, lambda made: tuple(made.shape[-2:])
    )


KNOWN: dict[str, Callable[[Any], Host]] = {
    "T2TViT": _t2t_vit,
    "TokenFormer": _tokenformer,
    "ViViTAdapter": _vivit_adapter,
}
HOSTS: tuple[type[Host], ...] = (BackboneHost,)
