"""EcoFormer: PVTv2 whose attention, of linear cost, is between learned binary codes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.backbones.base import Backbone, Features
from smalti.backbones.ecoformer_blocks import (
    EcoFormerAttention,
    Hashing,
    Kind,
    OverlappingPatches,
    PyramidBlock,
    attention,
)
from smalti.backbones.picture_frames import frames_of, over_time
from smalti.errors import ConfigError
from smalti.nn.strict_loading import load_strictly
from smalti.registry import Official, Paper, replace, system

KINDS = ("ecoformer", "softmax", "shared", "sra", "performer")
MULTIPLY, ADD = 3.7, 0.9  # picojoules, of float32 at 45 nm


@dataclass(frozen=True)
class EcoFormerConfig:
    """A PVTv2 and its attention.

    Attributes:
        dims: channels of every stage.
        heads: of every stage.
        ratios: hidden channels of the MLPs, as factors.
        depths: blocks of every stage.
        attention: of all stages but the last, which has softmax: "ecoformer"; "softmax"; "shared" (softmax of
            equal queries and keys); "sra" (PVT's own); "performer".
        reductions: of "sra", in every stage.
        hashing: of "ecoformer".
        classes: of the head.
        eps: of the norms outside the patches.
        drop_path: of the last block, falling linearly to 0 at the first.
    """

    dims: tuple[int, ...] = (32, 64, 160, 256)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    ratios: tuple[int, ...] = (8, 8, 4, 4)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    attention: Kind = "ecoformer"
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    hashing: Hashing = field(default_factory=Hashing)
    classes: int = 1000
    eps: float = 1e-6
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        if self.attention not in KINDS:
            raise ConfigError(f"no attention {self.attention!r}: choose one of {', '.join(KINDS)}")
        lengths = {len(x) for x in (self.dims, self.heads, self.ratios, self.depths, self.reductions)}
        if len(lengths) != 1:
            raise ConfigError("dims, heads, ratios, depths and reductions must be of as many stages")
        for dim, heads in zip(self.dims, self.heads, strict=True):
            if dim % heads:
                raise ConfigError(f"{heads} heads do not divide {dim} channels")


def _pvt(*depths: int) -> EcoFormerConfig:
    return EcoFormerConfig((64, 128, 320, 512), depths=depths)


class Energy(NamedTuple):
    """Operations of a forward and what they take, norms and activations left out.

    Attributes:
        multiplications: of numbers.
        additions: of numbers, those within products included.
        joules: at 3.7 pJ a multiplication and 0.9 pJ an addition.
    """

    multiplications: int
    additions: int
    joules: float


@system(
    "ecoformer",
    room="backbones",
    paper=Paper(
        "EcoFormer: Energy-Saving Attention with Linear Complexity", 2022, "https://arxiv.org/abs/2209.09004"
    ),
    official=Official("ziplab/EcoFormer", "Apache-2.0"),
    presets={
        "pvtv2_b0_ecoformer": EcoFormerConfig(),
        "pvtv2_b1_ecoformer": _pvt(2, 2, 2, 2),
        "pvtv2_b2_ecoformer": _pvt(3, 4, 6, 3),
        "pvtv2_b3_ecoformer": _pvt(3, 4, 18, 3),
        "pvtv2_b4_ecoformer": _pvt(3, 8, 27, 3),
    },
    tags=("image", "linear", "hash", "binary", "hierarchical", "energy"),
)
class EcoFormer(Backbone):
    """EcoFormer (Liu et al., 2022): attention between hashed queries and keys, in PVTv2.

    ```
    pixels [b 3 t h w] ─► patches /4 ─► blocks ─► /8 ─► blocks ─► /16 ─► blocks ─► /32 ─► blocks, softmax
                             └─ four normed maps (`pyramid`)                                │
    logits [b classes] ◄─ `classify` ◄─ mean ◄─────────────────────────────────────────────┘
    ```
    Pictures of any size; every frame by itself. In training the first forward and every 300th learn the hash
    from the batch. Official training: PVTv2 with softmax 100 epochs, then 30 epochs of EcoFormer (see
    `swap_attention`): AdamW, 5e-5 to 1e-6, decay of a cosine, 256 pictures a batch, drop path 0.1.
    Deviations: the hash of a new model begins with random anchors; the matrix of near and far pairs is kept
    as indices; Performer's features are drawn once. Twins-SVT is not here.

    Raises:
        MediaError: pixels that mean nothing.
    """

    def __init__(self, config: EcoFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EcoFormerConfig()
        self.patches, self.stages, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        last, done = len(config.dims) - 1, 0
        for number, dim in enumerate(config.dims):
            source, side, stride = (config.dims[number - 1], 3, 2) if number else (3, 7, 4)
            self.patches.append(OverlappingPatches(source, dim, side, stride))
            blocks = nn.ModuleList()
            for _ in range(config.depths[number]):
                kind = "softmax" if number == last and config.attention != "sra" else config.attention
                attn = attention(kind, dim, config.heads[number], config.reductions[number], config.hashing)
                rate = config.drop_path * done / max(sum(config.depths) - 1, 1)
                blocks.append(PyramidBlock(dim, attn, dim * config.ratios[number], config.eps, rate))
                done += 1
            self.stages.append(blocks)
            self.norms.append(nn.LayerNorm(dim, config.eps))
        self.head = nn.Linear(config.dims[-1], config.classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, source: Float[Tensor, "b 3 t h w"]) -> Features:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Features of pixels in [0, 1]."""
        frames = self.normalise(frames_of(source)[:, :, None])[:, :, 0]
        return over_time(self.look(frames), source.shape[2])

    def look(self, frames: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of normalised pictures."""
        maps, pyramid = frames.to(self.head.weight.dtype), []
        normed: list[tuple[Tensor, tuple[int, int]]] = []
        stages = cast("Iterable[nn.ModuleList]", self.stages)
        for patches, blocks, norm in zip(self.patches, stages, self.norms, strict=True):
            x, size = patches(maps)
            for block in blocks:
                x = block(x, size)
            x = norm(x)
            normed.append((x, size))
            maps = rearrange(x, "b (h w) c -> b c h w", h=size[0])
            pyramid.append(maps[:, :, None])
        x, size = normed[-1]
        return Features(x, x.mean(1), tuple(pyramid), grid=(1, *size))

    def classify(self, features: Features) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        return self.head(features.pooled)

    def set_retrain(self) -> None:
        """Learn every hash again at the next forward in training."""
        for module in self.modules():
            if isinstance(module, EcoFormerAttention):
                module.set_retrain()

    def energy(self, shape: tuple[int, ...]) -> Energy:
        """Operations of one forward on pixels of a shape [b 3 t h w], the head included.

        Products with codes are additions and subtractions alone; β N is a shift.
        """
        if self.config.attention == "performer":
            raise ConfigError("energy is counted for ecoformer, softmax, shared and sra")
        pictures, height, width = shape[0] * shape[2], *shape[3:]
        multiplied = self.head.weight.numel()
        signed = 0
        for number, (dim, depth) in enumerate(zip(self.config.dims, self.config.depths, strict=True)):
            stride = 2 if number else 4
            height, width = -(-height // stride), -(-width // stride)
            tokens = height * width
            multiplied += tokens * cast(OverlappingPatches, self.patches[number]).proj.weight.numel()
            hidden = dim * self.config.ratios[number]
            attn = cast(PyramidBlock, cast(nn.ModuleList, self.stages[number])[0]).attn
            each = tokens * (2 * dim * hidden + 9 * hidden)
            if isinstance(attn, EcoFormerAttention):
                hashing = self.config.hashing
                each += 3 * tokens * dim * dim
                each += tokens * hashing.anchors * (dim + hashing.bits * self.config.heads[number])
                signed += depth * 2 * tokens * hashing.bits * dim
            else:
                ratio = self.config.reductions[number] if self.config.attention == "sra" else 1
                keys = max(height // ratio, 1) * max(width // ratio, 1)
                products = 3 if self.config.attention == "shared" and number < len(self.stages) - 1 else 4
                each += tokens * dim * dim * (products - 2) + 2 * keys * dim * dim + 2 * tokens * keys * dim
                each += keys * dim * dim * ratio * ratio if ratio > 1 else 0
            multiplied += depth * each
        multiplied, added = pictures * multiplied, pictures * (multiplied + signed)
        return Energy(multiplied, added, (MULTIPLY * multiplied + ADD * added) * 1e-12)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], **config: Any) -> EcoFormer:
        """The model of an official checkpoint, of EcoFormer or of a PVTv2 with one of the other attentions.

        Args:
            state: names and tensors.
            config: what they do not tell, such as `heads`, which are (1, 2, 5, 8) when not given.

        Raises:
            ConfigError: keys or shapes that do not fit.
        """
        ours = rename_official(state)
        stages = range(len({name for name in ours if re.fullmatch(r"patches\.\d+\.proj\.weight", name)}))
        try:
            dims = tuple(len(ours[f"patches.{i}.proj.weight"]) for i in stages)
            hidden = [len(ours[f"stages.{i}.0.mlp.fc1.weight"]) for i in stages]
            told: dict[str, Any] = {
                "dims": dims,
                "ratios": tuple(h // d for h, d in zip(hidden, dims, strict=True)),
                "depths": tuple(
                    len({n.split(".")[2] for n in ours if n.startswith(f"stages.{i}.")}) for i in stages
                ),
                "classes": len(ours["head.weight"]),
            }
        except KeyError as error:
            raise ConfigError(f"this is no checkpoint of a PVTv2: {error} is missing") from error
        first = "stages.0.0.attn."
        if f"{first}hash.projection" in ours:
            bits, anchors = ours[f"{first}hash.projection"].shape[1:]
            told |= {"attention": "ecoformer", "hashing": Hashing(bits=bits, anchors=anchors)}
            for name in [n for n in ours if n.endswith("hash.projection")]:
                ours[name.replace("hash.projection", "age")] = torch.tensor(0)
        elif f"{first}q.weight" in ours:
            told |= {"attention": "sra"}
        else:
            told |= {"attention": "softmax" if f"{first}qkv.weight" in ours else "shared"}
        model = cls(replace(EcoFormerConfig(), told | config))
        load_strictly(model, ours)
        return model


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names of a model, or of one attention → ours; a buffer that is not used is left out."""
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name.endswith("projection_matrix"):
            continue
        for part, ours in (("patch_embed", "patches"), ("block", "stages"), ("norm", "norms")):
            name = re.sub(rf"^{part}(\d)\.", lambda found, ours=ours: f"{ours}.{int(found[1]) - 1}.", name)
        name = name.replace("mlp.dwconv.dwconv.", "mlp.conv.")
        for part, ours in (("A", "projection"), ("mvec", "mean"), ("anchor", "anchors")):
            name = re.sub(rf"fast_attention\.ksh\.{part}$", f"hash.{ours}", name)
        renamed[name] = tensor
    return renamed


@torch.no_grad()
def swap_attention(model: EcoFormer, kind: Kind) -> EcoFormer:
    """The model with another attention, its products taken over as far as they have a place.

    Equal queries and keys begin as the queries; the convolution of "sra" and keys find none. Fine-tune after.

    Raises:
        ConfigError: "sra", which nothing can be turned into.
    """
    if kind == "sra":
        raise ConfigError("no attention turns into sra: load PVTv2's own weights")
    swapped = EcoFormer(replace(model.config, {"attention": kind})).to(model.head.weight)
    source, target = model.state_dict(), swapped.state_dict()
    for name in target:
        if name in source and source[name].shape == target[name].shape:
            target[name] = source[name]
            continue
        home, _, rest = name.rpartition("attn.")
        part, _, what = rest.rpartition(".")
        if part in ("qkv", "to_qk", "to_v"):
            q, k, v = _products_of(source, f"{home}attn.", what)
            target[name] = {"qkv": torch.cat([q, k, v]), "to_qk": q, "to_v": v}[part]
    swapped.load_state_dict(target)
    return swapped.train(model.training)


def _products_of(state: Mapping[str, Tensor], home: str, what: str) -> tuple[Tensor, Tensor, Tensor]:
    """Weights or biases of queries, keys and values, however they are kept."""
    if f"{home}qkv.{what}" in state:
        q, k, v = state[f"{home}qkv.{what}"].chunk(3)
    elif f"{home}q.{what}" in state:
        q, (k, v) = state[f"{home}q.{what}"], state[f"{home}kv.{what}"].chunk(2)
    else:
        q, v = state[f"{home}to_qk.{what}"], state[f"{home}to_v.{what}"]
        k = q
    return q, k, v
