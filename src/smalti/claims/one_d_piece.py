"""One-D-Piece: trained with tail drop, the first tokens are a picture; without it they are not."""

from __future__ import annotations

from typing import Any

import torch

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.rebuilding import DATA, Batch, Pool, material, mean, sampled, train
from smalti.claims.titok import CODES, SIDE, TOWER, narrow
from smalti.tokenizers.one_d_piece import OneDPiece, OneDPieceConfig, token_contribution

LENGTH, STEPS = 16, 800
KEPT = (1, 2, 4, 8, 16)
DROPPED, WHOLE = "tail drop", "all tokens"


class Whole(OneDPiece):
    """The twin whose training never drops."""

    def draw(self, count: int) -> torch.Tensor:
        """All tokens of every sample."""
        return torch.full((count,), self.length)


def errors(model: OneDPiece, pool: Pool) -> dict[int, float]:
    """Mean square error of the first so many tokens."""
    found: dict[int, list[float]] = {kept: [] for kept in KEPT}
    for some in pool.split(16):  # one tile a picture
        pixels = some.float() / 255
        tokens = model.encode(pixels)
        for kept in KEPT:
            found[kept].append((model.decode(tokens[:kept]) - pixels).square().mean().item())
    return {kept: sum(values) / len(values) for kept, values in found.items()}


@claim("one-d-piece", minutes=5.0)
def one_d_piece(lab: Lab) -> Finding:
    """Twins of 16 tokens, one trained on random prefixes, one on all tokens."""
    crops, others = material(lab, "pictures", 256)
    others = others[..., 16 : 16 + SIDE, 16 : 16 + SIDE]
    rows: list[dict[str, Any]] = []
    for seed in lab.seeds:
        for method, kind in ((DROPPED, OneDPiece), (WHOLE, Whole)):
            torch.manual_seed(seed)

            def batch(step: int, seed: int = seed) -> Batch:
                return {"pictures": sampled(crops, 16, SIDE, seed, step)}

            model = narrow(kind(OneDPieceConfig(LENGTH, TOWER, TOWER, CODES, None, SIDE, 8)))
            train(model, batch, lab.some(STEPS, 2), rate=1e-3, pixel_weight=10.0)
            told, _ = token_contribution(
                model, others[:64, :, 0].float() / 255, torch.Generator().manual_seed(0)
            )
            told = told.flatten(1).mean(1)
            contribution = {"first": told[0].item(), "last": told[-1].item()}
            for kept, error in errors(model, others).items():
                rows.append({"method": method, "kept": kept, "seed": seed, "error": error, **contribution})

    def of(method: str, kept: int, field: str = "error") -> float:
        return mean(rows, field, method=method, kept=kept)

    def ratio(method: str) -> float:
        return of(method, LENGTH, "first") / of(method, LENGTH, "last")

    curve = [of(DROPPED, kept) for kept in KEPT]

    def draw(axes: Any) -> None:
        for method in (DROPPED, WHOLE):
            axes.loglog(KEPT, [of(method, kept) for kept in KEPT], "o-", label=f"trained with {method}")
        axes.set(xlabel="tokens decoded, of 16", ylabel="squared error", xticks=KEPT)
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "of 1, 2 or 4 tokens tail drop leaves less than half the twin's error": all(
                of(DROPPED, kept) < of(WHOLE, kept) / 2 for kept in (1, 2, 4)
            ),
            "every token more leaves less error": sorted(curve, reverse=True) == curve,
            "of all tokens it leaves at most a quarter more error than the twin": of(DROPPED, LENGTH)
            <= 1.25 * of(WHOLE, LENGTH),
            "its first token tells at least three times as much as its last": ratio(DROPPED) >= 3,
            "the twin's tokens tell about as much, within a factor of two": 0.5 <= ratio(WHOLE) <= 2,
        },
        figure="squared error of the first 1, 2, 4, 8, 16 tokens: "
        + "; ".join(
            f"{method} " + ", ".join(f"{of(method, kept):.4f}" for kept in KEPT)
            for method in (DROPPED, WHOLE)
        )
        + f"; the first token tells {ratio(DROPPED):.1f} times what the last does, "
        f"the twin's {ratio(WHOLE):.1f}",
        rows=rows,
        data=DATA["pictures"] + "; cuts of 32×32 of them",
        notes=f"The paper has 256 tokens of 256 pixels and two stages; here 16 of 32 pixels, one stage, "
        f"{STEPS} steps of L2, and 1,024 codes that follow the running means of latents.",
        draw=draw,
    )
