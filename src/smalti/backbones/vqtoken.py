"""VQToken's learned half: codes of a video enriched by where and when their tokens lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, FormatError, nearest
from smalti.reducers import Context, Reduction
from smalti.reducers.vqtoken import VQToken as Discretiser
from smalti.reducers.vqtoken import VQTokenConfig as DiscretiserConfig
from smalti.registry import Official, Paper, system

PREFIX = "cross_attention."


class VQTokens(NamedTuple):
    """What a language model reads in place of a video's tokens.

    Attributes:
        values: tokens, zeros where `mask` is False.
        mask: True where a token is real; videos may keep different counts.
        codebook: codes before the attention.
        index: code of every token of the grid, the token hash.
        reduction: the map from tokens to codes; `restore(codebook)` puts every token's code in its place.
    """

    values: Float[Tensor, "b m d"]
    mask: Bool[Tensor, "b m"]
    codebook: Float[Tensor, "b k d"]
    index: Int[Tensor, "b t h w"]  # pyright: ignore[reportIncompatibleMethodOverride]
    reduction: Reduction


class HashAttention(nn.Module):
    """The paper's VQ-attention: softmax(B W_Q · (B W_K)ᵀ) · MLP(hash) W_V, as many tokens out as codes.

    ```
    hash [t h w] ─► nearest on a fixed grid ─► (id + 1) / K ─► MLP ─► [K d] ─► values ─┐
    codebook [k d] ────────────────────────────────────────────────► queries, keys ───┴─► [k d]
    ```
    The hash as it is read has one fixed size, and the MLP gives as many rows as there are codes at most;
    fewer codes use the first rows. Ids are divided by K, which the paper leaves open.

    Args:
        dim: channels of a code.
        heads: that divide them.
        grid: (t, h, w) that every hash is brought to.
        codes: K at most.
        hidden: channels of the MLP.
    """

    def __init__(self, dim: int, heads: int, grid: tuple[int, int, int], codes: int, hidden: int) -> None:
        super().__init__()
        self.grid, self.codes = grid, codes
        self.mlp = nn.Sequential(
            nn.Linear(grid[0] * grid[1] * grid[2], hidden), nn.GELU(), nn.Linear(hidden, codes * dim)
        )
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(
        self, codebook: Float[Tensor, "b k d"], index: Int[Tensor, "b t h w"]
    ) -> Float[Tensor, "b k d"]:
        """The enriched codes of videos that have equally many.

        Raises:
            ConfigError: more codes than it was built for.
        """
        count = codebook.shape[1]
        if count > self.codes:
            raise ConfigError(f"{count} codes do not fit into a VQ-attention built for {self.codes}")
        resized = F.interpolate(index[:, None].to(codebook.dtype), self.grid).flatten(1)
        context = self.mlp((resized + 1) / self.codes).unflatten(1, (self.codes, -1))[:, :count]
        return self.attention(codebook, codebook, context, need_weights=False)[0]


class HashDecoder(nn.Module):
    """The official code's VQ-attention: a decoder layer whose queries are the frames' rows of ids.

    ```
    hash [t h·w] ─► linear ─► queries ─┐
    codebook [k d] ──────────► memory ─┴─► decoder layer (post-norm, ReLU) ─► [max(t, k) d]
    ```
    The shorter of rows and codes is repeated to the length of the longer. Names of parameters are the
    official ones.

    Args:
        dim: channels of a code.
        heads: that divide them.
        positions: tokens of a frame (officially 27 × 27).
        hidden: channels of the feed-forward part.
        dropout: in training.
    """

    def __init__(
        self, dim: int, heads: int, positions: int, hidden: int = 2048, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.to_q_proj = nn.Linear(positions, dim)
        layer = nn.TransformerDecoderLayer(dim, heads, hidden, dropout, batch_first=True)
        self.transformer_decoder = nn.TransformerDecoder(layer, 1)

    def forward(
        self, codebook: Float[Tensor, "b k d"], index: Int[Tensor, "b t h w"]
    ) -> Float[Tensor, "b m d"]:
        """The tokens of videos that have equally many codes.

        Raises:
            ConfigError: frames of another size than it was built for.
        """
        rows = index.flatten(2).to(codebook.dtype)
        frames, codes = rows.shape[1], codebook.shape[1]
        if rows.shape[2] != self.to_q_proj.in_features:
            raise ConfigError(
                f"frames of {rows.shape[2]} tokens do not fit a decoder for {self.to_q_proj.in_features}"
            )
        position = torch.arange(max(frames, codes), device=codebook.device)
        queries = self.to_q_proj(rows[:, position % frames])
        return self.transformer_decoder(queries, codebook[:, position % codes])


@dataclass(frozen=True)
class VQTokenConfig:
    """Attributes:
    dim: channels of a token (896 for Qwen2-0.5B).
    heads: of the attention.
    grid: (t, h, w) of the hash as the attention reads it; "decoder" needs h × w tokens a frame.
    attention: "paper", "decoder" as in the official code, or "none": the codebook alone.
    hidden: channels of the MLP ("paper") or of the feed-forward part ("decoder").
    dropout: of the decoder, in training.
    normalise: codes are means of tokens of length one, as in the official code; else of the tokens
        themselves.
    discretiser: how codes are found.
    """

    dim: int = 896
    heads: int = 8
    grid: tuple[int, int, int] = (32, 27, 27)
    attention: Literal["paper", "decoder", "none"] = "paper"
    hidden: int = 256
    dropout: float = 0.1
    normalise: bool = True
    discretiser: DiscretiserConfig = field(default_factory=DiscretiserConfig)

    def __post_init__(self) -> None:
        if self.attention not in ("paper", "decoder", "none"):
            raise ConfigError(
                f"no attention {self.attention!r}: {nearest(self.attention, ('paper', 'decoder', 'none'))}"
            )


@system(
    "vqtoken",
    room="backbones",
    paper=Paper(
        "VQToken: Neural Discrete Token Representation Learning for Extreme Token Reduction in Video Large "
        "Language Models",
        2025,
        "https://arxiv.org/abs/2503.16980",
    ),
    official=Official("Hai-chao-Zhang/VQToken", "BSD-3-Clause"),
    presets={
        "fixed-32": VQTokenConfig(),
        "adaptive": VQTokenConfig(discretiser=DiscretiserConfig(codes=None)),
        "llava-ov-0.5b": VQTokenConfig(attention="decoder", hidden=2048),
    },
    tags=("video", "video-llm", "codebook", "adaptive"),
)
class VQToken(nn.Module):
    """VQToken (2025): a video's tokens → its codebook → VQ-attention over codebook and token hash.

    ```
    tokens [b n d] ─► discretiser ─┬─► codebook [b k d] ─┬─► VQ-attention ─► values [b m d]
                                   └─► hash [b t h w] ───┘
    ```
    Frozen k-means; gradients reach the tokens through the means. m is k, but max(t, k) with "decoder".
    """

    def __init__(self, config: VQTokenConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VQTokenConfig()
        self.discretiser = Discretiser(config.discretiser)
        kind, codes = config.attention, config.discretiser
        self.attention: nn.Module | None = None
        if kind == "paper":
            most = codes.codes or codes.most
            self.attention = HashAttention(config.dim, config.heads, config.grid, most, config.hidden)
        elif kind == "decoder":
            positions = config.grid[1] * config.grid[2]
            self.attention = HashDecoder(config.dim, config.heads, positions, config.hidden, config.dropout)

    def forward(
        self, tokens: Float[Tensor, "b n d"], grid: tuple[int, int, int], count: int | None = None
    ) -> VQTokens:
        """Few tokens in place of all.

        Args:
            tokens: of whole videos, frame by frame.
            grid: (t, h, w) they lie on.
            count: codes; as configured when not given.

        Raises:
            ConfigError: a grid of another size, or one that the attention was not built for.
        """
        t, h, w = grid
        if t * h * w != tokens.shape[1]:
            raise ConfigError(f"{tokens.shape[1]} tokens do not lie on a grid of {t} × {h} × {w}")
        with torch.no_grad():
            reduction = self.discretiser.reduce(tokens, Context(grid=grid), count)
        return self.enrich(tokens, reduction, grid)

    def enrich(
        self, tokens: Float[Tensor, "b n d"], reduction: Reduction, grid: tuple[int, int, int]
    ) -> VQTokens:
        """The same for codes that were found already."""
        t, h, w = grid
        codebook = reduction.apply(F.normalize(tokens, dim=-1) if self.config.normalise else tokens)
        index = rearrange(reduction.source_map, "b (t h w) -> b t h w", t=t, h=h, w=w)
        if self.attention is None:
            return VQTokens(codebook, reduction.mask, codebook, index, reduction)
        if reduction.mask.all():
            values = self.attention(codebook, index)
            return VQTokens(values, torch.ones_like(values[..., 0]).bool(), codebook, index, reduction)
        videos = zip(codebook, reduction.mask, index, strict=True)
        enriched = [self.attention(codes[None, real], where[None])[0] for codes, real, where in videos]
        longest = max(len(video) for video in enriched)
        values = torch.stack([F.pad(video, (0, 0, 0, longest - len(video))) for video in enriched])
        length = torch.tensor([len(video) for video in enriched], device=tokens.device)
        mask = torch.arange(longest, device=tokens.device) < length[:, None]
        return VQTokens(values, mask, codebook, index, reduction)

    @classmethod
    def from_official(cls, state: dict[str, Tensor], **config: Any) -> VQToken:
        """The official VQ-attention; sizes are read from the weights, the number of heads is not among them.

        Args:
            state: the whole checkpoint or the attention's part of it.
            config: fields of `VQTokenConfig` that the weights do not tell; `grid` where frames are not
                square.

        Raises:
            FormatError: no VQ-attention among the weights.
        """
        own = {key.split(PREFIX)[-1]: value for key, value in state.items()}
        own = {
            key: value for key, value in own.items() if key.startswith(("to_q_proj.", "transformer_decoder."))
        }
        if "to_q_proj.weight" not in own:
            raise FormatError("no key ends in to_q_proj.weight: these are no weights of VQToken's attention")
        dim, positions = own["to_q_proj.weight"].shape
        side = round(positions**0.5)
        sizes = {
            "dim": dim,
            "grid": (1, side, side) if side * side == positions else (1, 1, positions),
            "hidden": len(own["transformer_decoder.layers.0.linear1.weight"]),
            "attention": "decoder",
        }
        model = cls(VQTokenConfig(**sizes | config))
        assert model.attention is not None  # "decoder" has one
        model.attention.load_state_dict(own)
        return model.eval()
