"""FAR, the generator of FQGAN: place after place, and at every place code after code.

```
class, codes of places before ─► joined ─► causal trunk ─► context h of the next place
[h, code 1, …] ─► causal head of a few blocks ─► logits of code 1, logits of code 2 given code 1, …
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, FormatError
from smalti.nn.causal_conv import State
from smalti.nn.rotary_decoder import RotaryBlock, grid_turns
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.nn.token_lm import drawer
from smalti.registry import replace
from smalti.tokens import Source, Tokens

OFFICIAL_NAMES = (
    (r"^layers\.", "trunk."),
    (r"^ar_head\.", "head."),
    (r"\.attention\.wqkv\.", ".qkv."),
    (r"\.attention\.wo\.", ".proj."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.ffn_norm\.", ".norm2."),
    (r"\.feed_forward\.w1\.", ".mlp.gate."),
    (r"\.feed_forward\.w3\.", ".mlp.value."),
    (r"\.feed_forward\.w2\.", ".mlp.out."),
    (r"^aggregation_layer\.", "join."),
    (r"^cls_embedding\.embedding_table\.", "classes."),
)


@dataclass(frozen=True)
class FARConfig:
    """Attributes:
    codes: of every codebook.
    codebooks: of a place.
    side: of the grid.
    patch: pixels a side of a place.
    classes: of pictures.
    dim, heads: of all blocks.
    depth, head_depth: blocks of the trunk and of the head.
    hidden: channels of the MLPs; two thirds of four times `dim`, up to a multiple of 256, when not given.
    dropout: of embeddings and branches, in training.
    silent_class: the class, and the context in the head, have neither queries nor keys; official weights were
        trained so, because their table of places holds zeros for them.
    """

    codes: int = 16384
    codebooks: int = 2
    side: int = 16
    patch: int = 16
    classes: int = 1000
    dim: int = 1024
    heads: int = 16
    depth: int = 24
    head_depth: int = 3
    hidden: int | None = None
    dropout: float = 0.1
    silent_class: bool = False


PRESETS = {"FAR-B": FARConfig(), "FAR-L": FARConfig(dim=1280, heads=20, depth=36, head_depth=4)}


class FAR(nn.Module):
    """Factorized autoregression over several codes a place (FQGAN: Bai et al., 2024, arXiv 2411.16681).

    ```
    ids [b n q], class [b] ─► trunk of Llama's blocks, rotary places ─► h [b n d]
    [h, E1(id 1), …, E(q-1)(id q-1)] ─► head, within a place ─► logits [b n q codes]
    ```
    Official training (`loss`): mean cross-entropy of all codes, no class for a tenth, AdamW 1e-4, 300 epochs
    of ten-crop codes, batch 256; sampling with guidance 2.

    Raises:
        ConfigError: heads that do not divide the channels into fours.
    """

    turns: Tensor

    def __init__(self, config: FARConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: FARConfig = replace(config or FARConfig(), changes)
        config = self.config
        dim, hidden = config.dim, config.hidden or -(-int(8 * config.dim / 3) // 256) * 256
        self.classes = nn.Embedding(config.classes + 1, dim)
        self.embeddings = nn.ModuleList(nn.Embedding(config.codes, dim) for _ in range(config.codebooks))
        self.join = nn.Linear(config.codebooks * dim, dim)
        self.dropout = nn.Dropout(config.dropout)
        self.trunk, self.head = (
            nn.ModuleList(RotaryBlock(dim, config.heads, hidden, config.dropout) for _ in range(depth))
            for depth in (config.depth, config.head_depth)
        )
        self.norm = nn.RMSNorm(dim, 1e-5)
        self.outputs = nn.ModuleList(
            nn.Linear(dim, config.codes, bias=False) for _ in range(config.codebooks)
        )
        turns = grid_turns(config.side, dim // config.heads, silent_first=config.silent_class)
        self.register_buffer("turns", turns, persistent=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.join.bias)
        for output in self.outputs:
            nn.init.zeros_(output.weight)

    @property
    def null(self) -> int:
        """The class that says nothing."""
        return self.config.classes

    def embed(self, ids: Int[Tensor, "b n q"]) -> list[Float[Tensor, "b n d"]]:
        """Of every codebook's ids."""
        return [table(some) for table, some in zip(self.embeddings, ids.unbind(-1), strict=True)]

    def forward(self, ids: Int[Tensor, "b n q"], classes: Int[Tensor, "b"]) -> Float[Tensor, "b n q v"]:
        """Logits of every code, given the class, all places before and the codes before at its place.

        Raises:
            FormatError: other codebooks, more places than the grid has, or no such id or class.
        """
        self._refuse(ids, classes)
        embedded = self.embed(ids)
        before = self.join(torch.cat(embedded, -1))[:, :-1]
        x = self.dropout(torch.cat([self.classes(classes)[:, None], before], 1))
        for block in self.trunk:
            x = block(x, self.turns[: x.shape[1]])
        return self.within([x, *embedded[:-1]])

    def within(self, given: list[Float[Tensor, "b n d"]]) -> Float[Tensor, "b n q v"]:
        """Logits at every place of its context and the embeddings of its codes but the last."""
        x = torch.stack(given, 2)
        places = x.shape[:2]
        x = x.flatten(0, 1)
        for block in self.head:
            x = block(x, self.turns[: x.shape[1]])
        x = self.norm(x).unflatten(0, places)
        return torch.stack([out(each) for out, each in zip(self.outputs, x.unbind(2), strict=True)], 2)

    def loss(
        self,
        ids: Int[Tensor, "b n q"],
        classes: Int[Tensor, "b"],
        generator: torch.Generator | None = None,
        drop: float = 0.1,
    ) -> Float[Tensor, ""]:
        """What training minimises; a share `drop` of samples loses its class."""
        free = (torch.rand(len(ids), generator=generator) < drop).to(ids.device)
        logits = self(ids, torch.where(free, self.null, classes))
        return F.cross_entropy(logits.flatten(0, 2).float(), ids.flatten())

    @torch.no_grad()
    def sample(
        self,
        count: int,
        condition: Int[Tensor, "b"] | None = None,
        guidance: float = 2.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tokens:
        """Tokens of `count` pictures that FQGAN decodes.

        Args:
            count: of pictures.
            condition: class of each; none when not given.
            guidance: how far logits go from those without a class; 1 is no guidance.
            temperature: of the draws; 0 takes the likeliest.
            top_k: only so many likeliest codes; 0 for all.
            top_p: only the likeliest codes that together have this probability.
            generator: of the draws.

        Raises:
            ConfigError: not one class a picture.
            FormatError: a class that does not exist.
        """
        config = self.config
        classes = torch.full((count,), self.null) if condition is None else condition
        if len(classes) != count:
            raise ConfigError(f"{len(classes)} classes for {count} pictures: give one a picture")
        classes = classes.to(self.turns.device)
        guided = guidance != 1.0
        if guided:
            classes = torch.cat([classes, torch.full_like(classes, self.null)])
        self._refuse(classes.new_zeros(len(classes), 1, config.codebooks), classes)
        draw = drawer(temperature, top_k, top_p, generator)
        x, state, drawn = self.classes(classes)[:, None], {}, []
        for place in range(config.side**2):
            for block in self.trunk:
                x = block(x, self.turns[place : place + 1], state)
            drawn.append(self._codes(x, draw, guidance))
            again = drawn[-1].repeat(1 + guided, 1)[:, None]
            x = self.join(torch.cat(self.embed(again), -1))
        side = config.side * config.patch
        return Tokens(
            ids=torch.stack(drawn, 1), grid=(1, config.side, config.side), source=Source(side, side)
        )

    def _codes(
        self, context: Float[Tensor, "b 1 d"], draw: Callable[[Tensor], Tensor], guidance: float
    ) -> Int[Tensor, "m q"]:
        """The codes of a place, one after the other."""
        state: State = {}
        x, ids = context, []
        for number, output in enumerate(self.outputs):
            for block in self.head:
                x = block(x, self.turns[number : number + 1], state)
            logits = output(self.norm(x))[:, 0]
            if guidance != 1.0:
                given, free = logits.chunk(2)
                logits = free + guidance * (given - free)
            ids.append(draw(logits))
            x = self.embeddings[number](ids[-1].repeat(len(context) // len(logits)))[:, None]
        return torch.stack(ids, -1)

    def _refuse(self, ids: Tensor, classes: Tensor) -> None:
        config = self.config
        if ids.shape[2] != config.codebooks or ids.shape[1] > config.side**2:
            raise FormatError(
                f"{ids.shape[1]} places of {ids.shape[2]} codes, "
                f"but this generator knows {config.side**2} of {config.codebooks}"
            )
        for what, some, most in (("id", ids, config.codes - 1), ("class", classes, config.classes)):
            if some.numel() and not some.is_meta and (int(some.min()) < 0 or int(some.max()) > most):
                raise FormatError(f"{what} {int(some.min())} to {int(some.max())} is outside 0 to {most}")

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, heads: int | None = None, side: int = 16, patch: int = 16
    ) -> FAR:
        """The generator of an official checkpoint of classes, dual or triple; sizes are read from it.

        Args:
            state: names and tensors.
            heads: which a checkpoint does not tell; of 64 channels each when not given.
            side: of the grid, which it does not tell either.
            patch: pixels a side of a place.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        codebooks = numbered(state, r"tok_embeddings_(\d+)\.")
        codes, dim = told(state, "tok_embeddings_1.weight").shape
        config = FARConfig(
            codes=codes,
            codebooks=len(codebooks),
            side=side,
            patch=patch,
            classes=len(told(state, "cls_embedding.embedding_table.weight")) - 1,
            dim=dim,
            heads=heads or max(dim // 64, 1),
            depth=len(numbered(state, r"layers\.(\d+)\.")),
            head_depth=len(numbered(state, r"ar_head\.(\d+)\.")),
            hidden=len(told(state, "layers.0.feed_forward.w1.weight")),
            silent_class=True,
        )
        model = cls(config)
        rules = [(rf"^tok_embeddings_{n}\.", f"embeddings.{n - 1}.") for n in codebooks]
        rules += [(rf"^output_{n}\.", f"outputs.{n - 1}.") for n in codebooks]
        kept = {name: tensor for name, tensor in state.items() if name != "freqs_cis"}
        load_strictly(model, renamed(kept, (*rules, *OFFICIAL_NAMES)))
        return model
