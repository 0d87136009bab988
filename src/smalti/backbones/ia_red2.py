"""IA-RED²'s vision transformer in groups, each behind an interpreter; its training and its heat maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.transformer import Block
from smalti.reducers.base import Context
from smalti.reducers.ia_red2 import IARed2, IARed2Config, threshold
from smalti.registry import Paper, system

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Policy = Callable[[Float[Tensor, "b n"], Bool[Tensor, "b n"], int], Bool[Tensor, "b n"]]


@dataclass(frozen=True)
class IARed2ViTConfig:
    """Attributes:
    reducer: groups, interpreters, and sizes of the backbone.
    size: pixels of a picture's side.
    patch: pixels of a patch's side.
    heads: of the blocks' attention.
    classes: of the head.
    mlp_ratio: hidden channels of the MLP, as a factor.
    """

    reducer: IARed2Config = field(default_factory=IARed2Config)
    size: int = 224
    patch: int = 16
    heads: int = 6
    classes: int = 1000
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ConfigError(f"a side of {self.size} pixels cannot be cut into patches of {self.patch}")
        if self.reducer.temporal:
            raise ConfigError("a picture has no frames: this backbone takes no temporal groups")


@dataclass(frozen=True)
class Pass:
    """One run through all groups.

    Attributes:
        logits: of the classes.
        scores: of the interpreter of every group; where it was skipped, those before (ones in the first).
        alive: tokens that each group worked on, class token included.
        entries: tokens as each group's interpreter saw them.
    """

    logits: Float[Tensor, "b k"]
    scores: tuple[Float[Tensor, "b n"], ...]
    alive: tuple[Bool[Tensor, "b n"], ...]
    entries: tuple[Float[Tensor, "b n d"], ...]


class PatchEmbedding(nn.Module):
    """Patches → tokens."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Tokens, row by row."""
        return self.proj(pixels).flatten(2).mT


@system(
    "ia-red2",
    room="backbones",
    paper=Paper(
        "IA-RED²: Interpretability-Aware Redundancy Reduction for Vision Transformers",
        2021,
        "https://arxiv.org/abs/2106.12620",
    ),
    presets={
        "deit-small": IARed2ViTConfig(),
        "deit-base": IARed2ViTConfig(reducer=IARed2Config(dim=768, heads=12), heads=12),
    },
    tags=("image", "classification", "learned", "prune"),
    status="reconstruction",
)
class IARed2ViT(nn.Module):
    """IA-RED²'s classifier (Pan et al., 2021): a DeiT whose groups of blocks work on ever fewer tokens.

    ```
    pixels [b 3 1 h w] in [0, 1] ─► patches + class + positions ─► (interpreter ─► drop ─► blocks) × groups
                                                            class token ─► norm ─► head ─► [b k] ◄─┘
    ```
    Two paths with equal logits: `run` masks dropped tokens, so all lengths stay and every score can be had
    (for training and for heat maps); `forward` gathers the kept ones, which is where time is saved: all of it
    with one picture or with `counts`; in a batch by threshold, down to the longest sample.
    Deviation: only keys of dropped tokens are masked, since what dropped queries see is never looked at.

    Raises:
        ConfigError: a picture of another size, or a clip.
    """

    def __init__(self, config: IARed2ViTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or IARed2ViTConfig()
        dim = config.reducer.dim
        self.patch_embed = PatchEmbedding(config.patch, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, (config.size // config.patch) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_ratio) for _ in range(config.reducer.depth)
        )
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.head = nn.Linear(dim, config.classes)
        self.reducer = IARed2(config.reducer)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], **config: Any) -> IARed2ViT:
        """The model with weights under the names of the released one, or of a plain DeiT in timm.

        A plain DeiT leaves the interpreters as they start. Blocks' second names (`groups.<g>.block_list`) and
        the unused third of an interpreter's product are left out.

        Raises:
            ConfigError: weights are missing, superfluous, or of another size.
        """
        model = cls(IARed2ViTConfig(**config))
        wanted = model.state_dict()
        found = official_names(state)
        if not any(name.startswith("reducer.") for name in found):
            found |= {name: value for name, value in wanted.items() if name.startswith("reducer.")}
        wrong = sorted(found.keys() ^ wanted.keys())
        wrong += [name for name in found.keys() & wanted.keys() if found[name].shape != wanted[name].shape]
        if wrong:
            raise ConfigError(f"the checkpoint does not fit the configuration at {', '.join(wrong[:5])}")
        model.load_state_dict(found)
        return model

    def embed(self, pixels: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b n d"]:
        """Tokens before the first group, class token in front."""
        side = self.config.size
        if pixels.shape[2:] != (1, side, side):
            t, h, w = pixels.shape[2:]
            raise ConfigError(f"this model takes pictures of {side}×{side} pixels, not {t} frames of {h}×{w}")
        mean, deviation = (pixels.new_tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
        patches = self.patch_embed((pixels[:, :, 0] - mean) / deviation)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed

    def classify(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b k"]:
        """Logits from the class token."""
        return self.head(self.norm(tokens[:, 0]))

    def blocks_of(self, group: int) -> nn.ModuleList:
        """The blocks of a group."""
        start = self.config.reducer.starts[group]
        return self.blocks[start : start + self.config.reducer.sizes[group]]

    def context(self, alive: Bool[Tensor, "b n"], group: int) -> Context:
        """What the interpreter of a group is told."""
        return Context(mass=alive.float(), protected=1, layer=self.config.reducer.starts[group] - 1)

    def greedy(
        self, scores: Float[Tensor, "b n"], alive: Bool[Tensor, "b n"], group: int
    ) -> Bool[Tensor, "b n"]:
        """The policy of inference: what scores above the threshold stays."""
        return threshold(scores, alive, self.config.reducer.threshold)

    def run(
        self, pixels: Float[Tensor, "b 3 t h w"], policy: Policy | None = None, active: int | None = None
    ) -> Pass:
        """All groups with dropped tokens masked.

        Args:
            pixels: pictures.
            policy: what stays, of scores, tokens alive and the group's number; greedy when not given.
            active: the last group whose interpreter acts, later ones taking its tokens; all when not given.
        """
        policy = policy or self.greedy
        x = self.embed(pixels)
        alive = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        scores = torch.ones(x.shape[:2], device=x.device)
        taken: list[tuple[Tensor, Tensor, Tensor]] = []
        for group in range(self.config.reducer.groups):
            entry = x = x * alive[..., None]
            if active is None or group <= active:
                scores = self.reducer.score(x, self.context(alive, group), group)
                alive = policy(scores, alive, group) & alive
                x = x * alive[..., None]
            taken.append((scores, alive, entry))
            for block in self.blocks_of(group):
                x = block(x, alive[:, None, None])
        every_score, every_alive, entries = zip(*taken, strict=True)
        return Pass(self.classify(x), every_score, every_alive, entries)

    def forward(
        self, pixels: Float[Tensor, "b 3 t h w"], counts: tuple[int, ...] | None = None
    ) -> Float[Tensor, "b k"]:
        """Logits, with dropped tokens taken out.

        Args:
            pixels: pictures.
            counts: tokens, class token included, that each group works on; by the threshold when not given.
        """
        x = self.embed(pixels)
        alive = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if counts is not None and len(counts) != self.config.reducer.groups:
            raise ConfigError(f"{self.config.reducer.groups} groups need as many counts, not {len(counts)}")
        for group in range(self.config.reducer.groups):
            count = None if counts is None else counts[group]
            reduction = self.reducer.reduce(x, self.context(alive, group), count)
            x, alive = reduction.apply(x), reduction.mask & (reduction.mass > 0)
            bias = None if alive.all() else alive[:, None, None]
            for block in self.blocks_of(group):
                x = block(x, bias)
        return self.classify(x)


def official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released model under the names used here."""
    renamed = {}
    for name, value in state.items():
        if ".block_list." in name:
            continue
        if ".agent.qk." in name:
            _, group, _, _, kind = name.split(".")
            query, key, _ = value.chunk(3)
            renamed[f"reducer.interpreters.{group}.query.{kind}"] = query
            renamed[f"reducer.interpreters.{group}.key.{kind}"] = key
        else:
            renamed[name] = value
    return renamed


def flops_share(alive: tuple[Bool[Tensor, "b n"], ...], sizes: tuple[int, ...]) -> Float[Tensor, "b"]:
    """Share of the blocks' work that is left, as the paper counts it: linear in the tokens of every group."""
    parts = [kept.float().mean(1) * size for kept, size in zip(alive, sizes, strict=True)]
    return torch.stack(parts).sum(0) / sum(sizes)
