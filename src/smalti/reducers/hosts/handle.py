"""The handle of a reduced model: it decides at every block, remembers what was done, and undoes it.

```
block i ─► bias(i): log mass on the keys' logits ─► attention ─► step(i, x): reducer.reduce, apply ─► …
handle.reduction    of the last forward, all blocks as one        handle.restore(y) ─► all tokens again
```
What a block needs is kept under its number, so blocks may be computed again (gradient checkpointing).
"""

from __future__ import annotations

import sys
from types import TracebackType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.errors import ConfigError, UnsupportedError
from smalti.nn.attention import attention_map, received
from smalti.reducers.base import Context, Reducer
from smalti.reducers.hosts.base import Host, Undo
from smalti.reducers.reduction import Assign, Gather, Reduction, identity
from smalti.reducers.schedule import Schedule

Seen = tuple[Tensor, Tensor, float]  # queries, keys, scale of an attention
MARK = "smalti_handle"  # on the first block of a reduced model


class Handle:
    """A reduced model. `with smalti.reduce(...) as handle:` or `handle.undo()` gives it back as it was.

    Not for several threads at once: what the last forward did is kept here. Under gradient checkpointing
    every forward wants its backward before the next one, since blocks are computed again with what is kept.

    Attributes:
        reducer, schedule, host: what works, how much, and in what.
        reductions: those of the last forward, by block.

    Raises:
        ConfigError: the model is reduced already: undo that first.
    """

    def __init__(self, host: Host, reducer: Reducer, schedule: Schedule) -> None:
        if any(MARK in block.__dict__ for block in host.blocks):
            raise ConfigError("this model is reduced already: call undo() of that handle first")
        self.host, self.reducer, self.schedule = host, reducer, schedule
        self.reductions: dict[int, Reduction] = {}
        self.dense = False
        self._plans: dict[int, tuple[int, ...]] = {}
        self._mass: dict[int, Tensor | None] = {}
        self._dropped: dict[int, Tensor] = {}
        self._origin: dict[int, Tensor] = {}
        self._size = 0
        self._visited = 0
        self._undo = Undo()
        example = next(host.model.parameters(), None)
        reducer.to(None if example is None else example.device).eval()
        try:
            host.install(self, self._undo)
            self._undo.hook(host.model.register_forward_hook(self._check, prepend=True))
            self._undo.put(host.blocks[0], MARK, self)
        except BaseException:
            self._undo()
            raise
        _forget_compiled()

    def undo(self) -> None:
        """Give the model back as it was. May be called again."""
        self._undo()
        _forget_compiled()

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    # ── what hosts call, block by block ──────────────────────────────────────────────────────────────────

    def enter(self, layer: int, x: Float[Tensor, "b n d"]) -> None:
        """Take note of the tokens that a block is given."""
        if layer == 0:
            self._size, self._visited = x.shape[1], 0
            self._mass = {0: None}
            if self._size not in self._plans:
                self._plans[self._size] = self.plan(self._size)
        if layer not in self._mass:
            raise self._bypassed(layer - 1)

    def plan(self, tokens: int) -> tuple[int, ...]:
        """Tokens left after every block, of so many before the first."""
        own = getattr(self.reducer, "counts", None)
        if own is not None and self.schedule == Schedule(keep=1.0):
            return own(tokens, len(self.host.blocks), self.host.prefix)
        return self.schedule.resolve(
            tokens,
            len(self.host.blocks),
            protected=self.host.prefix,
            layers=self.reducer.layers(len(self.host.blocks)),
            least=lambda count: self.reducer.least(count, self.host.prefix),
            cost=self.host.sizes.cost,
            inside=self.reducer.place == "inside",
        )

    def reduces(self, layer: int) -> bool:
        """Whether tokens leave at this block."""
        plan = self._plans[self._size]
        return plan[layer] < (plan[layer - 1] if layer else self._size)

    def bias(self, layer: int, dtype: torch.dtype) -> Float[Tensor, "b 1 1 n"] | None:
        """log mass of the keys, where the method weighs them; −∞ for tokens that are not real."""
        mass = self._mass[layer]
        if mass is None or not self.weighs:
            return None
        weight = mass if self.reducer.proportional else (mass > 0).float()
        return weight.log()[:, None, None].to(dtype)

    def step(self, layer: int, x: Float[Tensor, "b n d"], seen: Seen | None) -> Float[Tensor, "b m d"]:
        """Reduce the tokens at a block, if the plan says so, and remember how."""
        self._visited += 1
        if not self.reduces(layer):
            self._mass[layer + 1] = self._mass[layer]
            self.reductions.pop(layer, None)
            return x
        reduction = self.reducer.reduce(x, self._context(layer, x, seen), self._plans[self._size][layer])
        self.reductions[layer] = reduction
        self._mass[layer + 1] = reduction.mass
        if self.dense:
            self._dropped[layer] = x
        return reduction.apply(x)

    def _context(self, layer: int, x: Float[Tensor, "b n d"], seen: Seen | None) -> Context:
        mass, prefix = self._mass[layer], self.host.prefix
        whole = self.host.grid(self._size) if x.shape[1] == self._size else None
        if seen is None:
            return Context(mass=mass, protected=prefix, grid=whole, layer=layer)
        q, k, scale = seen
        bias = self.bias(layer, torch.float32)
        return Context(
            attention=lambda queries: received(q, k, scale, bias, queries),
            attention_map=lambda: attention_map(q, k, scale, bias),
            keys=lambda: k.mean(1),
            mass=mass,
            protected=prefix,
            grid=whole,
            layer=layer,
        )

    def origin(self, layer: int) -> Int[Tensor, "b n"] | None:
        """Position before the first block of the heaviest source of every token that a block is given."""
        where = None
        for before in range(layer):
            if before in self.reductions:
                chosen = heaviest(self.reductions[before])
                where = chosen if where is None else where.gather(1, chosen)
        return where

    @property
    def weighs(self) -> bool:
        """Whether attention and pooling look at the mass of tokens."""
        return self.reducer.proportional or self.reducer.ragged

    @property
    def mass(self) -> Float[Tensor, "b n"] | None:
        """Source tokens that each token after the last block stands for; None when none was merged."""
        return self._mass[max(self._mass)] if self.weighs and self._mass else None

    def mass_of(self, x: Float[Tensor, "b n d"], front: int = 0) -> Float[Tensor, "b n"] | None:
        """`mass` of tokens behind `front` others; None for restored ones, each of which stands for itself."""
        mass = self.mass
        return None if mass is None or x.shape[1] == self._size - front else mass[:, front:]

    def _check(self, *_: object) -> None:
        if self._visited < len(self.host.blocks):
            raise self._bypassed(max(self._mass, default=0))

    def _bypassed(self, layer: int) -> UnsupportedError:
        return UnsupportedError(
            f"block {layer} of {type(self.host.model).__name__} bypasses the reducer "
            "(by a forward that another library put there?)"
        )

    # ── what callers ask afterwards ──────────────────────────────────────────────────────────────────────

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens left after every block in the last forward."""
        return self._plans[self._size]

    @property
    def reduction(self) -> Reduction:
        """What the last forward did, all blocks as one.

        Raises:
            ConfigError: there was no forward yet.
        """
        return self.until(len(self.host.blocks))

    def until(self, layer: int) -> Reduction:
        """What the last forward did before block `layer`, as one."""
        done = [self.reductions[i] for i in range(layer) if i in self.reductions]
        if not self._size:
            raise ConfigError("this model has not run since it was reduced")
        if not done:
            return identity(torch.empty(1, self._size, 1))
        whole = done[0]
        for reduction in done[1:]:
            whole = whole.then(reduction)
        return whole

    def restore(self, y: Float[Tensor, "b m d"], layer: int | None = None) -> Float[Tensor, "b n d"]:
        """All tokens of the last forward again; dropped ones as they last were, if `dense` is set.

        Args:
            y: tokens after the last block, or after block `layer`.
            layer: number of the block, from 0.
        """
        last = len(self.host.blocks) - 1 if layer is None else layer
        for before in range(last, -1, -1):
            if before in self.reductions:
                y = self.reductions[before].restore(y, self._dropped.get(before))
        return y

    def forget(self) -> None:
        """Let go of dropped tokens that were kept for `restore`."""
        self._dropped.clear()


def _forget_compiled() -> None:
    """Compiled models do not look whether hooks came or went, so they are compiled anew."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


def heaviest(reduction: Reduction) -> Int[Tensor, "b m"]:
    """The source token that stands for most in every remaining one; of equal ones the first."""
    if isinstance(reduction, Gather):
        return reduction.index.clamp(min=0)
    if not isinstance(reduction, Assign):
        return reduction.matrix().argmax(-1)
    size = reduction.size
    position = torch.arange(size, device=reduction.group.device).expand_as(reduction.group)
    weight = torch.ones_like(position) if reduction.weight is None else reduction.weight.round().long()
    rank = weight * size + (size - 1 - position)
    rank = torch.where(reduction.group >= 0, rank, 0)
    best = rank.new_zeros(rank.shape[0], reduction.count)
    best = best.scatter_reduce(1, reduction.group.clamp(min=0), rank, "amax")
    return size - 1 - best % size
