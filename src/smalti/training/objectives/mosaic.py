"""What training of `mosaic` minimises: rate and distortion at a stage drawn for every sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.conv import zero_init
from smalti.nn.similarity import multiscale_similarity
from smalti.tokenizers.mosaic import FRAMES, Mosaic, Path
from smalti.training.objectives.base import Loss, Objective, objective
from smalti.training.sources.base import Source

LOOK = 99  # seed of the batches that training starts from
SHOWN = 4  # pictures, and clips, of a sheet of samples


class NeighbourRate(nn.Module):
    """An estimate of the bits that a context model will need, with a gradient to the latents.

    ```
    z ─► shrunk by half a step ─► + noise ─► 3×3 without its centre ─┐
                                                                     ├─► relu ─► mean, scale of a Laplace
    past ──────────────────────────────────► 1×1 ────────────────────┘     ─► −log2 P(bin of one step)
    ```
    Uniform noise of one step stands for quantization (Ballé et al., 2017).
    """

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        self.around = nn.Conv2d(dim, width, 3, padding=1)
        self.before = nn.Conv2d(dim, width, 1)
        self.leave = zero_init(nn.Conv2d(width, 2 * dim, 1))
        self.spread = nn.Parameter(torch.zeros(dim))
        hole = torch.ones(3, 3)
        hole[1, 1] = 0
        self.register_buffer("hole", hole, persistent=False)

    def start_from(self, z: Float[Tensor, "b d h w"]) -> None:
        """Begin with the spread of real latents in every channel."""
        self.spread.data = z.abs().mean((0, 2, 3)).clamp(min=1e-3).log()

    def forward(
        self, z: Float[Tensor, "b d h w"], past: Float[Tensor, "b d h w"], step: Float[Tensor, "b 1 1 1"]
    ) -> Float[Tensor, "b d h w"]:
        """Bits of every latent, quantized with its sample's step."""
        rounded = F.softshrink(z / step, 0.5) * step  # whose rounding is the quantizer with its wide zero bin
        noisy = rounded + (torch.rand_like(z) - 0.5) * step
        around = F.conv2d(
            torch.asinh(noisy / step), self.around.weight * self.hole, self.around.bias, padding=1
        )
        hidden = torch.relu(around + self.before(torch.asinh(past / step)))
        shift, change = self.leave(hidden).float().chunk(2, 1)
        scale = torch.exp((self.spread[:, None, None] + change).clamp(-8, 4)) + 0.05 * step
        left, right = (_laplace_cdf((noisy - shift * step + side * step / 2) / scale) for side in (-1, 1))
        return -(right - left).clamp(min=1e-6).log2()


def _laplace_cdf(x: Tensor) -> Tensor:
    tail = 0.5 * torch.exp(-x.abs())
    return torch.where(x > 0, 1 - tail, tail)


@dataclass(frozen=True)
class MosaicOptions:
    """Attributes:
    structure: weight of 1 − MS-SSIM.
    stage_weights: weight of every stage; low rates have small totals and need large ones.
    forget: share of clip samples that do not look back on the grid before.
    linear_rate: learning rate of the linear paths, as a factor of the others'.
    """

    structure: float = 1.5
    stage_weights: tuple[float, ...] = (6.0, 4.0, 2.2, 1.2, 0.6)
    forget: float = 0.15
    linear_rate: float = 0.04


@objective("mosaic", MosaicOptions)
class MosaicObjective(Objective):
    """Rate and distortion of `mosaic` at a stage drawn for every sample (nested dropout).

    ```
    pixels ──► analyse ──► z ─┬─► quantized at stage k, straight-through ──► synthesise ──► distortion
                              └─► NeighbourRate ──► bits
    total = weight_k · (3·MSE / (ln 2 · step_k² / 6) + bits a pixel + structure · (1 − MS-SSIM))
    ```
    The factor of the squared error is the slope of rate and distortion at a bin of that width
    (Gish & Pierce, 1968), so every stage is trained at the trade-off that its step stands for.

    Args:
        tokenizer: the model to train.
        options: weights and rates.

    Raises:
        ConfigError: as many weights of stages as the tokenizer has stages are needed.
    """

    def __init__(self, tokenizer: Mosaic, options: MosaicOptions | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.options = options = options or MosaicOptions()
        if len(options.stage_weights) != tokenizer.quantizer.depth:
            raise ConfigError(
                f"stage_weights: {len(options.stage_weights)} weights for {tokenizer.quantizer.depth} stages"
            )
        self.picture_rate = NeighbourRate(tokenizer.quantizer.dim)
        self.clip_rate = NeighbourRate(tokenizer.quantizer.dim)
        self.register_buffer("stage_weights", torch.tensor(options.stage_weights), persistent=False)
        self.register_load_state_dict_pre_hook(_keep_context)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Linear paths start from principal components and learn slowly, estimates of the rate fast."""
        slow = ("analysis", "synthesis", "mean")
        factors: dict[float, list[nn.Parameter]] = {1.0: [], self.options.linear_rate: [], 4.0: []}
        for name, parameter in self.named_parameters():
            rate = self.options.linear_rate if name.endswith(slow) else 4.0 if "_rate." in name else 1.0
            factors[rate].append(parameter)
        return [{"params": parameters, "factor": factor} for factor, parameters in factors.items()]

    @torch.no_grad()
    def start(self, data: Source, fresh: bool = True) -> None:
        """Fit the linear paths of fresh weights, and the spread of latents, to real pictures and clips."""
        model = self.tokenizer
        pictures, groups = first_look(data)
        if fresh:
            model.fit_linear(pictures, groups)
        self.picture_rate.start_from(model.picture.analyse(pictures, model.encoder))
        self.clip_rate.start_from(model.clip.analyse(groups, model.encoder))

    def samples(self, batch: dict[str, Tensor]) -> Float[Tensor, "n 2 3 h w"]:
        """Original and reconstruction at the highest quality; of clips, the last frame."""
        rows = []
        for pixels in (medium[:SHOWN] for medium in batch.values()):
            decoded = self.tokenizer.decode(self.tokenizer.encode(pixels))
            rows.append(torch.stack([pixels[:, :, -1], decoded[:, :, -1]], 1))
        return torch.cat(rows)

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Batch: `pictures [b 3 1 h w]` and `clips [b 3 4k+1 h w]`, either or both, in [0, 1]."""
        parts: dict[str, Tensor] = {}
        totals = []
        for name, pixels in batch.items():
            weighted, measured = self._sequence(pixels)
            totals.append(weighted)
            parts |= {f"{name}/{key}": value for key, value in measured.items()}
        return Loss(torch.stack(totals).mean(), parts)

    def _sequence(self, pixels: Float[Tensor, "b 3 t h w"]) -> tuple[Tensor, dict[str, Tensor]]:
        model = self.tokenizer
        stage = torch.randint(model.quantizer.depth, (len(pixels),)).to(pixels.device)
        later = range(1, pixels.shape[2], FRAMES)
        groups = [pixels[:, :, :1], *(pixels[:, :, t : t + FRAMES] for t in later)]
        past = pixels.new_zeros(())
        distortions, structures, bits, errors = [], [], [], []
        for index, group in enumerate(groups):
            path, rate = (model.clip, self.clip_rate) if index else (model.picture, self.picture_rate)
            remember = (torch.rand(len(pixels), 1, 1, 1) >= self.options.forget).to(pixels)
            z, quantized, frames = self._group(path, group, past * remember, stage)
            step = model.quantizer.config.step * torch.exp2(-stage.float())[:, None, None, None]
            opened = self._opened(stage)
            known = (past * remember).expand_as(z).detach()
            bits.append((rate(z, known, step) * opened).sum((1, 2, 3)) / group[0, 0].numel())
            error = (frames - group).square().mean((1, 2, 3, 4))
            errors.append(error)
            distortions.append(3 * error / (math.log(2) / 6 * step.flatten().square()))
            flat = (x.transpose(1, 2).flatten(0, 1) for x in (frames, group))
            structures.append(1 - multiscale_similarity(*flat).unflatten(0, (len(pixels), -1)).mean(1))
            past = quantized if index else model.past_of_picture(quantized)
        distortion, structure, rate, error = (
            torch.stack(x).mean(0) for x in (distortions, structures, bits, errors)
        )
        total = self.stage_weights[stage] * (distortion + rate + self.options.structure * structure)
        measured = {"bits": rate, "structure": structure, "psnr": -10 * error.log10()}
        logged = {
            f"{key}@{k + 1}": value.detach()[stage == k].mean()
            for key, value in measured.items()
            for k in stage.unique().tolist()
        }
        return total.mean(), logged

    def _opened(self, stage: Int[Tensor, "b"]) -> Bool[Tensor, "b d 1 1"]:
        opens = torch.tensor(self.tokenizer.quantizer.opens, device=stage.device)
        return opens[:, None, None] <= stage[:, None, None, None]

    def _group(
        self, path: Path, group: Float[Tensor, "b 3 t h w"], past: Tensor, stage: Int[Tensor, "b"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, quantized latents and frames of one group."""
        model = self.tokenizer
        z = path.analyse(group, model.encoder)
        last = z.movedim(1, -1)
        hard = model.quantizer.hard(last, stage[:, None, None, None]).movedim(-1, 1)
        quantized = hard + (z - z.detach()) * self._opened(stage)
        looked_back = past.expand_as(quantized) if path.frames > 1 else quantized[:, :0]
        return z, quantized, path.synthesise(quantized, looked_back, stage, model.decoder)


def _keep_context(module: MosaicObjective, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The context model is the next stage's: checkpoints of this one outlive changes of its form."""
    place = f"{prefix}tokenizer.context."
    for name in [name for name in state if name.startswith(place)]:
        del state[name]
    state.update(module.tokenizer.context.state_dict(prefix=place))


def first_look(data: Source, batches: int = 20) -> tuple[Tensor, Tensor]:
    """Pictures [b 3 1 h w] and groups of four frames [b 3 4 h w] to fit principal components on.

    Without pictures, frames of clips stand for them; without clips, pictures that stand still.
    """
    seen = [data.batch(step, seed=LOOK) for step in range(batches)]
    pictures = [batch["pictures"] for batch in seen if "pictures" in batch]
    groups = [batch["clips"][:, :, 1 : 1 + FRAMES] for batch in seen if "clips" in batch]
    stills = torch.cat(pictures or [group[:, :, :1] for group in groups])
    return stills, torch.cat(groups) if groups else stills.expand(-1, -1, FRAMES, -1, -1)
