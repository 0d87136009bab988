"""Token Transforming: sharing every token out loses less than merging, and that less than pruning."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.equal_cost import at_cost, counted_share
from smalti.claims.material import accuracy, clothes, trained_vit
from smalti.nn.flops import count_flops
from smalti.reducers.base import Context
from smalti.reducers.hosts import reduce
from smalti.reducers.reduction import Reduction
from smalti.reducers.token_transforming import TokenTransforming, TokenTransformingConfig

FLOPS = 0.6  # 40 % fewer
TEMPERATURES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
CHOSEN_ON = "train"  # pictures that choose the temperature; accuracy is told on the test split
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
def rebuilding(model: Any, config: TokenTransformingConfig, split: str, pictures: int) -> float:
    """Error of halving the tokens once, in the middle of a model."""
    watched = Watched(config)
    with reduce(model, watched, keep=0.5, layers=[len(model.blocks) // 2]):
        model(clothes(split, torch.arange(pictures))[0])
    return watched.errors[-1]


@claim("token-transforming", minutes=3.0)
def token_transforming(lab: Lab) -> Finding:
    """Accuracy of a small ViT, trained without reduction, and error of rebuilding its tokens."""
    rows: list[dict[str, Any]] = []
    pictures = lab.some(1000, 50)
    example = clothes("test", torch.arange(1))[0]
    for seed in lab.seeds:
        model = trained_vit(seed, lab.some(1200, 3))
        whole = count_flops(model, example)
        errors = {
            t: rebuilding(model, TokenTransformingConfig(temperature=t), CHOSEN_ON, lab.some(100, 10))
            for t in TEMPERATURES
        }
        rows += [{"seed": seed, "temperature": t, "error on training pictures": e} for t, e in errors.items()]
        sharp = min(errors, key=lambda t: errors[t])
        for name, mode in ((MANY, "many-to-many"), (MERGED, "merge"), (PRUNED, "prune")):
            config = TokenTransformingConfig(mode=mode, temperature=sharp)
            error = rebuilding(model, config, "test", lab.some(200, 10))
            rows.append({"method": name, "seed": seed, "temperature": sharp, "error": error})

        found = accuracy(model, pictures, min(pictures, 100))
        rows.append({"method": "all tokens", "seed": seed, "accuracy": found, "counted": 1.0})
        for name, (reducer, options) in METHODS.items():
            own = {"temperature": sharp} if options.get("mode") == "many-to-many" else {}
            with at_cost(model, reducer, FLOPS, example, **options, **own):
                found = accuracy(model, pictures, min(pictures, 100))
                counted = round(counted_share(model, example, whole), 3)
            rows.append({"method": name, "seed": seed, "accuracy": found, "counted": counted})

    def mean(field: str, name: str) -> float:
        found = [row[field] for row in rows if row.get("method") == name and field in row]
        return sum(found) / len(found)

    names = list(dict.fromkeys(row["method"] for row in rows if "accuracy" in row))
    whole_accuracy = mean("accuracy", "all tokens")
    loss = {name: whole_accuracy - mean("accuracy", name) for name in names[1:]}
    error = {name: mean("error", name) for name in (MANY, MERGED, PRUNED)}

    def draw(axes: Any) -> None:
        axes.barh(list(loss), [100 * value for value in loss.values()])
        axes.invert_yaxis()
        axes.set(xlabel="points of accuracy lost at 40 % fewer FLOPs")

    return Finding(
        statements={
            "many-to-many loses no more accuracy than ToMe": loss[MANY] <= loss[TOME],
            "ToMe loses no more accuracy than class-attention pruning": loss[TOME] <= loss[PRUNED],
            "many-to-many rebuilds tokens better than merging into the same basis": (
                error[MANY] < error[MERGED]
            ),
            "merging into the basis rebuilds them better than pruning to it": error[MERGED] < error[PRUNED],
        },
        figure=f"accuracy {whole_accuracy:.3f} with all tokens; points lost at {FLOPS} of FLOPs: "
        + ", ".join(f"{name} {100 * value:.1f}" for name, value in loss.items())
        + "; error of rebuilding from half the tokens: "
        + ", ".join(f"{name} {value:.3f}" for name, value in error.items()),
        rows=rows,
        data="Fashion-MNIST test pictures on clutter; ViT of 8 blocks trained on its training split",
        notes="No code was published, so this is our reconstruction. Of six temperatures, the one that "
        "rebuilds training pictures' tokens best is used. FLOPs are counted with those of choosing "
        "and of the matrices. ToMe merges at every block, the others at blocks 2, 4 and 6 of 8. "
        "Errors are relative to the tokens' spread around their mean, in the middle of the model; "
        "pruned tokens come back as zeros.",
        draw=draw,
    )
