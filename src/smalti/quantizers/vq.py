"""Vector quantization with a learnt codebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.code_entropy import softmax_entropies
from smalti.nn.code_gradients import Gradient, pass_gradient
from smalti.nn.codebook_search import highest_scores, nearest_codes
from smalti.nn.means_clustering import k_means, sums_of_codes
from smalti.nn.process_sums import rows_of_processes, sum_of_processes
from smalti.quantizers.base import Quantized, QuantizerConfig, VectorwiseQuantizer, check_codes, mean_square
from smalti.registry import Paper, replace, system


@dataclass(frozen=True)
class VectorQuantizerConfig(QuantizerConfig):
    """Attributes:
    codebook_size, dim: codes, and channels of each.
    learn: `ema` moves codes to the running mean of their latents; `gradient` leaves them to the optimizer.
    normalize: latents and codes are compared, and come out, with length 1.
    gradient: how the latents get theirs.
    init: `random`; `data`: latents of the first training batch; `kmeans`: their clusters.
    kmeans_steps: of Lloyd's algorithm.
    decay: of the running means.
    epsilon: Laplace smoothing of the running counts.
    restart_below: a code whose running count falls below moves to a latent of the batch; 0 is never.
    temperature: above 0, codes are drawn in training, with odds of exp(-distance² / 2 / temperature).
    commitment: weight of pulling latents to codes.
    entropy, entropy_temperature, entropy_epsilon: weight of H(sample) - H(mean) of
        softmax(-distance² / temperature), its temperature, and ε in the logarithm of the mean.
    """

    codebook_size: int = 1024
    dim: int = 32
    learn: Literal["ema", "gradient"] = "ema"
    normalize: bool = False
    gradient: Gradient = "straight-through"
    init: Literal["random", "data", "kmeans"] = "random"
    kmeans_steps: int = 10
    decay: float = 0.99
    epsilon: float = 1e-5
    restart_below: float = 0.0
    temperature: float = 0.0
    commitment: float = 0.25
    entropy: float = 0.0
    entropy_temperature: float = 0.01
    entropy_epsilon: float = 1e-12

    def build(self) -> VectorQuantizer:
        """A quantizer of this configuration."""
        return VectorQuantizer(self)


@system(
    "vq",
    room="quantizers",
    paper=Paper("Neural Discrete Representation Learning", 2017, "https://arxiv.org/abs/1711.00937"),
    presets={
        "ema": VectorQuantizerConfig(),
        "magvit": VectorQuantizerConfig(1024, 256, learn="gradient", entropy=0.1),
        "omnitokenizer": VectorQuantizerConfig(8192, 8, init="data", epsilon=1e-7),
        "titok": VectorQuantizerConfig(4096, 12, learn="gradient", normalize=True),
        "larp": VectorQuantizerConfig(8192, 16, learn="gradient", normalize=True, temperature=0.03),
        "fqgan": VectorQuantizerConfig(16384, 8, learn="gradient", normalize=True, entropy=0.03),
    },
    tags=("codebook",),
)
class VectorQuantizer(VectorwiseQuantizer):
    """Nearest code of a learnt codebook (VQ-VAE: van den Oord et al., 2017, arXiv 1711.00937).

    ```
    z [n d] ──(l2)──► nearest of codebook [K d] ──► ids [n 1], values [n d]
                      ▲ EMA of the latents that chose a code, or the optimizer
    ```
    `VectorQuantizer(codebook_size=8192, dim=8)`, or a configuration, or both. Loss: commitment · |z - sg(c)|²
    (+ |sg(z) - c|² where the optimizer learns the codebook), means over all channels. The running means, the
    first codes and the restarts are the same on any number of processes: sums are over all, and what is drawn
    is drawn from all latents by a generator that every process shares. In training with EMA the codebook
    moves after the values were taken, so `lookup` returns the values of evaluation only.

    Raises:
        ConfigError: sizes below 1, or a decay outside (0, 1); channels of another count in `forward`.
        MediaError: NaN or an infinite value in `forward`.
        FormatError: a code outside the codebook in `lookup`.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    ready: Tensor
    draws: Tensor

    def __init__(self, config: VectorQuantizerConfig | None = None, **changes: Any) -> None:
        super().__init__()
        self.config: VectorQuantizerConfig = replace(config or VectorQuantizerConfig(), changes)
        config = self.config
        if min(config.codebook_size, config.dim) < 1 or not 0 < config.decay < 1:
            raise ConfigError(f"a codebook needs sizes of at least 1 and 0 < decay < 1: {config}")
        self.dim, self.codebook_sizes = config.dim, (config.codebook_size,)
        codes = torch.randn(config.codebook_size, config.dim) / config.dim**0.5
        codes = self._scaled(codes)
        if config.learn == "gradient":
            self.codebook = nn.Parameter(codes)
        else:
            self.register_buffer("codebook", codes)
            self.register_buffer("sums", codes.clone())
        self.register_buffer("counts", torch.ones(config.codebook_size))
        self.register_buffer("ready", torch.tensor(config.init == "random"))
        self.register_buffer("draws", torch.tensor(0))

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.config.normalize else vectors

    def quantize(self, z: Float[Tensor, "n d"]) -> Quantized:
        """The nearest codes; in training the codebook learns from the latents."""
        config = self.config
        z = self._scaled(z)
        if self.training and not self.ready:
            self._start(z)
        ids = self._search(z.detach())
        chosen = self._scaled(F.embedding(ids, self.codebook))
        loss, stats = config.commitment * mean_square(z, chosen.detach()), {}
        if config.learn == "gradient":
            loss = loss + mean_square(chosen, z.detach())
        if config.entropy and self.training:
            codes = self._scaled(self.codebook)
            bias = -0.5 * codes.square().sum(1)
            temperature = config.entropy_temperature / 2
            sample, mean = softmax_entropies(z, codes, bias, temperature, config.entropy_epsilon)
            loss = loss + config.entropy * (sample - mean)
            stats = {"sample_entropy": sample.detach(), "batch_entropy": mean.detach()}
        values = pass_gradient(z, chosen, config.gradient)
        if self.training:
            self._learn(z.detach(), ids)
        return Quantized(values, ids[:, None], loss, stats)

    def lookup(self, ids: Int[Tensor, "*batch q"]) -> Float[Tensor, "*batch d"]:
        """The codes, of length 1 where the configuration says so."""
        check_codes(ids, self.codebook_sizes)
        return self._scaled(F.embedding(ids[..., 0].long(), self.codebook))

    @torch.no_grad()
    def _search(self, z: Tensor) -> Tensor:
        codes = self._scaled(self.codebook)
        if self.training and self.config.temperature:
            return highest_scores(z, codes, -0.5 * codes.square().sum(1), self.config.temperature)
        return highest_scores(z, codes) if self.config.normalize else nearest_codes(z, codes)

    @torch.no_grad()
    def _learn(self, z: Tensor, ids: Tensor) -> None:
        config = self.config
        if config.learn == "gradient" and not config.restart_below:
            return
        counts, sums = (sum_of_processes(part) for part in sums_of_codes(z, ids, config.codebook_size))
        self.counts.lerp_(counts, 1 - config.decay)
        if config.learn == "ema":
            self.sums.lerp_(sums, 1 - config.decay)
            total = self.counts.sum()
            smooth = (self.counts + config.epsilon) / (total + config.codebook_size * config.epsilon) * total
            torch.div(self.sums, smooth[:, None], out=self.codebook)
            if config.normalize:
                F.normalize(self.codebook, dim=-1, out=self.codebook)
        if config.restart_below:
            self._restart(z)

    def _restart(self, z: Tensor) -> None:
        """Move codes that are hardly chosen to latents of all processes, each to another."""
        dead = (self.counts < self.config.restart_below).nonzero()[:, 0]
        if not len(dead):
            return
        latents, random = rows_of_processes(z), self._generator()
        dead = dead[torch.randperm(len(dead), generator=random)[: len(latents)].to(dead.device)]
        latents = latents[torch.randperm(len(latents), generator=random)[: len(dead)].to(dead.device)]
        self._place(dead, latents, self.config.restart_below)

    @torch.no_grad()
    def _start(self, z: Tensor) -> None:
        """Take the first codes from latents of all processes; repeated where these are fewer."""
        latents, size = rows_of_processes(z), self.config.codebook_size
        if not len(latents):
            return
        order = torch.randperm(len(latents), generator=self._generator()).to(z.device)
        codes = latents[order.repeat(-(-size // len(order)))[:size]]
        if self.config.init == "kmeans":
            codes = self._scaled(k_means(latents, codes, self.config.kmeans_steps))
        self._place(torch.arange(size, device=z.device), codes, 1.0)
        self.ready.fill_(True)

    def _place(self, where: Tensor, codes: Tensor, count: float) -> None:
        self.codebook.data[where] = codes
        self.counts[where] = count
        if self.config.learn == "ema":
            self.sums[where] = codes * count

    def _generator(self) -> torch.Generator:
        """The same on every process, another at every draw, and the same again after a resume."""
        self.draws += 1
        return torch.Generator().manual_seed(int(self.draws))
