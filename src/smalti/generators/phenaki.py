"""Phenaki's generator: masked video tokens are filled in, a few more at every step, as a text says.

```
ids [b t h w], some MASK ─► embedding + places ─► layers(self-attention, text by cross-attention) ─► logits
        ▲                                                                                              │
        └── the least certain are masked again ◄── confidence, or a critic ◄── drawn ids ◄─────────────┘
```
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.cosine_attention import CosineAttention, GainNorm, GatedFeed
from smalti.nn.cvivit_names import public_weights
from smalti.nn.factorised_video import PlaceConvolution
from smalti.nn.place_bias import ContinuousBias, Rows
from smalti.nn.strict_loading import load_strictly, numbered, told

NULLS = 2  # learned keys and values of the text, which are there when it is not


@dataclass(frozen=True)
class MaskGitConfig:
    """Attributes:
    codes: of the tokenizer; the id after the last is MASK.
    dim, depth, heads, dim_head: of the transformer; the paper's has 24 layers of 2,048 channels.
    length: most tokens of a video.
    text: channels of the text; 0 for a generator without.
    shrink: share of the gradient that reaches the embeddings.
    place_bias: whether attention has a continuous position bias; the token critic has none.
    outputs: of every token; one for every code when not given.
    """

    codes: int = 8192
    dim: int = 512
    depth: int = 6
    heads: int = 8
    dim_head: int = 64
    length: int = 2048
    text: int = 768
    shrink: float = 0.1
    place_bias: bool = True
    outputs: int | None = None


class MaskedLayer(nn.Module):
    """Convolution for places, self-attention over the whole video, text, gated MLP; all residual."""

    def __init__(self, config: MaskGitConfig) -> None:
        super().__init__()
        dim, heads, channels = config.dim, config.heads, config.dim_head
        self.peg = PlaceConvolution(dim, causal=False)
        self.attention = CosineAttention(dim, heads, channels)
        self.cross = CosineAttention(dim, heads, channels, config.text, NULLS) if config.text else None
        self.feed = GatedFeed(dim)

    def forward(
        self,
        x: Float[Tensor, "b t h w d"],
        bias: Rows | None,
        real: Bool[Tensor, "b n"] | None,
        text: Float[Tensor, "b m e"] | None,
        read: Bool[Tensor, "b m"] | None,
    ) -> Float[Tensor, "b t h w d"]:
        """One layer; `real` says which tokens may be seen, `read` which words."""
        grid = x.shape[1:4]
        known = x if real is None else x * real.unflatten(1, grid)[..., None]
        x = (x + self.peg(known)).flatten(1, 3)
        x = x + self.attention.mix(x, bias=bias, mask=real)
        if self.cross is not None and text is not None:
            x = x + self.cross.mix(x, text, mask=read)
        return (x + self.feed(x)).unflatten(1, grid)


class MaskGit(nn.Module):
    """A bidirectional transformer over video tokens with text (Phenaki: Villegas et al., 2022).

    Text comes as vectors of any encoder (the paper's is T5-XXL, 4,096 channels; T5-base has 768) and a mask.
    Where videos of a batch differ in length, no layer sees the padding (the re-implementation's convolution
    does).
    With `outputs=1` and no place bias it is a token critic (Lezama et al., 2022).

    Raises:
        ConfigError: more tokens than `length`, ids beyond MASK, or text that is missing.
    """

    def __init__(self, config: MaskGitConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or MaskGitConfig()
        self.mask_id = config.codes
        self.token_emb = nn.Embedding(config.codes + 1, config.dim)
        self.pos_emb = nn.Embedding(config.length, config.dim)
        self.place_bias = ContinuousBias(config.dim_head, config.heads, 3) if config.place_bias else None
        self.layers = nn.ModuleList(MaskedLayer(config) for _ in range(config.depth))
        self.norm_out = GainNorm(config.dim)
        self.to_logits = nn.Linear(config.dim, config.outputs or config.codes)

    def embed(
        self,
        ids: Int[Tensor, "b t h w"],
        text: Float[Tensor, "b m e"] | None = None,
        read: Bool[Tensor, "b m"] | None = None,
        real: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """What the layers make of every token, before the logits."""
        flat = ids.flatten(1)
        if flat.shape[1] > self.config.length:
            raise ConfigError(
                f"{flat.shape[1]} tokens, but the generator has places for {self.config.length}"
            )
        if flat.min() < 0 or flat.max() > self.mask_id:
            raise ConfigError(f"ids must lie in 0..{self.mask_id}, the last being MASK")
        if self.config.text and text is None:
            raise ConfigError(f"this generator needs text [b words {self.config.text}]")
        x = self.token_emb(flat) + self.pos_emb.weight[: flat.shape[1]]
        x = (x * self.config.shrink + x.detach() * (1 - self.config.shrink)).unflatten(1, ids.shape[1:])
        bias = None if self.place_bias is None else self.place_bias(ids.shape[1:])
        for layer in self.layers:
            x = layer(x, bias, real, text, read)
        return self.norm_out(x).flatten(1, 3)

    def forward(
        self,
        ids: Int[Tensor, "b t h w"],
        text: Float[Tensor, "b m e"] | None = None,
        read: Bool[Tensor, "b m"] | None = None,
        real: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n k"]:
        """Logits of every token.

        Args:
            ids: codes, or MASK.
            text: vectors of the words.
            read: words that count; a text of which none does is no text.
            real: tokens that count, in batches of videos of different lengths.
        """
        return self.to_logits(self.embed(ids, text, read, real))

    def guided(
        self,
        ids: Int[Tensor, "b t h w"],
        text: Float[Tensor, "b m e"] | None = None,
        read: Bool[Tensor, "b m"] | None = None,
        guidance: float = 3.0,
    ) -> Float[Tensor, "b n k"]:
        """Logits without text, plus `guidance` times what the text changes (classifier-free guidance)."""
        return _guided(self, ids, text, read, guidance)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> MaskGit:
        """The generator, or the token critic, of a checkpoint of phenaki-pytorch.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        tokens, dim = told(state, "token_emb.weight").shape
        scale = told(state, "transformer.layers.0.1.q_scale")
        text = state.get("transformer.layers.0.2.to_kv.weight")
        state = {re.sub(r"^to_logits\.0\.", "to_logits.", name): tensor for name, tensor in state.items()}
        outputs = len(told(state, "to_logits.weight"))
        model = cls(
            MaskGitConfig(
                codes=tokens - 1,
                dim=dim,
                depth=len(numbered(state, r"transformer\.layers\.(\d+)\.")),
                heads=len(told(state, "transformer.layers.0.1.to_q.weight")) // len(scale),
                dim_head=len(scale),
                length=len(told(state, "pos_emb.weight")),
                text=0 if text is None else text.shape[1],
                shrink=0.1 if outputs == tokens - 1 else 1.0,
                place_bias="continuous_pos_bias.net.2.weight" in state,
                outputs=None if outputs == tokens - 1 else outputs,
            )
        )
        named = {
            re.sub(r"^transformer\.|^continuous_pos_bias", _ours, name): tensor
            for name, tensor in state.items()
        }
        load_strictly(model, public_weights(named))
        return model


class SelfCritic(nn.Module):
    """A generator that judges its own tokens by one more output (Nijkamp et al., 2021).

    Args:
        generator: whose features are judged.
    """

    def __init__(self, generator: MaskGit) -> None:
        super().__init__()
        self.config = generator.config
        self.generator = generator
        self.to_pred = nn.Linear(generator.config.dim, 1)

    def forward(self, ids: Int[Tensor, "b t h w"], *text: Tensor | None) -> Float[Tensor, "b n 1"]:
        """How false every token looks; `text` and the rest as `MaskGit` takes them."""
        return self.to_pred(self.generator.embed(ids, *text))

    def guided(
        self,
        ids: Int[Tensor, "b t h w"],
        text: Float[Tensor, "b m e"] | None = None,
        read: Bool[Tensor, "b m"] | None = None,
        guidance: float = 3.0,
    ) -> Float[Tensor, "b n 1"]:
        """As `MaskGit.guided`."""
        return _guided(self, ids, text, read, guidance)


Critic = MaskGit | SelfCritic


def masked_loss(
    generator: MaskGit,
    ids: Int[Tensor, "b t h w"],
    text: Float[Tensor, "b m e"] | None = None,
    read: Bool[Tensor, "b m"] | None = None,
    *,
    drop: float = 0.1,
    random: torch.Generator | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "b n k"], Bool[Tensor, "b n"]]:
    """Cross-entropy of hidden tokens; and the logits and what was hidden, for `critic_loss`.

    Of n tokens ⌈cos(π/2 · r) n⌉ are hidden, r uniform in [0, 1) for every video.

    Args:
        generator: to train.
        ids: of videos, or of pictures (t = 1).
        text, read: as `MaskGit` takes them.
        drop: share of the texts that are left out, for guidance; the re-implementation has 0.25.
        random: where chance comes from.
    """
    flat = ids.flatten(1)
    ratio = torch.cos(torch.rand(len(flat), 1, generator=random) * math.pi / 2).to(ids.device)
    count = (ratio * flat.shape[1]).ceil().clamp(1, flat.shape[1])
    order = torch.rand(flat.shape, generator=random).to(ids.device).argsort(1).argsort(1)
    hidden = order < count
    if text is not None:
        kept = torch.rand(len(flat), 1, generator=random).to(ids.device) >= drop
        read = kept.expand(-1, text.shape[1]) if read is None else read & kept
    logits = generator(torch.where(hidden, generator.mask_id, flat).view_as(ids), text, read)
    return F.cross_entropy(logits[hidden], flat[hidden]), logits, hidden


def critic_loss(
    critic: Critic,
    ids: Int[Tensor, "b t h w"],
    logits: Float[Tensor, "b n k"],
    hidden: Bool[Tensor, "b n"],
    text: Float[Tensor, "b m e"] | None = None,
    read: Bool[Tensor, "b m"] | None = None,
    *,
    temperature: float = 1.0,
    random: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of a critic that finds the tokens which a generator drew falsely.

    The re-implementation also calls true tokens false where a draw that was not used differs; here not.
    """
    flat = ids.flatten(1)
    shown = torch.where(hidden, drawn_ids(logits.detach(), temperature, random), flat)
    found = critic(shown.view_as(ids), text, read)[..., 0]
    return F.binary_cross_entropy_with_logits(found, (shown != flat).float())


def uniform(like: Tensor, random: torch.Generator | None) -> Tensor:
    """Numbers in [0, 1) of the same shape."""
    return torch.rand(like.shape, generator=random).to(like.device)


def drawn_ids(logits: Float[Tensor, "b n k"], temperature: float, random: torch.Generator | None) -> Tensor:
    """A draw from the softmax of logits / temperature, by Gumbel noise; the highest at 0."""
    if temperature <= 0:
        return logits.argmax(-1)
    gumbel = -torch.log(-torch.log(uniform(logits, random).clamp(1e-10, 1 - 1e-7)))
    return (logits.float() / temperature + gumbel).argmax(-1)


def _guided(
    model: nn.Module, ids: Tensor, text: Tensor | None, read: Tensor | None, guidance: float
) -> Float[Tensor, "b n k"]:
    logits = model(ids, text, read)
    if guidance == 1 or text is None:
        return logits
    without = model(ids, text, torch.zeros(text.shape[:2], dtype=torch.bool, device=text.device))
    return without + (logits - without) * guidance


def _ours(found: re.Match) -> str:
    return "" if found[0] == "transformer." else "place_bias"
