"""OmniTokenizer: pictures first, then pictures and clips in turn, serve both better than clips alone."""

from __future__ import annotations

import copy
from typing import Any

import torch

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.rebuilding import DATA, Batch, Pool, material, mean, measure, sampled, train
from smalti.quantizers.variational import VariationalConfig
from smalti.tokenizers.omnitokenizer import OmniTokenizer, OmniTokenizerConfig

SIDE, PICTURE_STEPS, CLIP_STEPS = 32, 300, 200
PICTURES, SCRATCH, TUNED, JOINT = (
    "pictures alone",
    "clips alone",
    "pictures, then clips",
    "pictures, then both",
)


def tokenizer() -> OmniTokenizer:
    """The official kinds of layers, one or two of each, and continuous latents."""
    return OmniTokenizer(
        OmniTokenizerConfig(64, 8, 4, "tw", "tt", 1, 4, 16, 2, quantizer=VariationalConfig(8, 1e-6))
    )


def shared_first(model: OmniTokenizer, clips: Pool) -> bool:
    """Whether a picture's latents are those of the first frame of a clip that begins with it."""
    pixels = clips.float() / 255
    whole, picture = (model.encode(part).values for part in (pixels, pixels[:, :, :1]))
    return torch.allclose(whole[:, : picture.shape[1]], picture, atol=1e-5)


@claim("omnitokenizer", minutes=4.0)
def omnitokenizer(lab: Lab) -> Finding:
    """One small model, trained in the paper's order and in two others with as many steps on clips."""
    pictures, other_pictures = material(lab, "pictures", 256)
    clips, other_clips = material(lab, "clips", 96)
    middle = slice(16, 16 + SIDE)
    other_pictures, other_clips = (pool[..., middle, middle] for pool in (other_pictures, other_clips))
    rows: list[dict[str, Any]] = []
    alike = []
    for seed in lab.seeds:

        def picture(step: int, seed: int = seed) -> Batch:
            return {"pictures": sampled(pictures, 16, SIDE, seed, step)}

        def clip(step: int, seed: int = seed) -> Batch:
            return {"clips": sampled(clips, 4, SIDE, seed, step)}

        def both(step: int, clip: Any = clip, picture: Any = picture) -> Batch:
            return (clip if step % 2 else picture)(step // 2)

        steps = lab.some(CLIP_STEPS, 2)
        options = {"rate": 1e-3, "pixel_weight": 10.0}
        torch.manual_seed(seed)
        begun = tokenizer()
        scratch = train(copy.deepcopy(begun), clip, steps, **options)
        begun = train(begun, picture, lab.some(PICTURE_STEPS, 2), **options)
        tuned = train(copy.deepcopy(begun), clip, steps, **options)
        joint = train(copy.deepcopy(begun), both, 2 * steps, **options)
        alike.append(shared_first(joint, other_clips[:8]))
        for method, model in ((PICTURES, begun), (SCRATCH, scratch), (TUNED, tuned), (JOINT, joint)):
            found = {f"picture_{k}": v for k, v in measure(model, other_pictures).items()}
            found |= {f"clip_{k}": v for k, v in measure(model, other_clips).items()}
            rows.append({"method": method, "seed": seed, **found})

    def of(method: str, medium: str) -> float:
        return mean(rows, f"{medium}_psnr", method=method)

    def draw(axes: Any) -> None:
        for method in (PICTURES, SCRATCH, TUNED, JOINT):
            axes.plot(of(method, "picture"), of(method, "clip"), "o", label=method)
        axes.set(xlabel="PSNR of pictures, dB", ylabel="PSNR of clips, dB")
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "a picture's latents are those of a clip's first frame": all(alike),
            "pictures first, then both, rebuilds clips better than as many steps on clips alone": (
                of(JOINT, "clip") > of(SCRATCH, "clip")
            ),
            "after pictures, steps on clips alone lose quality of pictures": of(TUNED, "picture")
            < of(PICTURES, "picture"),
            "pictures and clips in turn keep it": of(JOINT, "picture") >= of(PICTURES, "picture"),
        },
        figure="PSNR of pictures / clips: "
        + ", ".join(
            f"{method} {of(method, 'picture'):.2f} / {of(method, 'clip'):.2f} dB"
            for method in (PICTURES, SCRATCH, TUNED, JOINT)
        ),
        rows=rows,
        data=f"{DATA['pictures']}; {DATA['clips']}; cuts of 32×32 of both",
        notes=f"The paper trains 500,000 steps on ImageNet, then on pictures and videos in turn; here 64 "
        f"channels, {PICTURE_STEPS} steps on pictures and {CLIP_STEPS} on clips, L2 and the divergence of 8 "
        "latent channels. Pictures and clips in turn take as many steps on pictures again.",
        draw=draw,
    )
