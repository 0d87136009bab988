"""What the first stage of TiTok and One-D-Piece minimises: the bits of a VQGAN's codes, given the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.official import read_checkpoint
from smalti.tokenizers.one_d_piece import OneDPiece
from smalti.tokenizers.one_dimensional import OneDimensionalTokenizer
from smalti.tokenizers.tiling import cut_tiles
from smalti.tokenizers.titok_proxy import ProxyVQGAN
from smalti.training.objectives.autoencoder import SHOWN
from smalti.training.objectives.base import Loss, Objective, media, objective
from smalti.training.sources.base import Source

LOOK = 99  # seed of the batches that the proxy is trained on
RESTART = 0.3  # latents a batch below which a code of the proxy moves to where latents are


@dataclass(frozen=True)
class TiTokProxyOptions:
    """Attributes:
    proxy: checkpoint of MaskGIT's VQGAN, as TiTok's authors converted it; without one, a VQGAN is trained
        before the first step.
    proxy_steps, proxy_rate: of that training.
    bottleneck: weight of the quantizer's loss.
    """

    proxy: str | None = None
    proxy_steps: int = 2000
    proxy_rate: float = 1e-3
    bottleneck: float = 1.0


@objective("titok-proxy", TiTokProxyOptions)
class TiTokProxyObjective(Objective):
    """Cross-entropy of a frozen VQGAN's codes (TiTok: Yu et al., 2024, arXiv 2406.07550).

    ```
    picture ─┬─► frozen VQGAN ─────────────────────────────────────────────► codes [b g g] ─┐
             └─► encoder ─► tokens ─► (the first k: One-D-Piece) ─► decoder ─► logits ──────┴─► cross-entropy
                              └─► the quantizer's loss, of all tokens ───────────────────────────► + weight
    ```
    Afterwards the tokenizer gets the VQGAN's codes and decoder. The second stage is `autoencoder` with
    `frozen: [encoder, quantizer]`: both decoders learn pixels. One-D-Piece drops tail tokens in both.
    Official: AdamW 1e-4, betas 0.9 and 0.99, 1M steps of 256 pictures.

    Args:
        tokenizer: one that predicts a proxy's codes.
        options: where the proxy comes from, and weights.

    Raises:
        ConfigError: a tokenizer that predicts pixels, or whose patches are not the proxy's; a proxy of other
            sizes than the tokenizer's.
        FormatError: the proxy's checkpoint cannot be read.
    """

    def __init__(self, tokenizer: OneDimensionalTokenizer, options: TiTokProxyOptions | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.options = options = options or TiTokProxyOptions()
        config = tokenizer.config
        if config.proxy is None:
            raise ConfigError(
                f"this {type(tokenizer).__name__} predicts pixels: train it by the objective autoencoder"
            )
        if 2 ** (len(config.proxy.multiples) - 1) != config.patch:
            raise ConfigError(f"the proxy's codes do not stand for patches of {config.patch} pixels")
        given = options.proxy
        self.proxy = ProxyVQGAN.from_official(read_checkpoint(given)) if given else ProxyVQGAN(config.proxy)
        if self.proxy.config != config.proxy:
            raise ConfigError(f"{given} is a proxy of {self.proxy.config}, not of {config.proxy}")
        self.proxy.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> TiTokProxyObjective:
        """The proxy stays as it is."""
        super().train(mode)
        self.proxy.eval()
        return self

    def parameter_groups(self) -> list[dict[str, object]]:
        """What makes and reads tokens; the pixels' decoder is the next stage's."""
        learned = [p for name, p in self.tokenizer.named_parameters() if not name.startswith("proxy_")]
        return [{"params": learned, "factor": 1.0}]

    def start(self, data: Source, fresh: bool = True) -> None:
        """Train the proxy, where none is given."""
        if self.options.proxy is None:
            fit_proxy(
                self.proxy,
                lambda step: self._pictures(data.batch(step, LOOK)),
                self.options.proxy_steps,
                self.options.proxy_rate,
            )

    def finish(self, system: nn.Module) -> None:
        """Give the tokenizer the proxy's codes and decoder."""
        assert isinstance(system, OneDimensionalTokenizer)
        self.proxy.hand_over(system)

    @torch.no_grad()
    def samples(self, batch: dict[str, Tensor]) -> Float[Tensor, "n 3 3 s s"]:
        """Original, what its codes show, and what the codes show that the tokens tell."""
        pictures = self._pictures(batch)[:SHOWN]
        told = self.tokenizer.predict(self.tokenizer.quantize(pictures).values).argmax(-1)
        return torch.stack([pictures, *map(self.proxy.decode, (self.proxy.encode(pictures), told))], 1)

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Batch: `pictures [b 3 1 h w]` and `clips [b 3 t h w]`, whose frames are pictures, in [0, 1]."""
        pictures, tokenizer = self._pictures(batch), self.tokenizer
        codes = self.proxy.encode(pictures)
        found = tokenizer.quantize(pictures)
        values, kept = found.values, None
        if isinstance(tokenizer, OneDPiece) and self.training:
            kept = tokenizer.draw(len(pictures))
            values = values[:, : int(kept.max())]
        logits = tokenizer.predict(values, kept).float()
        told = F.cross_entropy(logits.flatten(0, 2), codes.flatten())
        asked = self.options.bottleneck * found.loss
        right = (logits.argmax(-1) == codes).float().mean()
        parts = {"codes": told, "bottleneck": asked, "right": right}
        parts |= {name: each.mean() for name, each in found.stats.items()}
        return Loss(told + asked, {name: each.detach() for name, each in parts.items()})

    def _pictures(self, batch: dict[str, Tensor]) -> Float[Tensor, "m 3 s s"]:
        size = self.tokenizer.compression
        return torch.cat([cut_tiles(pixels, size)[0][:, :, 0] for pixels in media(batch).values()])


def fit_proxy(
    proxy: ProxyVQGAN, pictures: Callable[[int], Float[Tensor, "m 3 s s"]], steps: int, rate: float
) -> None:
    """Train a VQGAN by its L1 distance and its quantizer's loss, and freeze it.

    Codes begin at latents of the first pictures, and go to others where they are hardly chosen.

    Args:
        proxy: to train.
        pictures: step → a batch in [0, 1].
        steps, rate: of AdamW; the rate falls along half a cosine.
    """
    quantizer = proxy.quantizer
    config = quantizer.config
    quantizer.config = replace(config, init="data", restart_below=RESTART)
    quantizer.ready.fill_(False)
    proxy.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(proxy.parameters(), rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for step in range(steps):
        given = pictures(step)
        found = quantizer(rearrange(proxy.encoder(given), "b c h w -> b h w c"))
        rebuilt = proxy.decoder(rearrange(found.values, "b h w c -> b c h w"))
        optimizer.zero_grad()
        ((given - rebuilt).abs().mean() + found.loss).backward()
        optimizer.step()
        schedule.step()
    quantizer.config = config
    quantizer.ready.fill_(True)
    proxy.eval().requires_grad_(False)
