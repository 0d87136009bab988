"""IA-RED²: learned interpreters score every token against the class token; low scores are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn import clustering
from smalti.reducers.base import Context, Reducer
from smalti.reducers.reduction import Gather, Reduction
from smalti.registry import Paper, system


@dataclass(frozen=True)
class IARed2Config:
    """Attributes:
    dim: channels of the tokens.
    heads: of every interpreter.
    depth: blocks of the host.
    groups: parts of the host, as equal as can be; an interpreter stands before each.
    threshold: tokens with scores above it stay.
    policy_token: what tokens are scored against: the class token as it enters the group, or a learned vector.
    temporal: groups whose interpreter scores whole frames, by the mean of their tokens.
    """

    dim: int = 384
    heads: int = 6
    depth: int = 12
    groups: int = 3
    threshold: float = 0.5
    policy_token: Literal["class", "learned"] = "class"
    temporal: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim % self.heads:
            raise ConfigError(f"{self.dim} channels cannot be split among {self.heads} heads")
        if not 1 <= self.groups <= self.depth:
            raise ConfigError(f"{self.depth} blocks cannot be split into {self.groups} groups")
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"the threshold must lie in [0, 1), not {self.threshold}")
        if not set(self.temporal) <= set(range(self.groups)):
            raise ConfigError(f"temporal groups {self.temporal} are not all among the {self.groups} groups")

    @property
    def starts(self) -> tuple[int, ...]:
        """First block of every group."""
        return tuple(-(-group * self.depth // self.groups) for group in range(self.groups))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Blocks of every group."""
        ends = (*self.starts[1:], self.depth)
        return tuple(end - start for start, end in zip(self.starts, ends, strict=True))


class Interpreter(nn.Module):
    """Scores tokens against a policy token: σ(query · key / √d), mean over heads.

    ```
    policy [b d] ─► norm ─► query ─┐
    tokens [b n d] ─► norm ─► keys ┴─► products of every head ─► σ ─► mean ─► scores [b n] in (0, 1)
    ```
    The norm has no parameters. No softmax: every token is judged by itself.

    Args:
        dim: channels.
        heads: that divide them.
        learned: the policy token is a learned vector, not given.
    """

    def __init__(self, dim: int, heads: int, learned: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.policy = nn.Parameter(torch.randn(dim) * 0.02) if learned else None

    def forward(self, tokens: Float[Tensor, "b n d"], policy: Float[Tensor, "b d"]) -> Float[Tensor, "b n"]:
        """Scores; `policy` is not looked at where it is learned."""
        against = policy if self.policy is None else self.policy.expand_as(policy)
        query = rearrange(self.query(self.norm(against)), "b (h c) -> b h c", h=self.heads)
        keys = rearrange(self.key(self.norm(tokens)), "b n (h c) -> b h n c", h=self.heads)
        logits = torch.einsum("bhc,bhnc->bhn", query, keys) / query.shape[-1] ** 0.5
        return logits.sigmoid().mean(1)


@system(
    "ia-red2",
    room="reducers",
    paper=Paper(
        "IA-RED²: Interpretability-Aware Redundancy Reduction for Vision Transformers",
        2021,
        "https://arxiv.org/abs/2106.12620",
    ),
    presets={
        "deit-small": IARed2Config(),
        "deit-base": IARed2Config(dim=768, heads=12),
        "timesformer": IARed2Config(dim=768, heads=12, temporal=(0,)),
    },
    tags=("learned", "prune", "image", "video"),
    status="reconstruction",
)
class IARed2(Reducer):
    """IA-RED² (Pan et al., 2021): interpreters drop tokens group by group, by a threshold or to a count.

    ```
    tokens [b n d] ─┬─ class token ─► policy ─┐
                    └─ all ─► interpreter of the group ─► scores [b n] ─► above ½, or the best ─► Gather
    ```
    Stands between groups of blocks; `layer` of the context is the block just passed, −1 before the first.
    Without a count, samples keep different numbers: the `Gather` holds −1 where one keeps fewer, and tokens
    that a context gives mass 0 are gone already, so the tokens of a group are among those of the one before.
    Protected tokens always stay. It must be trained with its host (`smalti.backbones.ia_red2`). For a video,
    groups named in `temporal` drop whole frames.

    Where no token is protected, the mean of all stands for the class token. Queries and keys are two
    products, where the released code makes three and uses two. Open in the source: which groups of a video
    are temporal (here the first). Dropping heads or blocks by the same scores is not here.

    Raises:
        ConfigError: tokens of another width than the configuration says.
        UnsupportedError: a temporal group without the tokens' frames.
    """

    def __init__(self, config: IARed2Config | None = None) -> None:
        super().__init__()
        self.config = config or IARed2Config()
        learned = self.config.policy_token == "learned"
        self.interpreters = nn.ModuleList(
            Interpreter(self.config.dim, self.config.heads, learned) for _ in range(self.config.groups)
        )

    def layers(self, depth: int) -> tuple[int, ...]:
        """The last block of every group but the last; nothing stands before the first block of a host."""
        groups = min(self.config.groups, depth)
        ends = tuple(-(-group * depth // groups) - 1 for group in range(1, groups))
        return ends or super().layers(depth)

    def group(self, layer: int) -> int:
        """The group that follows a block."""
        passed = (layer + 1) * self.config.groups // self.config.depth
        return min(passed, self.config.groups - 1)

    def score(
        self, tokens: Float[Tensor, "b n d"], context: Context, group: int | None = None
    ) -> Float[Tensor, "b n"]:
        """How much every token matters to a group, in (0, 1); 0 for those that are gone already.

        Args:
            tokens: protected ones in front; of mass 0 where they are gone.
            context: gives mass, protected tokens, layer and, for a temporal group, frames.
            group: which interpreter; by the context's layer when not given.
        """
        if tokens.shape[-1] != self.config.dim:
            raise ConfigError(
                f"interpreters of {self.config.dim} channels cannot score tokens of {tokens.shape[-1]}: "
                f"build ia-red2 with dim={tokens.shape[-1]}"
            )
        group = self.group(context.layer) if group is None else group
        interpreter = cast(Interpreter, self.interpreters[group])
        alive = (context.weights(tokens) > 0).float()
        present = tokens.to(interpreter.key.weight.dtype) * alive[..., None].to(interpreter.key.weight.dtype)
        share = alive / alive.sum(1, keepdim=True)
        policy = present[:, 0] if context.protected else (present * share[..., None]).sum(1)
        if group not in self.config.temporal:
            return interpreter(present, policy).float() * alive
        front, frames = context.protected, context.asked("frames")[:, context.protected :].clamp(min=0)
        pooled, _ = clustering.means(present[:, front:], frames, int(frames.max()) + 1, alive[:, front:])
        scores = interpreter(pooled, policy).float().gather(1, frames)
        return torch.cat([torch.ones_like(alive[:, :front]), scores], 1) * alive

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        scores = self.score(tokens, context)
        alive = context.weights(tokens) > 0
        first = torch.arange(tokens.shape[1], device=tokens.device) < context.protected
        urgency = torch.where(alive, scores, -1.0).masked_fill(first, torch.inf)
        order = urgency.argsort(dim=-1, descending=True, stable=True)
        if count is None:
            kept = threshold(scores, alive, self.config.threshold, context.protected)
            kept = kept.scatter(1, order[:, :1], True)  # never nothing
            count = int(kept.sum(1).max())
        else:
            kept = alive
        index = order[:, :count]
        size = tokens.shape[1]
        index = torch.where(kept.gather(1, index), index, size).sort(-1).values
        return Gather(size, torch.where(index < size, index, -1), context.mass)


def threshold(
    scores: Float[Tensor, "b n"], alive: Bool[Tensor, "b n"], limit: float = 0.5, protected: int = 1
) -> Bool[Tensor, "b n"]:
    """The greedy action: what is alive and scores above the limit stays, and always the tokens in front."""
    kept = (scores > limit) & alive
    front = torch.arange(scores.shape[1], device=scores.device) < protected
    return kept | front


def sample(
    scores: Float[Tensor, "b n"],
    alive: Bool[Tensor, "b n"],
    generator: torch.Generator | None = None,
    protected: int = 1,
) -> Bool[Tensor, "b n"]:
    """A drawn action: each token that is alive stays with the probability of its score."""
    drawn = torch.rand(scores.shape, generator=generator, device=scores.device) < scores
    front = torch.arange(scores.shape[1], device=scores.device) < protected
    return (drawn & alive) | front


def bounded(scores: Float[Tensor, "b n"], beta: float = 0.8) -> Float[Tensor, "b n"]:
    """Scores kept away from 0 and 1, so that a policy goes on exploring: β s + (1 − β)(1 − s)."""
    return beta * scores + (1 - beta) * (1 - scores)


def log_probability(
    scores: Float[Tensor, "b n"], action: Bool[Tensor, "b n"], alive: Bool[Tensor, "b n"], protected: int = 1
) -> Float[Tensor, "b"]:
    """Logarithm of the probability of an action, over the tokens that it decides on."""
    chance = torch.where(action, scores, 1 - scores).clamp(min=torch.finfo(scores.dtype).tiny)
    decided = alive.clone()
    decided[:, :protected] = False
    return (chance.log() * decided).sum(1)


def reward(
    kept: Bool[Tensor, "b n"], correct: Bool[Tensor, "b"], penalty: float, protected: int = 1
) -> Float[Tensor, "b"]:
    """1 − (share of patches kept)² for a correct prediction, −penalty (τ) for a wrong one."""
    share = kept[:, protected:].float().mean(1)
    return torch.where(correct, 1 - share.square(), -penalty)
