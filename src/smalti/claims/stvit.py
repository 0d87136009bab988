"""STViT: sixteen semantic tokens do the work of all; sixteen of the picture's own do not."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.stvit import STViT, STViTConfig
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.material import BATCH, PATCH, SIDE, clothes, small_vit
from smalti.nn.flops import count_flops
from smalti.reducers.hosts import reduce

GRID, FEW = SIDE // PATCH, 4  # patches and semantic tokens a side
DIM, HEADS, DEPTH, BASE = 48, 3, 6, 2
FULL, BOTH, SPATIAL, PRUNED = (
    "all 64 tokens",
    "16 semantic tokens",
    "16, spatial centres only",
    "16 by class attention",
)


def semantic_vit(**changes: Any) -> STViT:
    """Two plain blocks on 64 tokens, two that make 16 semantic ones, two on those."""
    options: dict[str, Any] = {
        "dim": DIM,
        "heads": HEADS,
        "depth": DEPTH,
        "base": BASE,
        "side": FEW,
        "patch": PATCH,
    }
    return STViT(STViTConfig(**{**options, "image_size": SIDE, "classes": 10, "drop_path": 0.0, **changes}))


def plain_vit() -> nn.Module:
    """The same size without semantic tokens, but with a class token that says which tokens matter."""
    return small_vit(embed_dim=DIM, depth=DEPTH, num_heads=HEADS)


def look(model: nn.Module, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
    """Logits of either kind of model."""
    return model(pictures[:, :, None] + 0.5) if isinstance(model, STViT) else model(pictures)


def marks(model: STViT, pictures: Float[Tensor, "b 3 h w"], recovered: bool) -> Float[Tensor, "b n"]:
    """A logit for every patch: of recovered tokens, or of semantic ones enlarged to the patches' grid."""
    tokens = model.features(pictures[:, :, None] + 0.5, dense=recovered)
    found = model.head(tokens)[..., 0]
    if recovered:
        return found
    small = found.unflatten(1, (1, FEW, FEW))
    return F.interpolate(small, (GRID, GRID), mode="bilinear", align_corners=False).flatten(1)


def train(model: nn.Module, steps: int, seed: int, objective: Any, rate: float = 2e-3) -> nn.Module:
    """AdamW with a short warm-up and linear decay, the same pictures for every model of a seed."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 40) * (1 - step / steps)
        pictures, labels, mask = clothes("train", torch.randint(60_000, (BATCH,), generator=generator), seed)
        optimizer.zero_grad()
        objective(model, pictures, labels, mask).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def told(model: nn.Module, count: int) -> float:
    """Share of test pictures that a model names rightly."""
    pictures, labels, _ = clothes("test", torch.arange(count))
    found = torch.cat([look(model, part).argmax(-1) for part in pictures.split(100)])
    return (found == labels).float().mean().item()


@torch.no_grad()
def overlap(model: STViT, count: int, recovered: bool) -> float:
    """Intersection over union of the patches that a model marks with those that hold the thing."""
    pictures, _, wanted = clothes("test", torch.arange(count))
    found = marks(model, pictures, recovered) > 0
    return ((found & wanted).sum() / (found | wanted).sum()).item()


def naming(model: nn.Module, pictures: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the label."""
    return F.cross_entropy(look(model, pictures), labels)


@claim("stvit", minutes=9.0)
def stvit(lab: Lab) -> Finding:
    """Small ViTs trained from nothing for equally many steps, and semantic tokens in a dense task."""
    rows: list[dict[str, Any]] = []
    steps, count = lab.some(300, 2), lab.some(1000, 20)
    example = clothes("test", torch.arange(1))[0]
    whole = count_flops(look, plain_vit().eval(), example)
    fewer = [GRID**2 + 1] * (BASE - 1) + [FEW**2 + 1] * (DEPTH - BASE + 1)
    for seed in lab.seeds:

        def compare(name: str, model: nn.Module, seed: int = seed) -> nn.Module:
            train(model, steps, seed, naming)
            spent = count_flops(look, model, example) / whole
            rows.append(
                {"method": name, "seed": seed, "accuracy": told(model, count), "share": round(spent, 3)}
            )
            return model

        torch.manual_seed(seed)
        compare(FULL, plain_vit())
        model = plain_vit()
        with reduce(model, "composed", counts=fewer, criterion="attention", strategy="prune"):
            compare(PRUNED, model)
        compare(BOTH, semantic_vit())
        compare(SPATIAL, semantic_vit(global_centres=False))
        for recovered in (True, False):

            def marking(
                model: Any, pictures: Tensor, labels: Tensor, mask: Tensor, by: bool = recovered
            ) -> Tensor:
                return F.binary_cross_entropy_with_logits(marks(model, pictures, by), mask.float())

            dense = semantic_vit(classes=1, recover=recovered)
            train(dense, steps // 2, seed, marking)
            found = overlap(dense, min(count, 500), recovered)
            rows.append({"method": "recovered" if recovered else "enlarged", "seed": seed, "IoU": found})

    def mean(field: str, name: str) -> float:
        found = [row[field] for row in rows if row["method"] == name]
        return sum(found) / len(found)

    told_by = {name: mean("accuracy", name) for name in (FULL, BOTH, SPATIAL, PRUNED)}
    overlaps = {name: mean("IoU", name) for name in ("recovered", "enlarged")}
    cost = {name: mean("share", name) for name in told_by}

    def draw(axes: Any) -> None:
        bars = {**told_by, **{f"IoU, {name}": value for name, value in overlaps.items()}}
        axes.barh(list(bars), list(bars.values()), color=["tab:blue"] * len(told_by) + ["tab:green"] * 2)
        axes.invert_yaxis()
        axes.set(xlabel="accuracy (blue), intersection over union (green)", xlim=(0, 1))

    return Finding(
        statements={
            "16 semantic tokens come within 2 points of all tokens": told_by[BOTH] >= told_by[FULL] - 0.02,
            "16 tokens by class attention are at least 2 points worse than 16 semantic ones": (
                told_by[PRUNED] <= told_by[BOTH] - 0.02
            ),
            "spatial and global centres are at least as good as spatial ones": told_by[BOTH]
            >= told_by[SPATIAL],
            "recovery marks patches better by at least 5 points than enlarged semantic tokens": (
                overlaps["recovered"] >= overlaps["enlarged"] + 0.05
            ),
        },
        figure="accuracy "
        + ", ".join(f"{name} {value:.3f} (FLOPs {cost[name]:.2f})" for name, value in told_by.items())
        + f"; IoU recovered {overlaps['recovered']:.3f}, enlarged {overlaps['enlarged']:.3f}",
        rows=rows,
        data="Fashion-MNIST on clutter, 48 pixels, 64 patches; every model trained from nothing",
        notes=f"The paper trains DeiTs on ImageNet for 300 epochs; here 6 blocks of {DIM} channels for "
        f"{steps} steps of {BATCH} pictures. Tokens are pruned in training, too, after the block where "
        "semantic ones begin. STViT pools its last tokens by their mean, the others read a class "
        "token.",
        draw=draw,
    )
