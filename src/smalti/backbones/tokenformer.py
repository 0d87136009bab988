"""TokenFormer: a transformer whose linear layers attend to parameter tokens, and grow by them."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from smalti.backbones.base import Backbone, Features
from smalti.backbones.picture_frames import frames_of, over_time, resample_positions
from smalti.backbones.tokenformer_block import PRESETS, TokenBlock, TokenFormerConfig, Words
from smalti.errors import ConfigError, FormatError
from smalti.nn.flops import count_flops
from smalti.nn.strict_loading import load_strictly
from smalti.registry import Official, Paper, replace, system
from smalti.tokens import Tokens


@system(
    "tokenformer",
    room="backbones",
    paper=Paper(
        "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters",
        2025,
        "https://arxiv.org/abs/2410.23168",
    ),
    official=Official("Haiyang-W/TokenFormer", "Apache-2.0"),
    presets=PRESETS,
    tags=("image", "language", "scaling", "growth", "parameters"),
)
class TokenFormer(Backbone):
    """TokenFormer (Wang et al., 2025): linear layers attend to parameter tokens, and grow by them.

    ```
    pixels [b 3 t h w] ─► patches, class token, positions ─┐
    Tokens.ids [b n 1] ─► embedding (rotary, causal)      ─┴─► blocks ─► norm ─► Features ─► `classify`
    ```
    Vision: any size, each side cut to whole patches by padding with zeros; every frame by itself. Language:
    any length; pooled is the last real token. "150M" to "1.5B" are the published sizes on the Pile; "124M" to
    "1.4B" one chain of growth on the shape of GPT-2 (its last size is reconstructed). Official training of
    language: Adam 6e-4 to 6e-5, betas 0.9 and 0.95, decay 0.1, 2 M tokens a batch, 143 k steps; of vision:
    MAE's supervised recipe, 300 epochs. Deviations: a token whose scores are all zero gives zero instead of
    NaN; softmax does not overflow; batch first.

    Raises:
        MediaError: pixels that mean nothing.
        ConfigError: the form's other source, or empty text.
        FormatError: ids outside the vocabulary.
    """

    def __init__(self, config: TokenFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TokenFormerConfig()
        if config.pictures is not None:
            side, patch = config.pictures.side // config.pictures.patch, config.pictures.patch
            self.patches = nn.Conv2d(3, config.dim, patch, patch)
            self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim))
            self.positions = nn.Parameter(torch.zeros(1, 1 + side * side, config.dim))
            nn.init.trunc_normal_(self.class_token, std=0.02)
            nn.init.trunc_normal_(self.positions, std=0.02)
            self.head = nn.Linear(config.dim, config.pictures.classes)
        if config.words is not None:
            self.embedding = nn.Embedding(config.words.vocabulary, config.dim)
            nn.init.normal_(self.embedding.weight, std=0.02)
            self.head = nn.Linear(config.dim, config.words.vocabulary, bias=False)
            if config.words.tied:
                self.head.weight = self.embedding.weight
        rates = [config.drop_path * number / max(config.depth - 1, 1) for number in range(config.depth)]
        self.blocks = nn.ModuleList(TokenBlock(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.dim, config.eps)

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of pixels in [0, 1], or of ids."""
        if isinstance(source, Tokens):
            return self.read(source)
        if self.config.pictures is None:
            raise ConfigError("this is a language model: give Tokens with ids")
        frames = self.normalise(frames_of(source)[:, :, None])[:, :, 0]
        return over_time(self.look(frames), source.shape[2])

    def look(self, frames: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of normalised pictures."""
        if self.config.pictures is None:
            raise ConfigError("this is a language model: give Tokens with ids")
        patch = self.config.pictures.patch
        height, width = frames.shape[2:]
        frames = F.pad(frames.to(self.patches.weight.dtype), (0, -width % patch, 0, -height % patch))
        maps = self.patches(frames)
        rows, columns = maps.shape[2:]
        side = self.config.pictures.side // patch
        places = resample_positions(self.positions[:, 1:], (side, side), (rows, columns))
        first = (self.class_token + self.positions[:, :1]).expand(len(maps), -1, -1)
        x = self._through(torch.cat([first, rearrange(maps, "b d h w -> b (h w) d") + places], 1))
        return Features(x, x[:, 0], prefix=1, grid=(1, rows, columns))

    def read(self, tokens: Tokens) -> Features:
        """Features of ids, each of those before it and its own."""
        if self.config.words is None or tokens.ids is None or tokens.ids.shape[2] != 1:
            raise ConfigError("ids [b n 1] are read by a language model: choose a preset such as '150M'")
        ids, size = tokens.ids[..., 0], self.config.words.vocabulary
        if ids.shape[1] == 0:
            raise ConfigError("the text is empty: give at least one id")
        checked = not (ids.is_meta or torch.compiler.is_compiling())
        if checked and (ids.min() < 0 or ids.max() >= size):
            raise FormatError(f"ids lie in [{int(ids.min())}, {int(ids.max())}], outside [0, {size - 1}]")
        if tokens.mask is None:
            x = self._through(self.embedding(ids))
            return Features(x, x[:, -1])
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=ids.device)  # padding in front sees something
        x = self._through(self.embedding(ids), causal & tokens.mask[:, None, None] | itself)
        last = (tokens.mask * torch.arange(1, length + 1, device=ids.device)).argmax(1)
        return Features(x, x[torch.arange(len(x), device=x.device), last], mask=tokens.mask)

    def classify(self, features: Features) -> Float[Tensor, "b *n k"]:
        """Logits: of classes for every picture [b k], or of the next id after every token [b n k]."""
        return self.head(features.pooled if self.config.words is None else features.tokens)

    def flops(self, shape: tuple[int, ...]) -> int:
        """Multiply-adds of one forward on pixels [b 3 t h w] or ids [b n], without the head."""
        if self.config.words is None:
            return super().flops(shape)
        ids = torch.zeros(*shape, 1, dtype=torch.long, device=self.norm.weight.device)
        with torch.no_grad():
            return int(count_flops(self, Tokens(ids=ids)))

    def _through(self, x: Float[Tensor, "b n d"], allowed: Tensor | None = None) -> Float[Tensor, "b m d"]:
        """Fewer tokens may leave than came, where a reducer is at work."""
        for block in self.blocks:
            if self.config.checkpointing and self.training:
                x = cast(Tensor, checkpoint(block, x, allowed, use_reentrant=False))
            else:
                x = block(x, allowed)
        return self.norm(x)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], **config: Any) -> TokenFormer:
        """The language model of an official merged checkpoint; sizes are read off its tensors.

        Heads are told by the rotary buffer, or known for published sizes; else give `heads`.

        Raises:
            ConfigError: keys or shapes that do not fit.
        """
        ours = rename_official(state)
        try:
            vocabulary, dim = ours["embedding.weight"].shape
            tokens = tuple(len(ours[f"blocks.0.{part}.key_tokens"]) for part in ("query", "proj", "mlp"))
        except KeyError as error:
            raise ConfigError(f"this is no checkpoint of a TokenFormer: {error} is missing") from error
        depth = 1 + max(int(name.split(".")[1]) for name in ours if name.startswith("blocks."))
        tied = "head.weight" not in ours
        words = config.pop("words", Words(vocabulary, tied=tied))
        ours.setdefault("head.weight", ours["embedding.weight"])
        told = {"dim": dim, "depth": depth, "tokens": tokens, "pictures": None, "words": words}
        if "heads" not in config:
            told["heads"] = _heads_of(state, dim, words.rotary)
        model = cls(replace(TokenFormerConfig(), told | config))
        load_strictly(model, ours)
        return model


def _heads_of(state: Mapping[str, Tensor], dim: int, rotary: float) -> int:
    for name, tensor in state.items():
        if name.endswith("rotary_emb.inv_freq"):
            return round(dim * rotary / (2 * len(tensor)))
    published = {768: 12, 1024: 16, 1280: 16, 1536: 16}
    if dim not in published:
        raise ConfigError(f"no published size has {dim} channels: give heads")
    return published[dim]


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names → ours: the embedding at index 0, blocks from 2, after their end + 1 the norm."""
    state = {name.removeprefix("module."): t for name, t in state.items() if not name.endswith("inv_freq")}
    places = [int(n.split(".")[1]) for n in state if re.search(r"^sequential\.\d+\.attention\.", n)]
    after = max(places, default=1) + 2
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"^sequential\.0\.word_embeddings\.", "embedding.", name)
        name = re.sub(rf"^sequential\.{after}\.norm\.", "norm.", name)
        name = re.sub(rf"^sequential\.{after + 1}\.(final_linear\.)?", "head.", name)
        name = re.sub(r"^sequential\.(\d+)\.", lambda found: f"blocks.{int(found[1]) - 2}.", name)
        name = name.replace(".attention.", ".").removeprefix("attention.")
        renamed[re.sub(r"(key|value)_param_tokens$", r"\1_tokens", name)] = tensor
    return renamed


def grow_model(
    model: TokenFormer,
    tokens: tuple[int, int, int],
    tau: Literal["fixed", "sqrt_n"] = "fixed",
    freeze_old: bool = False,
) -> TokenFormer:
    """A larger model that computes the same, as long as `tau` is "fixed".

    Args:
        model: is left as it is.
        tokens: parameter tokens that each layer shall have, as in the configuration.
        tau: "fixed" holds √n of the old n; "sqrt_n" lets it grow, and changes what the model computes.
        freeze_old: in layers that grow, learn the new parameter tokens alone.

    Raises:
        ConfigError: fewer tokens than the model has.
    """
    grown, old = copy.deepcopy(model), model.config
    extra = [new - before for new, before in zip(tokens, old.tokens, strict=True)]
    if min(extra) < 0 or max(extra) == 0:
        raise ConfigError(f"a model of {old.tokens} parameter tokens cannot grow to {tokens}")
    if tau == "sqrt_n" and min(extra) == 0:
        raise ConfigError(f'tau "sqrt_n" needs every layer to grow: {old.tokens} to {tokens} leaves some')
    for block in grown.blocks:
        for part, names in enumerate((("query", "key", "value"), ("proj",), ("mlp",))):
            for name in names if extra[part] else ():
                setattr(block, name, getattr(block, name).grow(extra[part], tau, freeze_old))
    held = old.tau or tuple(math.sqrt(n) for n in old.tokens)
    grown.config = replace(
        old,
        {
            "tokens": tuple(tokens),
            "tau": held if tau == "fixed" else None,
            "frozen": tuple(
                n if freeze_old and more else kept
                for n, more, kept in zip(old.tokens, extra, old.frozen, strict=True)
            ),
        },
    )
    return grown
