"""AToken: one set of weights for pictures and clips of any size does what two specialists do."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.rebuilding import DATA, Batch, Pool, material, mean, measure, sampled, train
from smalti.nn.packed_sets import packed
from smalti.tokenizers.atoken import AToken, ATokenConfig

SIDE, FRAMES, STEPS = 32, 8, 300
PICTURES, CLIPS, BOTH = "pictures alone", "clips alone", "both in turn"
TINY = ATokenConfig((4, 8, 8), 16, dim=64, depth=2, heads=4, hidden=128, chunk=2, table=4)


@torch.no_grad()
def alone_as_packed(
    model: AToken, pictures: UInt8[Tensor, "n 3 1 h w"], clips: UInt8[Tensor, "m 3 t h w"]
) -> bool:
    """Whether pictures and clips of several sizes give in one batch what each gives alone."""
    media = [pool[0].float() / 255 for pool in (pictures, clips, pictures[..., :24], clips[..., :16, :])]
    sets = [model.patches(medium) for medium in media]
    together = model.see(packed(sets)).posterior.features
    each = torch.cat([model.see(packed([one])).posterior.features for one in sets])
    return torch.allclose(together, each, atol=1e-5)


def chunks_apart(model: AToken, clips: Pool) -> bool:
    """Whether a clip of two chunks gives the latents of its halves."""
    pixels = clips[:2].float() / 255
    whole = model.encode(torch.cat([pixels, pixels.flip(2)], 2)).values
    halves = [model.encode(half).values for half in (pixels, pixels.flip(2))]
    return torch.allclose(whole, torch.cat(halves, 1), atol=1e-5)


@claim("atoken", minutes=4.0)
def atoken(lab: Lab) -> Finding:
    """Three small models, which see each medium for as many steps, or never."""
    pictures, other_pictures = material(lab, "pictures", 256)
    clips, other_clips = material(lab, "clips", 96)
    middle = slice(16, 16 + SIDE)
    other_pictures, other_clips = (
        other_pictures[..., middle, middle],
        other_clips[:, :, :FRAMES, middle, middle],
    )
    rows: list[dict[str, Any]] = []
    packs, chunks = [], []
    for seed in lab.seeds:

        def picture(step: int, seed: int = seed) -> Batch:
            return {"pictures": sampled(pictures, 16, SIDE, seed, step)}

        def clip(step: int, seed: int = seed) -> Batch:
            return {"clips": sampled(clips, 4, SIDE, seed, step, FRAMES)}

        def both(step: int, clip: Any = clip, picture: Any = picture) -> Batch:
            return (clip if step % 2 else picture)(step // 2)

        for method, batch, times in ((PICTURES, picture, 1), (CLIPS, clip, 1), (BOTH, both, 2)):
            torch.manual_seed(seed)
            model = train(AToken(TINY), batch, times * lab.some(STEPS, 2), rate=1e-3, pixel_weight=4.0)
            found = {f"picture_{k}": v for k, v in measure(model, other_pictures).items()}
            found |= {f"clip_{k}": v for k, v in measure(model, other_clips).items()}
            rows.append({"method": method, "seed": seed, **found})
        packs.append(alone_as_packed(model, other_pictures, other_clips))
        chunks.append(chunks_apart(model, other_clips))

    def of(method: str, medium: str) -> float:
        return mean(rows, f"{medium}_psnr", method=method)

    def draw(axes: Any) -> None:
        for method in (PICTURES, CLIPS, BOTH):
            axes.plot(of(method, "picture"), of(method, "clip"), "o", label=method)
        axes.set(xlabel="PSNR of pictures, dB", ylabel="PSNR of clips, dB")
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "pictures and clips of several sizes give in one batch what each gives alone": all(packs),
            "two chunks of a clip give what each gives alone": all(chunks),
            "one model rebuilds pictures as well as their specialist, within 0.5 dB": of(BOTH, "picture")
            >= of(PICTURES, "picture") - 0.5,
            "and clips as well as theirs, within 0.5 dB": of(BOTH, "clip") >= of(CLIPS, "clip") - 0.5,
        },
        figure="PSNR of pictures / clips: "
        + ", ".join(
            f"{method} {of(method, 'picture'):.2f} / {of(method, 'clip'):.2f} dB"
            for method in (PICTURES, CLIPS, BOTH)
        ),
        rows=rows,
        data=f"{DATA['pictures']}; {DATA['clips']}; cuts of 32×32 of both, 8 frames of clips",
        notes="The paper adds perceptual and Gram losses, 3D and the meaning of pictures, on models of 800 "
        f"million weights; here 64 channels, {STEPS} steps of L2 for each medium, neither textures nor 3D.",
        draw=draw,
    )
