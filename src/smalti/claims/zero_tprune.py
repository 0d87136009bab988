"""Zero-TPrune: importance on the attention graph prunes better than chance, and similarity helps it."""

from __future__ import annotations

from typing import Any

import torch

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.equal_cost import at_cost, counted_share
from smalti.claims.frozen import class_tokens, drift, frozen_vit
from smalti.claims.material import accuracy, clothes, trained_vit
from smalti.nn.flops import count_flops
from smalti.reducers.zero_tprune import ZeroTPrune

ALL, BOTH, RANKED, RANDOM, TOME = "all tokens", "I'-S-I", "I", "random pruning", "ToMe"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    BOTH: ("zero-tprune", {"order": "I'-S-I"}),
    "I-S": ("zero-tprune", {"order": "I-S"}),
    RANKED: ("zero-tprune", {"order": "I"}),
    "I, mean of all heads": ("zero-tprune", {"order": "I", "heads": "mean", "variance": None}),
    "class attention": ("composed", {"criterion": "attention", "strategy": "prune"}),
    RANDOM: ("random", {}),
    TOME: ("tome", {}),
}
SHARE = 0.65  # of the FLOPs


@claim("zero-tprune", minutes=10.0)
def zero_tprune(lab: Lab) -> Finding:
    """What a classifier, and DINOv2-small, never trained for fewer tokens, still say at 35 % fewer FLOPs."""
    named = classifier(lab)
    frozen, count = frozen_vit(lab), lab.some(150, 10)
    model, rows = frozen.model, []
    example = frozen.pictures("test", 0, 1)[0]
    whole = count_flops(model, example)
    layers = ZeroTPrune().layers(len(model.blocks))  # pyright: ignore[reportArgumentType]
    for seed in lab.seeds:
        pictures, labels = frozen.pictures("test", 1000 * seed, count)
        full = class_tokens(model, pictures)
        rows.append({"method": ALL, "seed": seed, "accuracy": frozen.accuracy(full, labels), "drift": 0.0})
        for method, (reducer, options) in METHODS.items():
            where = None if method == TOME else layers
            with at_cost(model, reducer, SHARE, example, where, **options) as handle:
                found = class_tokens(model, pictures)
                counted = round(counted_share(model, example, whole), 3)
            here = {"method": method, "seed": seed, "counted": counted, "tokens left": handle.counts[-1]}
            rows.append({**here, "accuracy": frozen.accuracy(found, labels), "drift": drift(full, found)})

    def mean(field: str, method: str) -> float:
        found = [row[field] for row in rows if row["method"] == method]
        return sum(found) / len(found)

    right = {method: mean("accuracy", method) for method in (ALL, *METHODS)}
    taught = {
        method: sum(found) / len(found)
        for method in (ALL, *METHODS)
        if (found := [row["accuracy"] for row in named if row["method"] == method])
    }
    off = {method: mean("drift", method) for method in METHODS}

    def draw(axes: Any) -> None:
        axes.barh(list(off), list(off.values()))
        axes.invert_yaxis()
        axes.set(xlabel="drift of the class token (1 − cosine) at 35 % fewer FLOPs")

    return Finding(
        statements={
            "classifier: I'-S-I is at least as accurate as I": taught[BOTH] >= taught[RANKED],
            "classifier: I'-S-I is more accurate than random pruning": taught[BOTH] > taught[RANDOM],
            "classifier: I is more accurate than random pruning": taught[RANKED] > taught[RANDOM],
            "DINOv2: I'-S-I is at least as accurate as I": right[BOTH] >= right[RANKED],
            "DINOv2: I is more accurate than random pruning": right[RANKED] > right[RANDOM],
            "DINOv2: the class token drifts no more by I'-S-I than by I": off[BOTH] <= off[RANKED],
            "DINOv2: it drifts less by I than by random pruning": off[RANKED] < off[RANDOM],
        },
        figure=f"at {SHARE} of the FLOPs, accuracy of the classifier: "
        + ", ".join(f"{method} {share:.3f}" for method, share in taught.items())
        + f"; DINOv2, accuracy and drift: {ALL} {right[ALL]:.3f}, "
        + ", ".join(f"{method} {right[method]:.3f} ({off[method]:.4f})" for method in METHODS),
        rows=named + rows,
        data="Fashion-MNIST on clutter: a ViT of 8 blocks trained on it at 48 pixels; frozen DINOv2-small, "
        "first 8 blocks, linear head, at 168 pixels",
        notes="The paper's models are ImageNet classifiers. For DINOv2, a head is taught on class tokens of "
        "300 training pictures with all tokens, and drift says what few pictures cannot. FLOPs are "
        "counted with those of choosing. All pruners work at the same blocks; ToMe merges at every "
        "one and is reported only. Seeds are disjoint test pictures.",
        draw=draw,
    )


def classifier(lab: Lab) -> list[dict[str, Any]]:
    """Accuracy of a small ViT that was trained on the clothes with all tokens, one a seed."""
    rows: list[dict[str, Any]] = []
    count = lab.some(1000, 50)
    example = clothes("test", torch.arange(1))[0]
    for seed in lab.seeds:
        model = trained_vit(seed, lab.some(1200, 3))
        layers = ZeroTPrune().layers(len(model.blocks))  # pyright: ignore[reportArgumentType]
        here = {"host": "classifier", "seed": seed}
        rows.append({**here, "method": ALL, "accuracy": accuracy(model, count)})
        for method, (reducer, options) in METHODS.items():
            where = None if method == TOME else layers
            with at_cost(model, reducer, SHARE, example, where, **options):
                rows.append({**here, "method": method, "accuracy": accuracy(model, count)})
    return rows
