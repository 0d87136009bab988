"""CDT: a diffusion decoder of one step rebuilds as well as regression of the same size, and without a GAN."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.rebuilding import DATA, Batch, Pool, material, mean, measure, sampled, train
from smalti.quantizers.variational import VariationalConfig
from smalti.registry import replace
from smalti.tokenizers.cdt import CDT, CDTConfig

SIDE, LENGTH, STEPS, MORE = 16, 5, 260, 5
DIFFUSION, REGRESSION = "diffusion decoder", "regression decoder"
TINY = CDTConfig(
    width=12,
    multipliers=(1, 2, 2),
    unet_width=12,
    unet_multipliers=(1, 2, 2, 3),
    conditions=3,
    finest=8,
    quantizer=VariationalConfig(8, 1e-6),
    space_down=(True, True, False),
    time_down=(False, True, True),
)


class Regression(CDT):
    """The same networks without noise: a plain variational autoencoder of equal size."""

    def noised(self, video: Float[Tensor, "b 3 t h w"], index: Int[Tensor, "b"]) -> Tensor:
        """Nothing of the video: the decoder has the conditions alone, as it will in decoding."""
        index.fill_(self.config.timesteps - 1)
        return torch.zeros_like(video)


def seeds_apart(model: CDT, clips: Pool, steps: int = 1) -> tuple[float, float]:
    """Variance over eight noises, and its share of the mean square error."""
    pixels = clips.float() / 255
    tokens = model.encode(pixels)
    keep = model.config
    drawn = []
    for seed in range(8):
        model.config = replace(keep, {"seed": 1000 * seed, "steps": steps})
        drawn.append(model.decode(tokens))
    model.config = keep
    rebuilt = torch.stack(drawn)
    variance = rebuilt.var(0).mean().item()
    return variance, variance / (rebuilt - pixels).square().mean().item()


@claim("cdt", minutes=6.0)
def cdt(lab: Lab) -> Finding:
    """Two decoders of the same weights and conditions: one takes noise and a time, the other nothing."""
    crops, others = material(lab, "clips", 64)
    others = others[:, :, :LENGTH, 24 : 24 + SIDE, 24 : 24 + SIDE]
    rows: list[dict[str, Any]] = []
    for seed in lab.seeds:
        for method, kind in ((DIFFUSION, CDT), (REGRESSION, Regression)):
            torch.manual_seed(seed)
            quiet = {"gamma": 0.0} if method == REGRESSION else {}
            model = kind(replace(TINY, quiet))

            def batch(step: int, seed: int = seed) -> Batch:
                return {"clips": sampled(crops, 4, SIDE, seed, step, LENGTH)}

            half = lab.some(STEPS, 2) // 2
            train(model, batch, half, pixel_weight=4.0)
            early = measure(model, others)["psnr"]
            train(model, lambda step, batch=batch, half=half: batch(half + step), half, pixel_weight=4.0)
            found = measure(model, others) | {"half_psnr": early}
            if method == DIFFUSION:
                found["variance"], found["noise_share"] = seeds_apart(model, others[:16])
                model.config = replace(model.config, {"steps": MORE})
                found["more_psnr"] = measure(model, others)["psnr"]
            rows.append({"method": method, "seed": seed, **found})

    def of(field: str, method: str = DIFFUSION) -> float:
        return mean(rows, field, method=method)

    def draw(axes: Any) -> None:
        bars = {
            "regression": of("psnr", REGRESSION),
            "diffusion, 1 step": of("psnr"),
            f"diffusion, {MORE} steps": of("more_psnr"),
        }
        axes.bar(list(bars), list(bars.values()))
        axes.set(ylabel="PSNR, dB", ylim=(min(bars.values()) - 2, max(bars.values()) + 1))

    return Finding(
        statements={
            "one step is within 0.5 dB of regression by the same networks, or above it": of("psnr")
            >= of("psnr", REGRESSION) - 0.5,
            "it learns steadily without a GAN: the second half of the training improves every run": all(
                row["psnr"] > row["half_psnr"] for row in rows if row["method"] == DIFFUSION
            ),
            f"{MORE} steps stay within 1 dB of one": of("more_psnr") >= of("psnr") - 1,
            "of the error less than a tenth is the noise's": of("noise_share") < 0.1,
        },
        figure=f"regression {of('psnr', REGRESSION):.2f} dB; diffusion {of('psnr'):.2f} dB in 1 step, "
        f"{of('more_psnr'):.2f} dB in {MORE}; {of('noise_share'):.1%} of its error is the noise's",
        rows=rows,
        data=DATA["clips"] + f"; cuts of {LENGTH} frames of {SIDE}×{SIDE} pixels",
        notes="The paper compares with other published tokenizers; here the baseline has the same weights "
        f"and sees zeros for the noised video at the last time. 12 to 36 channels, {STEPS} steps of L2 and "
        "the divergence, in two halves with a rate of learning that falls to zero in each.",
        draw=draw,
    )
