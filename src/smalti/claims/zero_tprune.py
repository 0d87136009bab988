"""Zero-TPrune: importance on the attention graph prunes better than chance, and similarity helps it."""

from __future__ import annotations

from typing import Any

import torch

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.equal_cost import at_cost, counted_share
from smalti.claims.material import accuracy, clothes, trained_vit
from smalti.nn.flops import count_flops
from smalti.reducers.zero_tprune import ZeroTPrune

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "I'-S-I": ("zero-tprune", {"order": "I'-S-I"}),
    "I-S": ("zero-tprune", {"order": "I-S"}),
    "I": ("zero-tprune", {"order": "I"}),
    "I, mean of all heads": ("zero-tprune", {"order": "I", "heads": "mean", "variance": None}),
    "class attention": ("composed", {"criterion": "attention", "strategy": "prune"}),
    "random pruning": ("random", {}),
    "ToMe": ("tome", {}),
}
SHARES = (0.65, 0.50)  # of the FLOPs; 0.65 is the paper's point
CLAIMED = 0.65


@claim("zero-tprune", minutes=6.0)
def zero_tprune(lab: Lab) -> Finding:
    """Accuracy of a small ViT, trained without pruning, at equal FLOPs."""
    rows = []
    pictures = lab.some(1000, 50)
    example = clothes("test", torch.arange(1))[0]
    for seed in lab.seeds:
        model = trained_vit(seed, lab.some(1200, 3))
        whole = count_flops(model, example)
        here = {"method": "all tokens", "share": 1.0, "seed": seed}
        rows.append({**here, "accuracy": accuracy(model, pictures, min(pictures, 100)), "counted": 1.0})
        for share in (CLAIMED,) if lab.quick else SHARES:
            for method, (reducer, options) in METHODS.items():
                layers = None if method == "ToMe" else ZeroTPrune().layers(len(model.blocks))
                with at_cost(model, reducer, share, example, layers, **options) as handle:
                    found = accuracy(model, pictures, min(pictures, 100))
                    counted = round(counted_share(model, example, whole), 3)
                here = {"method": method, "share": share, "seed": seed, "tokens": handle.counts[-1]}
                rows.append({**here, "accuracy": found, "counted": counted})

    shares = sorted({row["share"] for row in rows if row["share"] < 1}, reverse=True)

    def mean(method: str, share: float) -> float:
        found = [r["accuracy"] for r in rows if r["method"] == method and r["share"] == share]
        return sum(found) / len(found)

    def draw(axes: Any) -> None:
        for method in METHODS:
            axes.plot(
                [1, *shares], [mean("all tokens", 1), *(mean(method, s) for s in shares)], "o-", label=method
            )
        axes.set(xlabel="share of the FLOPs", ylabel="accuracy")
        axes.legend(fontsize=8)

    claimed = {method: mean(method, CLAIMED) for method in METHODS}
    return Finding(
        statements={
            "I'-S-I is at least as accurate as I at 35 % fewer FLOPs": claimed["I'-S-I"] >= claimed["I"],
            "I is more accurate than random pruning at 35 % fewer FLOPs": (
                claimed["I"] > claimed["random pruning"]
            ),
            "merging heads by root mean square, some left out, is at least as good as their mean": (
                claimed["I"] >= claimed["I, mean of all heads"]
            ),
        },
        figure=f"accuracy {mean('all tokens', 1):.3f} with all tokens; at {CLAIMED} of the FLOPs "
        + ", ".join(f"{method} {value:.3f}" for method, value in claimed.items()),
        rows=rows,
        data="Fashion-MNIST test pictures on clutter; ViT of 8 blocks trained on its training split",
        notes="The paper's models are ImageNet ViTs of 12 blocks and 197 tokens; here 8 blocks, 145 "
        "tokens, 64 channels in 2 heads. Every method is given just so many tokens that its counted "
        "FLOPs, those of choosing included, are equal: PageRank's 30 rounds weigh more in a model "
        "that is so narrow, so it keeps fewer tokens than random pruning. All pruners work at the "
        "same blocks; ToMe merges at every one and is reported only.",
        draw=draw,
    )
