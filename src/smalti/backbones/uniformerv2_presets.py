"""Sizes of UniFormerV2, and what the official experiments chose."""

from __future__ import annotations

from dataclasses import dataclass

from smalti.errors import ConfigError
from smalti.registry import replace


@dataclass(frozen=True)
class UniFormerV2Config:
    """Any number of frames fits any of these.

    Attributes:
        width: channels.
        depth: blocks.
        heads: of their attention.
        patch: height and width of a patch.
        resolution: of the frames that positions are learned for; they are resampled for others.
        temporal_downsample: patches of three frames, one every second frame; else of one.
        local: local relations in a block: 0 none, 1 before attention, 2 after it too.
        local_reduction: of the channels in local relations.
        read_layers: blocks (from 0) after which the query reads.
        reader_heads: of the reading.
        reader_mlp_ratio: hidden channels of the reader's MLPs, as a factor.
        reader_dropout: of the reader's MLPs.
        drop_path: of the last block, rising linearly from 0 at the first.
        reader_drop_path: of the last reading, likewise.
        head_dropout: before the last layer.
        frozen: the image ViT learns nothing and its class tokens are not mixed in.
        classes: of the head; 0 for none.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16
    resolution: int = 224
    temporal_downsample: bool = False
    local: int = 0
    local_reduction: float = 1.5
    read_layers: tuple[int, ...] = (8, 9, 10, 11)
    reader_heads: int = 12
    reader_mlp_ratio: float = 4.0
    reader_dropout: float = 0.5
    drop_path: float = 0.0
    reader_drop_path: float = 0.0
    head_dropout: float = 0.5
    frozen: bool = False
    classes: int = 400

    def __post_init__(self) -> None:
        for heads in (self.heads, self.reader_heads):
            if heads < 1 or self.width % heads:
                raise ConfigError(f"{heads} heads do not divide {self.width} channels")
        if self.resolution % self.patch:
            raise ConfigError(f"patches of {self.patch} do not divide {self.resolution} pixels")
        if self.local not in (0, 1, 2):
            raise ConfigError(f"local must be 0, 1 or 2 relations in a block, not {self.local}")
        layers = self.read_layers
        if not layers or sorted(set(layers)) != list(layers) or not 0 <= layers[0] <= layers[-1] < self.depth:
            raise ConfigError(
                f"read_layers must be blocks from 0 to {self.depth - 1} in rising order, not {layers}"
            )


SCENE = {"b16": UniFormerV2Config()}
SCENE["l14"] = UniFormerV2Config(1024, 24, 16, 14, read_layers=(20, 21, 22, 23), reader_heads=16)
SCENE["l14_336"] = replace(SCENE["l14"], {"resolution": 336})
_RATES = {"drop_path": 0.2, "reader_drop_path": 0.4}
_MOTION = {"temporal_downsample": True, "local": 2, "classes": 174, **_RATES}
MOTION = {
    "b16": replace(SCENE["b16"], {"read_layers": tuple(range(4, 12)), **_MOTION}),
    "l14": replace(SCENE["l14"], {"read_layers": tuple(range(8, 24)), **_MOTION}),
}


def official_presets() -> dict[str, UniFormerV2Config]:
    """Under the names of the official experiments; those of more frames build the same models."""
    found = {}
    for data, classes in (("k400", 400), ("k600", 600), ("k700", 700)):
        found[f"{data}_b16_f8x224"] = replace(SCENE["b16"], {"classes": classes})
        found[f"{data}+k710_l14_f8x224"] = replace(SCENE["l14"], {"classes": classes})
        found[f"{data}+k710_l14_f32x336"] = replace(SCENE["l14_336"], {"classes": classes})
        found[f"frozen_{data}_l14_f8x336"] = replace(SCENE["l14_336"], {"classes": classes, "frozen": True})
    for data, classes in (("k710", 710), ("mit", 339)):
        found[f"{data}_b16_f8x224"] = replace(SCENE["b16"], {"classes": classes})
        found[f"{data}_l14_f8x224"] = replace(SCENE["l14"], {"classes": classes})
        found[f"{data}_l14_f8x336"] = replace(SCENE["l14_336"], {"classes": classes})
    found["frozen_k710_l14_f8x336"] = replace(SCENE["l14_336"], {"classes": 710, "frozen": True})
    for data in ("ssv1", "ssv2"):
        found[f"{data}_b16_f16x224"], found[f"{data}_l14_f16x224"] = MOTION["b16"], MOTION["l14"]
    for data in ("anet", "hacs"):
        found[f"{data}_l14_f16x224"] = replace(SCENE["l14"], {"classes": 200, **_RATES})
    return found
