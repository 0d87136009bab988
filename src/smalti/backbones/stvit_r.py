"""STViT-R as a Swin transformer: most of its third stage runs on semantic tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError
from smalti.nn.dumbbell import UNIT, DumbbellConfig, DumbbellStage
from smalti.nn.windows import PatchMerging, WindowBlock
from smalti.registry import Official, Paper, replace, system


@dataclass(frozen=True)
class STViTRConfig(DumbbellConfig):
    """A Swin transformer and its dumbbell units.

    Attributes:
        dim: channels of the first stage; they double at every stage.
        depths: blocks of every stage; the third is made of units of six.
        heads: of every stage.
        classes: of the head.
        drop_path: of the last block, falling linearly to 0 at the first.
    """

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    classes: int = 1000
    drop_path: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.depths) != 4 or len(self.heads) != 4 or self.depths[2] % UNIT:
            raise ConfigError(
                f"depths {self.depths} and heads {self.heads} must be four each, depths[2] in units of {UNIT}"
            )


def _convolution(source: int, dim: int) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("c", nn.Conv2d(source, dim, 3, 2, 1, bias=False))
    layers.add_module("bn", nn.BatchNorm2d(dim))
    return layers


@system(
    "stvit-r",
    room="backbones",
    paper=Paper(
        "Making Vision Transformers Efficient from A Token Sparsification View",
        2023,
        "https://arxiv.org/abs/2303.08685",
    ),
    official=Official("changsn/STViT-R", "MIT"),
    presets={
        "swin-s": STViTRConfig(),
        "swin-b": STViTRConfig(dim=128, heads=(4, 8, 16, 32), drop_path=0.4),
        "swin-s-detection": STViTRConfig(keys="beyond", reach=(14, 21, 27), shortcut=True),
        "swin-b-detection": STViTRConfig(
            dim=128, heads=(4, 8, 16, 32), drop_path=0.4, keys="beyond", reach=(14, 21, 27), shortcut=True
        ),
    },
    tags=("learned", "semantic-tokens", "hierarchical", "image", "dense-prediction"),
)
class STViTR(nn.Module):
    """STViT-R (Chang et al., 2023): Swin with dumbbell units of semantic tokens in its third stage.

    ```
    pixels [b 3 1 h w] ─► conv stem /4 ─► Swin ─► merge ─► Swin ─► merge ─► dumbbell units ─► merge ─► Swin
                             └─ maps /4, /8, /16, /32 (`pyramid`)                                 │
    logits [b classes] ◄─ head ◄─ mean ◄─ norm ◄────────────────────────────────────────────────────┘
    ```
    Any size of image: maps are padded to whole windows. Deviations from the official code: classification
    takes any size (its key windows of 10 around every window move inside the map, as they lie at 224);
    detection masks exactly the padded keys, where the official code masks wrong ones for some sizes.

    Raises:
        ConfigError: an image size that relative positions or global centres were not made for.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: STViTRConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or STViTRConfig()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        half = config.dim // 2
        self.stem = nn.Sequential(
            _convolution(3, half), nn.Hardswish(), _convolution(half, config.dim), nn.Hardswish()
        )
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist()
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for number, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            dim, first = config.dim * 2**number, sum(config.depths[:number])
            part = tuple(rates[first : first + depth])
            dumbbell = number == 2
            self.stages.append((DumbbellStage if dumbbell else _swin)(config, dim, heads, part))
            if number < 3:
                self.merges.append(PatchMerging(dim, config.eps))
        self.norm = nn.LayerNorm(config.dim * 8, config.eps)
        self.head = nn.Linear(config.dim * 8, config.classes)

    def pyramid(self, pixels: Float[Tensor, "b 3 1 h w"]) -> list[Float[Tensor, "b c y x"]]:
        """Maps after every stage, at 1/4, 1/8, 1/16 and 1/32 of the size."""
        x = rearrange(self.stem((pixels[:, :, 0] - self.mean) / self.std), "b c h w -> b h w c")
        maps = []
        for number, part in enumerate(self.stages):
            x = part(x)
            maps.append(rearrange(x, "b h w c -> b c h w"))
            if number < 3:
                x = self.merges[number](x)
        return maps

    def forward(self, pixels: Float[Tensor, "b 3 1 h w"]) -> Float[Tensor, "b k"]:
        """Logits of the classes."""
        last = rearrange(self.pyramid(pixels)[-1], "b c h w -> b (h w) c")
        return self.head(self.norm(last).mean(1))

    @classmethod
    def from_official(cls, state: dict[str, Tensor], **config: Any) -> STViTR:
        """The model of an official classification checkpoint; sizes that its tensors tell are read from them.

        Raises:
            ConfigError: keys or shapes that do not fit.
        """
        state = state.get("model", state)  # pyright: ignore[reportAssignmentType]
        first = state["layers.0.blocks.0.attn.relative_position_bias_table"]
        told: dict[str, Any] = {
            "dim": state["patch_embed.proj.2.bn.weight"].shape[0],
            "classes": state["head.weight"].shape[0],
            "heads": tuple(first.shape[1] * 2**i for i in range(4)),
            "relative": "layers.2.blocks.3.attn.relative_position_bias_table" in state,
            "global_centres": "layers.2.semantic_token2" in state,
            "conv_positions": "layers.2.blocks.1.conv_pos.proj.0.weight" in state,
        }
        model = cls(replace(STViTRConfig(), told | config))
        try:
            model.load_state_dict(official_keys(state))
        except RuntimeError as error:
            raise ConfigError(f"this is no checkpoint of {model.config}: {error}") from error
        return model


def _swin(config: STViTRConfig, dim: int, heads: int, drop_path: tuple[float, ...]) -> nn.Sequential:
    return nn.Sequential(
        *(
            WindowBlock(
                dim,
                heads,
                config.window,
                config.window // 2 if number % 2 else 0,
                mlp_ratio=config.mlp_ratio,
                eps=config.eps,
                drop_path=rate,
            )
            for number, rate in enumerate(drop_path)
        )
    )


RENAMES = (
    (r"^patch_embed\.proj\.", "stem."),
    (r"^layers\.(\d+)\.downsample\.", r"merges.\1."),
    (r"^layers\.2\.", "stages.2."),
    (r"^layers\.(\d+)\.blocks\.", r"stages.\1."),
    (r"\.layer_scale_(\d)$", r".ls\1.gamma"),
    (r"\.conv_pos\.proj\.0\.", ".conv."),
    (r"semantic_token2$", "centres"),
)


def official_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint, or one of its stages or blocks, under the names of our modules."""
    ours = {}
    for key, value in state.items():
        if key.endswith(("relative_position_index", "attn_mask")):
            continue
        for pattern, name in RENAMES:
            key = re.sub(pattern, name, key)
        ours[_bias(key, state)] = value
    return ours


def _bias(key: str, state: dict[str, Tensor]) -> str:
    """Swin's blocks keep their table in the attention, dumbbell blocks beside it."""
    head, found, _ = key.partition("attn.relative_position_bias_table")
    if not found:
        return key
    tail = head.replace("stages.", "layers.") if head.startswith("stages.2.") else head
    return f"{head}bias.table" if f"{tail}attn.kv.weight" in state else f"{head}attn.bias.table"
