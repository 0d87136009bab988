"""ToMe off the shelf: merging similar tokens costs less accuracy than merging or dropping random ones."""

from __future__ import annotations

from typing import Any

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.material import accuracy, trained_vit
from smalti.reducers.hosts import reduce

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ToMe": ("tome", {}),
    "ToMe, plain means": ("tome", {"proportional": False}),
    "ToMe on tokens": ("tome", {"metric": "tokens"}),
    "random merging": ("tome", {"split": "random", "metric": "random"}),
    "random pruning": ("random", {}),
}
REMOVED = (2, 3, 5, 7)  # tokens a block, of 65


@claim("tome", minutes=8)
def tome(lab: Lab) -> Finding:
    """Accuracy of a small ViT, trained without merging, at equal tokens after every block."""
    rows = []
    for seed in lab.seeds:
        model = trained_vit(seed, lab.some(1200, 3))
        rows.append(
            {"method": "all tokens", "r": 0, "seed": seed, "accuracy": accuracy(model, lab.some(2000, 50))}
        )
        for removed in REMOVED:
            for name, (reducer, options) in METHODS.items():
                layers = range(len(model.blocks))
                with reduce(model, reducer, r=removed, layers=layers, **options):
                    found = accuracy(model, lab.some(2000, 50))
                rows.append({"method": name, "r": removed, "seed": seed, "accuracy": found})

    def mean(method: str, removed: int) -> float:
        found = [row["accuracy"] for row in rows if row["method"] == method and row["r"] == removed]
        return sum(found) / len(found)

    def over(better: str, worse: str) -> bool:
        return all(mean(better, removed) >= mean(worse, removed) for removed in REMOVED)

    def draw(axes: Any) -> None:
        for name in METHODS:
            axes.plot(
                (0, *REMOVED), [mean("all tokens", 0), *(mean(name, r) for r in REMOVED)], "o-", label=name
            )
        axes.set(xlabel="tokens removed at every block, of 65", ylabel="accuracy")
        axes.legend(fontsize=8)

    last = REMOVED[-1]
    return Finding(
        statements={
            "ToMe is at least as accurate as random merging at every count": over("ToMe", "random merging"),
            "random merging is at least as accurate as random pruning": over(
                "random merging", "random pruning"
            ),
            "means by mass with proportional attention beat plain means": over("ToMe", "ToMe, plain means"),
            "keys are a better metric than tokens": over("ToMe", "ToMe on tokens"),
        },
        figure=f"accuracy {mean('all tokens', 0):.3f} with all tokens; with {last} fewer at every block "
        + ", ".join(f"{name} {mean(name, last):.3f}" for name in METHODS),
        rows=rows,
        data="Fashion-MNIST test pictures on clutter, 48 pixels; ViT of 8 blocks trained on the others",
        notes="The paper's models are ImageNet ViTs; here 65 tokens, 64 channels, 2,000 test pictures.",
        draw=draw,
    )
