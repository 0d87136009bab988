"""S5: minutes of video as tokens of its frames, of which a state space keeps what informs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smalti.backbones.base import Backbone, Features
from smalti.backbones.checkpoint_facts import counted, unwrapped
from smalti.backbones.picture_frames import frames_of
from smalti.backbones.s5_parts import MaskGenerator, ViS4mer
from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.nn.momentum_copy import follow, momentum_copy
from smalti.nn.order import descending
from smalti.nn.strict_loading import load_strictly, told
from smalti.reducers.reduction import Gather, identity
from smalti.registry import Official, Paper, replace, system
from smalti.tokens import Tokens


@dataclass(frozen=True)
class S5Config:
    """Attributes:
    inputs: channels of the tokens.
    dim: channels of the first block; tokens of another width are projected.
    depth: blocks; each halves tokens and channels.
    length: tokens that S4's kernels are made for; others are taken as well.
    classes: of the head; 1 for a number, 0 for none.
    state: numbers of a state of S4.
    kernel: S4's ("nplr") or S4D's ("diagonal").
    prenorm: norms in front of S4.
    dropout: of whole channels.
    keep: share of tokens that are kept; 1 is ViS4mer, without a mask.
    guided: the mask looks at what a slow copy of the first S4 layer makes of the tokens; else at the tokens.
    masking: tokens that are not kept are set to "zero" or left out ("drop"); "zero-then-drop" does the
        first in training and the second after it.
    temperature: of the Gumbel softmax.
    momentum: of the slow copy.
    """

    inputs: int = 1024
    dim: int = 1024
    depth: int = 3
    length: int = 60 * 197
    classes: int = 10
    state: int = 64
    kernel: Literal["nplr", "diagonal"] = "nplr"
    prenorm: bool = True
    dropout: float = 0.2
    keep: float = 0.5
    guided: bool = True
    masking: Literal["zero-then-drop", "zero", "drop"] = "zero-then-drop"
    temperature: float = 1.0
    momentum: float = 0.99

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ConfigError(f"a share of tokens to keep lies in (0, 1], not at {self.keep}")
        if self.depth < 1 or self.dim % (1 << self.depth) or self.dim % 4:
            raise ConfigError(f"{self.dim} channels cannot be halved {self.depth} times")
        if self.length < 1 << self.depth:
            raise ConfigError(f"a length of {self.length} tokens cannot be halved {self.depth} times")


def _vis4mer(config: S5Config) -> S5Config:
    return replace(config, {"keep": 1.0, "guided": False})


TASKS = {
    "lvu-relationship": S5Config(classes=4),
    "lvu-speaking": S5Config(classes=5),
    "lvu-scene": S5Config(classes=6),
    "lvu-director": S5Config(classes=10),
    "lvu-genre": S5Config(classes=4),
    "lvu-writer": S5Config(classes=10),
    "lvu-year": S5Config(classes=9),
    "lvu-like": S5Config(classes=1),
    "lvu-view": S5Config(classes=1),
    "breakfast": S5Config(classes=10, length=64 * 49),
    "coin": S5Config(classes=180, length=64 * 49),
}


class Masked(NamedTuple):
    """Tokens behind the mask.

    Attributes:
        tokens: [b m d], as they enter the first block.
        mask: [b n] 1 for kept tokens; while training with gradients to the generator.
        reduction: which tokens are left, where others were left out.
    """

    tokens: Tensor
    mask: Tensor
    reduction: Gather | None


@system(
    "s5",
    room="backbones",
    paper=Paper(
        "Selective Structured State-Spaces for Long-Form Video Understanding",
        2023,
        "https://arxiv.org/abs/2303.14526",
    ),
    official=Official("md-mohaiminul/ViS4mer", "none stated"),
    presets=TASKS | {f"vis4mer-{name}": _vis4mer(config) for name, config in TASKS.items()},
    tags=("video", "long", "state-space", "linear", "prune", "learned"),
    status="reconstruction",
)
class S5(Backbone):
    """S5 (Wang et al., 2023): S4 over the tokens of a long video, half of them masked by its own slow copy.

    ```
    frames ─► image encoder (frozen) ─► Tokens.values [b n e] ─► encode ─┬─► × mask ─► ViS4mer ─► Features
                                                          [b n d]        │       ▲           [b n/8 d/8]
         mask generator ◄─ slow copy of S4, no gradient ◄────────────────┘       │
               └─► logits [b n 2] ─► Gumbel noise, or the best ──────────────────┘
    ```
    Not the "simplified state space layer" of the same name. Features of video come from any frozen encoder,
    as `frame_tokens` lays them out; officially ViT-L/16 of 60 s at 1 frame a second (197 tokens each) or
    Swin-B (49). Training sets masked tokens to zero, with straight-through Gumbel noise and a loss on the
    share that is kept (`s5_training.py`); after it the tokens with the highest logits stay, in order, and S4
    sees a shorter sequence. Official training of ViS4mer: AdamW 1e-3, decay 0.01, none for A, B, dt; batch
    16; rate × 0.2 on plateaus.
    Reconstruction: of S5 no code is public. Ours: the slow copy that guides is the first block's norm and
    S4 layer; the form of the generator; the square loss on the share. ViS4mer alone (`keep=1`, presets
    `vis4mer-…`) is checked against its code. Deviations: sequences of any length, as the same state space;
    S4 always in float32.

    Raises:
        ConfigError: pixels instead of tokens, tokens of another width or too few.
    """

    def __init__(self, config: S5Config | None = None) -> None:
        super().__init__()
        self.config = config = config or S5Config()
        self.online = ViS4mer(
            config.inputs,
            config.dim,
            config.depth,
            config.length,
            config.classes,
            config.state,
            config.kernel,
            config.prenorm,
            config.dropout,
        )
        selective = config.keep < 1
        self.slow = momentum_copy(self.online) if selective and config.guided else None
        self.generator = MaskGenerator(config.dim) if selective else None

    def train(self, mode: bool = True) -> S5:
        """The slow copy never drops anything."""
        super().train(mode)
        if self.slow is not None:
            self.slow.eval()
        return self

    def forward(self, source: Float[Tensor, "b 3 t h w"] | Tokens) -> Features:
        """Features of the tokens of a video's frames."""
        if not isinstance(source, Tokens) or source.values is None:
            raise ConfigError(
                "S5 works on Tokens.values: make them of pixels with `frame_tokens(encoder, …)`"
            )
        if source.values.shape[-1] != self.config.inputs:
            raise ConfigError(f"tokens have {source.values.shape[-1]} channels, not {self.config.inputs}")
        return self.read(source.values)[0]

    def read(
        self, values: Float[Tensor, "b n e"], logits: Float[Tensor, "b n 2"] | None = None
    ) -> tuple[Features, Masked]:
        """Features, and what the mask left.

        Args:
            values: of all tokens.
            logits: of keeping and dropping, of another scorer than the model's generator.
        """
        masked = self.mask(self.online.encoder(values), values, logits)
        tokens = self.online.features(masked.tokens)
        return Features(tokens, tokens.mean(1)), masked

    def logits(self, x: Float[Tensor, "b n d"], values: Float[Tensor, "b n e"]) -> Float[Tensor, "b n 2"]:
        """Logits of keeping and dropping every token, which look at all of them."""
        if self.generator is None:
            raise ConfigError("this preset keeps all tokens: choose a `keep` below 1")
        if self.slow is None:
            return self.generator(x)
        with torch.no_grad():
            h = self.slow.look(values)
        return self.generator(h)

    def mask(
        self,
        x: Float[Tensor, "b n d"],
        values: Float[Tensor, "b n e"],
        logits: Float[Tensor, "b n 2"] | None = None,
    ) -> Masked:
        """Encoded tokens without those that say little."""
        if self.generator is None and logits is None:
            return Masked(x, x.new_ones(x.shape[:2]), None)
        logits = self.logits(x, values) if logits is None else logits
        drops = self.config.masking == "drop" or (not self.training and self.config.masking != "zero")
        if self.training and not drops:
            mask = F.gumbel_softmax(logits.float(), self.config.temperature, hard=True)[..., 0].to(x.dtype)
            return Masked(x * mask[..., None], mask, None)
        reduction = self.select(logits)
        mask = (reduction.source_map >= 0).to(x.dtype)
        if self.training:  # the gradient of a share passes straight through
            share = logits.float().softmax(-1)[..., 0].to(x.dtype)
            mask = mask + share - share.detach()
        if self.training or not drops:
            x = x * mask[..., None]
        return Masked(reduction.apply(x), mask, reduction) if drops else Masked(x, mask, None)

    def select(self, logits: Float[Tensor, "b n 2"]) -> Gather:
        """The share of tokens to keep whose logits speak most for it, in order."""
        tokens = logits.shape[1]
        count = max(round(self.config.keep * tokens), 1)
        if count == tokens:
            return identity(logits)
        index = descending((logits[..., 0] - logits[..., 1]).float())[:, :count].sort(-1).values
        return Gather(tokens, index)

    def classify(self, features: Features) -> Float[Tensor, "b k"]:
        """Logits of classes, or the one number that was learned."""
        return self.online.decoder(features.pooled)

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the optimiser: the slow copy follows."""
        if self.slow is not None:
            follow(self.slow, self.online, self.config.momentum)

    def flops(self, shape: tuple[int, ...]) -> int:
        """Multiply-adds of one forward on tokens [b n e]; Fourier transforms do not count."""
        example = torch.zeros(shape, device=next(self.parameters()).device)
        with torch.no_grad():
            return int(count_flops(self, Tokens(values=example)))

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], **config: Any) -> S5:
        """The model of a checkpoint of ViS4mer: `keep=1` unless another share is asked for.

        Args:
            state: names and tensors.
            config: what they do not tell, such as `keep` and `prenorm`.

        Raises:
            ConfigError: keys or shapes that do not fit.
        """
        state = unwrapped(state)
        dim, inputs = told(state, "encoder.weight").shape
        turn = torch.view_as_complex(told(state, "s4_layers.0.kernel.krylov.nodes")[1].double()).angle()
        sizes = {
            "inputs": inputs,
            "dim": dim,
            "depth": counted(state, "s4_layers."),
            "length": round(2 * math.pi / abs(float(turn))),
            "classes": len(told(state, "decoder.weight")),
            "state": 2 * len(told(state, "s4_layers.0.kernel.krylov.w")),
            "keep": 1.0,
            "guided": "keep" in config,
        }
        model = cls(replace(S5Config(), sizes | config))
        load_strictly(model.online, rename_official(state))
        if model.slow is not None:
            follow(model.slow, model.online, 0.0)
        return model


RENAMES = (
    (r"^s4_layers\.(\d+)\.kernel\.krylov\.", r"blocks.\1.mix.kernel."),
    (r"^s4_layers\.(\d+)\.output_linear\.", r"blocks.\1.mix.project."),
    (r"^s4_layers\.(\d+)\.D$", r"blocks.\1.mix.skip"),
    (r"^norms\.(\d+)\.", r"blocks.\1.norm."),
    (r"^linears\.(\d+)\.", r"blocks.\1.shrink."),
)
TABLES = re.compile(r".*\.krylov\.(nodes|z)$")


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ViS4mer's names → ours; tables that follow from sizes and a projection that is never used left out."""
    ours = {}
    square = state["encoder.weight"].shape[0] == state["encoder.weight"].shape[1]
    for name, tensor in state.items():
        if TABLES.fullmatch(name) or (square and name.startswith("encoder.")):
            continue
        for pattern, renamed in RENAMES:
            name = re.sub(pattern, renamed, name)
        ours[name] = tensor.flatten() if name.endswith("project.bias") else tensor
    return ours


@torch.no_grad()
def frame_tokens(
    encoder: Callable[[Tensor], Tensor], pixels: Float[Tensor, "b 3 t h w"], batch: int = 32
) -> Tokens:
    """Tokens of every frame in order of time, from any image encoder.

    Args:
        encoder: from frames [n 3 h w] in [0, 1] to tokens [n s d]; runs without gradients.
        pixels: a video.
        batch: frames that it sees at once.
    """
    parts = [encoder(part) for part in frames_of(pixels).split(batch)]
    return Tokens(values=rearrange(torch.cat(parts), "(b t) s d -> b (t s) d", b=len(pixels)))
