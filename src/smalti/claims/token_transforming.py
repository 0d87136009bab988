"""Token Transforming: sharing every token out loses less than merging, and that less than pruning."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.equal_cost import at_cost, counted_share
from smalti.claims.frozen import Frozen, class_tokens, drift, frozen_vit
from smalti.nn.flops import count_flops
from smalti.reducers.base import Context
from smalti.reducers.hosts import reduce
from smalti.reducers.reduction import Reduction
from smalti.reducers.token_transforming import TokenTransforming, TokenTransformingConfig

FLOPS = 0.6  # 40 % fewer
TEMPERATURES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
MIDDLE = 4  # block
ALL = "all tokens"
MANY, TOME, PRUNED, MERGED = "many-to-many", "ToMe", "class-attention pruning", "merging into the basis"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    MANY: ("token-transforming", {"mode": "many-to-many"}),
    TOME: ("tome", {}),
    PRUNED: ("token-transforming", {"mode": "prune"}),
    MERGED: ("token-transforming", {"mode": "merge"}),
    "pruning, one token fused": ("token-transforming", {"mode": "prune-fuse"}),
    "many-to-many, uniform basis": ("token-transforming", {"mode": "many-to-many", "basis": "uniform"}),
}


class Watched(TokenTransforming):
    """Token Transforming that notes how well its matrix and the way back rebuild the tokens."""

    def __init__(self, config: TokenTransformingConfig) -> None:
        super().__init__(config)
        self.errors: list[float] = []

    def _reduce(self, tokens: Float[Tensor, "b n d"], context: Context, count: int | None) -> Reduction:
        reduction = super()._reduce(tokens, context, count)
        self.errors.append(relative_error(tokens, reduction))
        return reduction


def relative_error(tokens: Float[Tensor, "b n d"], reduction: Reduction) -> float:
    """‖X − R W X‖² over ‖X − mean of X‖²: 1 is no better than knowing the mean of all tokens."""
    rebuilt = reduction.restore(reduction.apply(tokens))
    spread = (tokens - tokens.mean(1, keepdim=True)).square().sum()
    return ((tokens - rebuilt).square().sum() / spread).item()


@torch.no_grad()
def rebuilding(frozen: Frozen, config: TokenTransformingConfig, split: str, first: int, count: int) -> float:
    """Error of halving the tokens once, in the middle of the model."""
    watched = Watched(config)
    with reduce(frozen.model, watched, keep=0.5, layers=[MIDDLE]):
        class_tokens(frozen.model, frozen.pictures(split, first, count)[0], count)
    return watched.errors[-1]


@claim("token-transforming", minutes=5.0)
def token_transforming(lab: Lab) -> Finding:
    """What DINOv2-small, never trained for fewer tokens, still says at 40 % fewer FLOPs."""
    frozen, count, few = frozen_vit(lab), lab.some(150, 10), lab.some(20, 4)
    model = frozen.model
    example = frozen.pictures("test", 0, 1)[0]
    whole = count_flops(model, example)
    errors = {
        t: rebuilding(frozen, TokenTransformingConfig(temperature=t), "train", 0, few) for t in TEMPERATURES
    }
    sharp = min(errors, key=lambda t: errors[t])
    rows: list[dict[str, Any]] = [
        {"temperature": t, "error on training pictures": e} for t, e in errors.items()
    ]
    for seed in lab.seeds:
        for name, mode in ((MANY, "many-to-many"), (MERGED, "merge"), (PRUNED, "prune")):
            config = TokenTransformingConfig(mode=mode, temperature=sharp)
            error = rebuilding(frozen, config, "test", 1000 * seed, few)
            rows.append({"method": name, "seed": seed, "temperature": sharp, "error": error})
        pictures, labels = frozen.pictures("test", 1000 * seed, count)
        full = class_tokens(model, pictures)
        rows.append({"method": ALL, "seed": seed, "accuracy": frozen.accuracy(full, labels), "drift": 0.0})
        for name, (reducer, options) in METHODS.items():
            own = {"temperature": sharp} if options.get("mode") == "many-to-many" else {}
            with at_cost(model, reducer, FLOPS, example, **options, **own):
                found = class_tokens(model, pictures)
                counted = round(counted_share(model, example, whole), 3)
            here = {"method": name, "seed": seed, "counted": counted}
            rows.append({**here, "accuracy": frozen.accuracy(found, labels), "drift": drift(full, found)})

    def mean(field: str, name: str) -> float:
        found = [row[field] for row in rows if row.get("method") == name and field in row]
        return sum(found) / len(found)

    right = {name: mean("accuracy", name) for name in (ALL, *METHODS)}
    off = {name: mean("drift", name) for name in METHODS}
    error = {name: mean("error", name) for name in (MANY, MERGED, PRUNED)}

    def draw(axes: Any) -> None:
        axes.barh(list(off), list(off.values()))
        axes.invert_yaxis()
        axes.set(xlabel="drift of the class token (1 − cosine) at 40 % fewer FLOPs")

    return Finding(
        statements={
            "many-to-many loses no more accuracy than ToMe": right[MANY] >= right[TOME],
            "ToMe loses no more accuracy than class-attention pruning": right[TOME] >= right[PRUNED],
            "the class token drifts no more by many-to-many than by ToMe": off[MANY] <= off[TOME],
            "it drifts no more by ToMe than by class-attention pruning": off[TOME] <= off[PRUNED],
            "many-to-many rebuilds tokens better than merging into the same basis": (
                error[MANY] < error[MERGED]
            ),
            "merging into the basis rebuilds them better than pruning to it": error[MERGED] < error[PRUNED],
        },
        figure=f"at {FLOPS} of the FLOPs, accuracy and drift: {ALL} {right[ALL]:.3f}, "
        + ", ".join(f"{name} {right[name]:.3f} ({off[name]:.4f})" for name in METHODS)
        + "; error of rebuilding from half the tokens: "
        + ", ".join(f"{name} {value:.3f}" for name, value in error.items()),
        rows=rows,
        data="Fashion-MNIST on clutter at 168 pixels; frozen DINOv2-small, first 8 blocks, linear head",
        notes="No code was published, so this is our reconstruction. Of six temperatures, the one that "
        "rebuilds training pictures' tokens best is used. A head is taught on class tokens of 300 "
        "training pictures with all tokens; drift says what few pictures cannot. FLOPs are counted "
        "with those of choosing and of the matrices. ToMe merges at every block, the others at blocks "
        "2, 4 and 6 of 8. Errors are relative to the tokens' spread around their mean; pruned tokens "
        "come back as zeros. Seeds are disjoint pictures.",
        draw=draw,
    )
