"""Cluster-reconstruct: a frozen ViT on half its tokens, rebuilt from clusters, still marks the thing."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from smalti.claims.base import Finding, Lab, claim
from smalti.claims.material import SIDE, clothes, small_vit
from smalti.evaluation.pretrained import pretrained
from smalti.nn.flops import count_flops
from smalti.reducers.base import Context
from smalti.reducers.cluster_reconstruct import ClusterReconstruct, ClusterReconstructConfig
from smalti.reducers.hosts import reduce

GRID, LEFT = (1, 8, 8), 32  # of 64 patches
CLUSTERS, PRUNED, TOME = "clusters, rebuilt", "pruning, filled in", "ToMe, restored"


def rebuilt(tokens: Float[Tensor, "b n d"], count: int, **options: Any) -> Float[Tensor, "b n d"]:
    """Tokens of a 8 × 8 map after clustering and reconstruction with nothing between."""
    reducer = ClusterReconstruct(ClusterReconstructConfig(**options))
    reduction = reducer.reduce(tokens, Context(grid=GRID), count)
    return reduction.restore(reduction.apply(tokens))


def pooled(tokens: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b n d"]:
    """The same by average pooling and bilinear enlargement."""
    maps = tokens.mT.unflatten(2, GRID[1:])
    small = F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(small, GRID[1:], mode="bilinear", align_corners=False).flatten(2).mT


def error(tokens: Float[Tensor, "b n d"], other: Float[Tensor, "b n d"]) -> float:
    """Mean square, as a share of the tokens' variance over the map."""
    return ((tokens - other).square().sum() / (tokens - tokens.mean(1, keepdim=True)).square().sum()).item()


def miou(found: Bool[Tensor, "b n"], wanted: Bool[Tensor, "b n"]) -> float:
    """Intersection over union, mean of the thing and what is around it."""
    parts = [((a & b).sum() / (a | b).sum()).item() for a, b in ((found, wanted), (~found, ~wanted))]
    return sum(parts) / 2


def ridge(x: Float[Tensor, "k d"], y: Float[Tensor, "k"], penalty: float = 1e-3) -> Float[Tensor, "e"]:
    """A linear head with a bias, by least squares."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    square = x.T @ x / len(x)
    square += penalty * square.diagonal().mean() * torch.eye(x.shape[1])
    return torch.linalg.solve(square, x.T @ y.double() / len(x)).float()


def patches(model: Any, pictures: Float[Tensor, "b 3 s s"], block: int) -> Float[Tensor, "b n d"]:
    """Tokens of all patches after a block, restored where the model is reduced."""
    parts = [
        model.forward_intermediates(part, [block], output_fmt="NLC", intermediates_only=True)[0]
        for part in pictures.split(10)
    ]
    return torch.cat(parts)


@claim("cluster-reconstruct", minutes=6.0)
@torch.no_grad()
def cluster_reconstruct(lab: Lab) -> Finding:
    """Marks of the clothes by a linear head on frozen DINOv2-small with half its tokens after block 4."""
    model = small_vit().eval() if lab.quick else pretrained("dinov2-small")
    side = SIDE if lab.quick else GRID[1] * 14
    depth = len(model.blocks)
    after = depth // 3 - 1

    def material(split: str, first: int, count: int) -> tuple[Tensor, Tensor]:
        pictures, _, wanted = clothes(split, torch.arange(first, first + count))
        return F.interpolate(pictures * 4, (side, side), mode="bilinear", align_corners=False), wanted

    pictures, wanted = material("train", 0, lab.some(80, 8))
    head = ridge(patches(model, pictures, depth - 1).flatten(0, 1), wanted.flatten().float() * 2 - 1)

    half = [65] * after + [33] * (depth - after)
    example = pictures[:1]
    with reduce(model, "cluster-reconstruct", counts=half):
        model(example)
        spent = count_flops(model, example)
    whole = count_flops(model, example)
    share = sum(block_share(65 if i <= after else 33, model.embed_dim) for i in range(depth))
    share /= depth * block_share(65, model.embed_dim)
    methods: dict[str, tuple[str, dict[str, Any]]] = {
        CLUSTERS: ("cluster-reconstruct", {"counts": half}),
        "average pooling, rebuilt": ("cluster-reconstruct", {"counts": half, "iterations": 0}),
        PRUNED: ("composed", {"counts": half, "criterion": "attention", "strategy": "prune"}),
        TOME: ("tome", {"flops": share}),
        "ToMe at the same block": ("tome", {"counts": half}),
    }
    rows: list[dict[str, Any]] = []
    for seed in lab.seeds:
        pictures, wanted = material("test", 1000 * seed, lab.some(40, 4))
        early = patches(model, pictures, after)
        for iterations in (0, 1, 2, 5, 10):
            found = error(early, rebuilt(early, LEFT, iterations=iterations))
            rows.append({"seed": seed, "iterations": iterations, "error": found})
        rows.append(
            {"seed": seed, "iterations": "pooling, bilinear", "error": error(early, pooled(early, (8, 4)))}
        )

        def measure(
            name: str, cost: int, seed: int = seed, given: Tensor = pictures, truth: Tensor = wanted
        ) -> None:
            tokens = patches(model, given, depth - 1)
            marked = tokens @ head[:-1] + head[-1] > 0
            rows.append({"method": name, "seed": seed, "mIoU": miou(marked, truth), "share": cost / whole})

        measure("all tokens", whole)
        for name, (reducer, options) in methods.items():
            with reduce(model, reducer, **options):
                model(example)
                measure(name, count_flops(model, example))

    def mean(field: str, key: str, value: Any) -> float:
        found = [row[field] for row in rows if row.get(key) == value and field in row]
        return sum(found) / len(found)

    full = mean("mIoU", "method", "all tokens")
    drop = {name: full - mean("mIoU", "method", name) for name in methods}
    off = {n: mean("error", "iterations", n) for n in (0, 1, 2, 5, 10, "pooling, bilinear")}

    def draw(axes: Any) -> None:
        axes.barh(list(drop), [100 * value for value in drop.values()])
        axes.invert_yaxis()
        axes.set(xlabel=f"points of mIoU lost, of {100 * full:.1f}")

    return Finding(
        statements={
            "clusters with reconstruction lose less mIoU than pruning with fill-in": (
                drop[CLUSTERS] < drop[PRUNED]
            ),
            "they lose no more than ToMe with restoring at similar FLOPs": drop[CLUSTERS] <= drop[TOME],
            "5 iterations rebuild tokens better than none": off[5] < off[0],
            "adaptive clusters rebuild better than average pooling and bilinear enlargement": (
                off[5] < off["pooling, bilinear"]
            ),
        },
        figure=f"mIoU {full:.3f} with all tokens; lost at {spent / whole:.2f} of the FLOPs: "
        + ", ".join(f"{name} {value:.3f}" for name, value in drop.items())
        + "; error of rebuilding by iterations: "
        + ", ".join(f"{name} {value:.3f}" for name, value in off.items()),
        rows=rows,
        data="Fashion-MNIST on clutter at 112 pixels with masks; frozen DINOv2-small, tuned for saliency",
        notes=f"Half of 64 tokens go after block {after + 1} of {depth}. The head is least squares on the "
        "last block's patch tokens of training pictures with all tokens. ToMe merges at every block "
        "to the same FLOPs of the blocks, or all at the same block. Seeds are disjoint test pictures.",
        draw=draw,
    )


def block_share(tokens: int, dim: int) -> int:
    """Multiply-adds of a plain block."""
    return 12 * tokens * dim**2 + 2 * tokens**2 * dim
