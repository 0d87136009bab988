"""EVAD: people and what they do in a clip, by a video transformer that prunes all but the keyframe."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.evad_parts import LARGE, RATES, Decoder, Encoded, Encoder, EVADConfig, positions
from smalti.errors import ConfigError
from smalti.nn import boxes
from smalti.nn.clustering import take
from smalti.nn.sparse_rcnn import FeaturePyramid, Proposals, StepHead
from smalti.reducers.evad import unprune
from smalti.registry import Official, Paper, replace, system


class Detections(NamedTuple):
    """People and what they do, after every step and block, the last of which counts.

    Attributes:
        person: logits of person and none [b p 2].
        boxes: corners in pixels [b p 4].
        actions: logits [b p k].
    """

    person: list[Tensor]
    boxes: list[Tensor]
    actions: list[Tensor]


@system(
    "evad",
    room="backbones",
    paper=Paper(
        "Efficient Video Action Detection with Token Dropout and Context Refinement",
        2023,
        "https://arxiv.org/abs/2304.08451",
    ),
    official=Official("MCG-NJU/EVAD", "CC-BY-NC-4.0"),
    presets={
        "vit-b-0.7": EVADConfig(),
        "vit-b-1.0": EVADConfig(keep_rates=(1.0,) * 12),
        "vit-b-0.6": EVADConfig(
            keep_rates=tuple(0.6 if rate < 1 else 1.0 for rate in RATES), enhanced_weight=4.0
        ),
        "vit-l-0.7": LARGE,
    },
    tags=("prune", "attention", "detection", "video"),
)
class EVAD(nn.Module):
    """EVAD (Chen et al., 2023): detect people on the keyframe, classify their actions from what pruning left.

    ```
    pixels [b 3 t h w] ─► encoder ─┬─► keyframe's maps ─► pyramid ─► 6 steps of Sparse R-CNN ─► boxes, persons
                                   ├─► all slots filled ─► features in wider boxes ─► actors ─┐
                                   └─► visible tokens ────────────────────────────────────────┴─► decoder
    ```
    Clips of an even number of slices, the keyframe in the middle; officially 16 frames, short side 288,
    padded to multiples of 32. The losses are in `smalti.nn.set_matching`.

    Raises:
        ConfigError: a clip that is not whole tubelets, or whose number of slices is odd.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EVADConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or EVADConfig()
        self.register_buffer("mean", torch.full((3, 1, 1, 1), 0.45), persistent=False)
        self.register_buffer("std", torch.full((3, 1, 1, 1), 0.225), persistent=False)
        self.encoder = Encoder(config)
        self.pyramid = FeaturePyramid(config.dim, config.detector_dim)
        self.proposals = Proposals(config.proposals, config.detector_dim)
        self.heads = nn.ModuleList(StepHead(config.detector_dim) for _ in range(config.steps))
        self.narrow = nn.Linear(config.dim, config.decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoder = Decoder(config)

    def forward(self, pixels: Float[Tensor, "b 3 t h w"]) -> Detections:
        """All steps' boxes and all blocks' actions."""
        slices = pixels.shape[2] // self.config.tubelet
        if pixels.shape[2] % self.config.tubelet or slices % 2:
            raise ConfigError(
                f"{pixels.shape[2]} frames are not an even number of tubelets of {self.config.tubelet}"
            )
        height, width = pixels.shape[3:]
        side = 2 * self.config.patch
        x = F.pad((pixels - self.mean) / self.std, (0, -width % side, 0, -height % side))
        size = pixels.new_tensor([width, height]).expand(len(pixels), -1)
        encoded = self.encoder(x)
        person, found = self._locate(encoded.maps, size)
        actions = self._classify(encoded, boxes.extended(found[-1].detach(), self.config.extension, size))
        return Detections(person, found, actions)

    def _locate(self, maps: list[Tensor], size: Float[Tensor, "b 2"]) -> tuple[list[Tensor], list[Tensor]]:
        scaled = [
            F.interpolate(m, scale_factor=factor, mode="nearest")
            for m, factor in zip(maps, (4.0, 2.0, 1.0, 0.5), strict=True)
        ]
        levels = self.pyramid(scaled)
        places, features = self.proposals(size)
        person, found = [], []
        for head in self.heads:
            logits, places, features = head(levels, places, features)
            person.append(logits)
            found.append(places)
            places = places.detach()
        return person, found

    def _classify(self, encoded: Encoded, places: Float[Tensor, "b p 4"]) -> list[Tensor]:
        visible, (t, h, w) = self.narrow(encoded.tokens), encoded.grid
        area, sorted_ = h * w, self.config.sorted
        position = positions(encoded.grid, visible.shape[-1], self.config.table).to(visible)
        full = unprune(visible, encoded.index, self.mask_token, encoded.grid, sorted=sorted_) + position
        slices = rearrange(full, "b (t h w) d -> b (t d) h w", t=t, h=h)
        seen = boxes.roi_align(slices, places, 1 / self.config.patch)
        actors = reduce(reduce(seen, "b p (t d) i j -> b p t d", "max", t=t), "b p t d -> b p d", "mean")
        front = slice(area * (t // 2), area * (t // 2 + 1))
        others = torch.cat([position[:, : front.start], position[:, front.stop :]], 1).expand(
            len(full), -1, -1
        )
        order = encoded.index if sorted_ else encoded.index.sort(-1).values
        own = torch.cat([position[:, front].expand(len(full), -1, -1), take(others, order)], 1)
        return self.decoder(torch.cat([visible + own, actors], 1), actors.shape[1])

    def detect(self, pixels: Float[Tensor, "b 3 t h w"]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes, person and action scores above the threshold, or all where none is; for every clip."""
        found = self(pixels)
        score = found.person[-1].softmax(-1)[..., 0]
        size = pixels.new_tensor([pixels.shape[4], pixels.shape[3]]).expand(len(pixels), -1)
        last = (size - 1)[:, None].repeat(1, 1, 2)
        places = torch.minimum(found.boxes[-1].clamp(min=0), last)
        chosen = score >= self.config.threshold
        chosen = chosen | ~chosen.any(-1, keepdim=True)
        action = found.actions[-1].sigmoid()
        return [(p[c], s[c], a[c]) for p, s, a, c in zip(places, score, action, chosen, strict=True)]

    @classmethod
    def from_official(cls, state: dict[str, Tensor], **config: Any) -> EVAD:
        """The model of an official checkpoint; sizes that its tensors tell are read from them.

        Raises:
            ConfigError: keys or shapes that do not fit.
        """
        ours = official_keys(state.get("model_state", state))  # pyright: ignore[reportArgumentType]
        dim = ours["encoder.patch_embed.weight"].shape[0]
        told: dict[str, Any] = {
            "proposals": ours["proposals.boxes"].shape[0],
            "classes": ours["decoder.blocks.0.action_logits.bias"].shape[0],
            "layer_scale": 0.0 if "encoder.blocks.0.ls1.gamma" in ours else None,
        }
        model = cls(replace(LARGE if dim == LARGE.dim else EVADConfig(), told | config))
        try:
            model.load_state_dict(ours)
        except RuntimeError as error:
            raise ConfigError(f"this is no checkpoint of {model.config}: {error}") from error
        return model


RENAMES = (
    (r"^det_head\.s0_headseries\.", "heads."),
    (r"^det_head\.encoder_to_decoder\.", "narrow."),
    (r"^det_head\.", ""),
    (r"^(patch_embed\.|blocks\.|norm\.)", r"encoder.\1"),
    (r"patch_embed\.proj\.", "patch_embed."),
    (r"^init_proposal_(features|boxes)\.weight$", r"proposals.\1"),
    (r"\.gamma_(\d)$", r".ls\1.gamma"),
)


def official_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint, or its encoder or decoder, under our names; biases of queries and values as one."""
    ours = {}
    for key, value in state.items():
        if key.startswith("criterion.") or key.endswith(".v_bias"):
            continue
        if key.endswith(".q_bias"):
            other = state[key.replace("q_bias", "v_bias")]
            key, value = key.replace("q_bias", "qkv.bias"), torch.cat([value, torch.zeros_like(value), other])
        for pattern, name in RENAMES:
            key = re.sub(pattern, name, key)
        level = re.match(r"fpn_(lateral|output)(\d)\.(.*)", key)
        if level:
            key = f"pyramid.{level[1]}.{int(level[2]) - 2}.{level[3]}"
        ours[key] = value
    return ours
