"""What training of FlexTok minimises: the error of a flow from noise to latents, told by the first tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.errors import ConfigError, nearest
from smalti.nn.flow_sampling import logit_normal, mode_scaled
from smalti.tokenizers.flextok import FlexTok
from smalti.tokenizers.tiling import cut_tiles
from smalti.training.losses.alignment import Alignment
from smalti.training.objectives.autoencoder import before_and_after
from smalti.training.objectives.base import Loss, Objective, media, objective
from smalti.training.objectives.freezing import Frozen

ERRORS = ("velocity", "latents")
TIMES = ("logit-normal", "stratified", "mode-scaled")


@dataclass(frozen=True)
class FlexTokOptions:
    """Attributes:
    error: measured of the "velocity", or of the clean "latents" that it leads to: the same times the share
        of noise, squared, so that nearly clean latents count little.
    times: how shares of noise are drawn: "logit-normal", sigmoids of normal draws; "stratified", those spread
        evenly over a batch; "mode-scaled", uniform ones bent to the middle.
    mode_scale: how much the last ones are bent.
    features: channels of a frozen network's tokens of the pictures, the batch's `features [b m f]`; 0: none.
    alignment: weight of 1 - cosine of the decoder's features and those.
    layers: of the network between them.
    """

    error: str = "velocity"
    times: str = "logit-normal"
    mode_scale: float = 1.29
    features: int = 0
    alignment: float = 1.0
    layers: int = 3


@objective("flextok", FlexTokOptions)
class FlexTokObjective(Objective):
    """Rectified flow under nested dropout, with aligned features (FlexTok: Bachmann et al., 2025).

    ```
    picture ─► frozen autoencoder ─► latents ─► registers ─► FSQ ─► the first k, k drawn a sample, or none
                                        │                             ▼
    noise · s + latents · (1 − s) ◄─────┴───────────► decoder ─┬─► velocity ─► (· − (noise − latents))²
                                                               └─► features ─► 1 − cosine with `features`
    ```
    Dropout of registers and conditions, and corruption of codes, are the tokenizer's configuration. The
    alignment is REPA's (Yu et al., 2025); the official code has no training, so weight 1 and three layers are
    choices. Every frame of a clip is a picture.

    Args:
        tokenizer: whose autoencoder, if it has one, stays as it is.
        options: of error and alignment.

    Raises:
        ConfigError: names that do not exist; a batch without the features that options ask for, or with
            pictures of several tiles beside them.
    """

    def __init__(self, tokenizer: FlexTok, options: FlexTokOptions | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.options = options = options or FlexTokOptions()
        for name, known in (("error", ERRORS), ("times", TIMES)):
            if (value := getattr(options, name)) not in known:
                raise ConfigError(f"no {name} {value!r}: {nearest(value, known)}")
        width = tokenizer.config.resampler.decoder_dim
        self.align = Alignment(width, options.features, options.layers) if options.features else None
        self._frozen = Frozen(tokenizer, ("autoencoder",) if tokenizer.autoencoder is not None else ())

    def train(self, mode: bool = True) -> FlexTokObjective:
        """The autoencoder stays in evaluation mode."""
        super().train(mode)
        self._frozen.rest()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All but the autoencoder's."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "factor": 1.0}]

    def finish(self, system: nn.Module) -> None:
        """Let a next stage train the autoencoder."""
        self._frozen.release()

    def samples(self, batch: dict[str, Tensor]) -> Float[Tensor, "n 2 3 h w"]:
        """Original, and what all tokens give."""
        return before_and_after(self.tokenizer, batch)

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Batch: `pictures [b 3 1 h w]` and `clips [b 3 t h w]` in [0, 1], and `features` where asked for."""
        parts: dict[str, Tensor] = {}
        totals = []
        for name, pixels in media(batch).items():
            wanted = self._wanted(batch, len(pixels)) if name == "pictures" else None
            losses, stats = self._medium(pixels, wanted)
            totals.append(torch.stack(list(losses.values())).sum())
            parts |= {f"{name}/{key}": value.detach() for key, value in (losses | stats).items()}
        return Loss(torch.stack(totals).mean(), parts)

    def _medium(
        self, pixels: Float[Tensor, "b 3 t h w"], wanted: Float[Tensor, "b m f"] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        tiles = cut_tiles(pixels, self.tokenizer.compression)[0]
        with torch.no_grad():
            latents = self.tokenizer.latents(tiles).to(self.tokenizer.resampler.registers.dtype)
        times = self._times(len(latents)).to(latents)
        flow = self.tokenizer.resampler(latents, times)
        error = (flow.velocity - flow.target).float().square().mean((1, 2, 3))
        if self.options.error == "latents":
            error = error * times.square()
        losses = {"flow": error.mean()}
        if self.align is not None and wanted is not None:
            if len(wanted) != len(tiles):
                raise ConfigError(f"features of {len(wanted)} pictures for {len(tiles)} tiles: crop to one")
            losses["alignment"] = self.options.alignment * self.align(flow.features, wanted)
        stats = {name: each.mean() for name, each in flow.quantized.stats.items()}
        return losses, stats | {"kept": flow.kept.float().mean()}

    def _wanted(self, batch: dict[str, Tensor], count: int) -> Tensor | None:
        if self.align is None:
            return None
        if "features" not in batch:
            raise ConfigError(f"options ask for features of {self.options.features} channels: give {count}")
        return batch["features"]

    def _times(self, count: int) -> Float[Tensor, "count"]:
        if self.options.times == "mode-scaled":
            return mode_scaled(count, self.options.mode_scale)
        return logit_normal(count, stratified=self.options.times == "stratified")
