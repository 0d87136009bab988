"""IA-RED²: interpreters learn to keep the one patch that matters, and show where it is."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from smalti.backbones.ia_red2 import IARed2ViT, IARed2ViTConfig, flops_share
from smalti.backbones.ia_red2_training import PolicyGradient, adaptation_loss, curriculum, open_for
from smalti.claims.base import Finding, Lab, claim
from smalti.nn.attention import received
from smalti.reducers.ia_red2 import IARed2Config
from smalti.training.corpora.fashion import fashion

PATCH, GRID, DECOYS = 7, 8, 12
BATCH = 64
PENALTY, BETA = 3.0, 0.9
PICTURES = 1000


@cache
def miniatures(split: str) -> tuple[Float[Tensor, "n 49"], Int[Tensor, "n"]]:
    """Clothes of 7 × 7 pixels and their labels."""
    whole, labels = fashion("train" if split == "train" else "test")
    return F.avg_pool2d(whole, 4).flatten(1), labels


def needles(
    split: str, index: Int[Tensor, "n"], seed: int
) -> tuple[Float[Tensor, "n 3 1 56 56"], Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Pictures of 8 × 8 patches of which one holds a miniature, their labels, and where it is.

    Twelve other patches hold miniatures whose pixels were shuffled, so brightness tells nothing; the
    others are noise.
    """
    small, labels = miniatures(split)
    generator = torch.Generator().manual_seed(seed)
    count = len(index)
    tiles = 0.3 * torch.rand(count, GRID**2, PATCH**2, generator=generator)
    where = torch.rand(count, GRID**2, generator=generator).argsort(1)[..., None]
    others = small[torch.randint(len(small), (count, DECOYS), generator=generator)]
    shuffled = others.gather(2, torch.rand(others.shape, generator=generator).argsort(2))
    tiles.scatter_(1, where[:, 1 : DECOYS + 1].expand(-1, -1, PATCH**2), shuffled)
    tiles.scatter_(1, where[:, :1].expand(-1, -1, PATCH**2), small[index][:, None])
    rows = tiles.view(count, GRID, GRID, PATCH, PATCH).transpose(2, 3)
    pixels = rows.reshape(count, 1, 1, GRID * PATCH, GRID * PATCH).expand(-1, 3, -1, -1, -1)
    return pixels, labels[index], where[:, 0, 0]


def above(scores: Float[Tensor, "b n"], wanted: Int[Tensor, "b"]) -> float:
    """Area under the curve for one wanted token a picture: the share of others that it scores above."""
    own = scores.gather(1, wanted[:, None])
    less, equal = (scores < own).float().sum(1), (scores == own).float().sum(1) - 1
    return ((less + equal / 2) / (scores.shape[1] - 1)).mean().item()


@torch.no_grad()
def right(
    model: IARed2ViT,
    pixels: Float[Tensor, "b 3 1 h w"],
    labels: Int[Tensor, "b"],
    policy: Any = None,
    active: int | None = None,
) -> float:
    """Share of pictures that a model names rightly under a policy, the greedy one when not given."""
    return (model.run(pixels, policy, active).logits.argmax(-1) == labels).float().mean().item()


@torch.no_grad()
def class_attention(model: IARed2ViT, pixels: Float[Tensor, "b 3 1 h w"]) -> list[Float[Tensor, "b n"]]:
    """What every patch receives from the class token in every block, mean over heads."""
    x, found = model.embed(pixels), []
    for block in model.blocks:
        q, k, _ = block.attn.split(block.norm1(x))
        found.append(received(q, k, q.shape[-1] ** -0.5)[:, 1:])
        x = block(x)
    return found


def pretrain(model: IARed2ViT, steps: int, seed: int) -> None:
    """Teach the backbone on whole pictures."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps)
        pixels, labels, _ = needles("train", _drawn(generator), seed * 100_003 + step)
        optimizer.zero_grad()
        F.cross_entropy(model.run(pixels, active=-1).logits, labels).backward()
        optimizer.step()


def learn(model: IARed2ViT, policy_steps: int, adapt_steps: int, seed: int) -> None:
    """The curriculum: each interpreter by policy gradient, then the blocks behind it."""
    generator = torch.Generator().manual_seed(seed + 1)
    objective = PolicyGradient(PENALTY, BETA)
    for number, phase in enumerate(curriculum(model.config.reducer.groups)):
        policy = phase.kind == "policy"
        optimizer = torch.optim.AdamW(open_for(model, phase), 2e-3 if policy else 5e-4)
        for step in range(policy_steps if policy else adapt_steps):
            chosen = needles("train", _drawn(generator), seed * 100_003 + 10_000 * (number + 1) + step)
            loss = (
                objective.loss(model, *chosen[:2], phase.group, generator)[0]
                if policy
                else adaptation_loss(model, *chosen[:2], phase.group)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _drawn(generator: torch.Generator) -> Int[Tensor, "n"]:
    return torch.randint(60_000, (BATCH,), generator=generator)


def by_chance(kept: tuple[Bool[Tensor, "b n"], ...], seed: int) -> Any:
    """A policy that keeps as many random patches of every picture, nested likewise, as those masks do."""
    order = torch.rand(kept[0].shape, generator=torch.Generator().manual_seed(seed))
    rank = order[:, 1:].argsort(1).argsort(1)

    def policy(scores: Tensor, alive: Tensor, group: int) -> Tensor:
        chosen = rank < kept[group][:, 1:].sum(1, keepdim=True)
        return torch.cat([torch.ones_like(chosen[:, :1]), chosen], 1)

    return policy


@claim("ia-red2", minutes=6.0)
def ia_red2(lab: Lab) -> Finding:
    """What interpreters keep of pictures with one informative patch, and how well they point at it."""
    rows: list[dict[str, Any]] = []
    steps = (lab.some(400, 2), lab.some(120, 2), lab.some(60, 2))
    for seed in lab.seeds:
        torch.manual_seed(seed)
        config = IARed2Config(dim=48, heads=4, depth=4, groups=2)
        model = IARed2ViT(IARed2ViTConfig(config, size=GRID * PATCH, patch=PATCH, heads=4, classes=10))
        pretrain(model, steps[0], seed)
        pixels, labels, where = needles("test", torch.arange(lab.some(PICTURES, 50)), 10**6 + seed)

        full = right(model, pixels, labels, active=-1)
        attention = [above(scores, where) for scores in class_attention(model, pixels)]
        before = {name: value.clone() for name, value in model.state_dict().items()}
        learn(model, steps[1], steps[2], seed)
        with torch.no_grad():
            run = model.run(pixels)
        found = right(model, pixels, labels)
        drop = by_chance(run.alive, seed)
        chance = [right(model, pixels, labels, drop)]
        model.load_state_dict(before)
        chance.append(right(model, pixels, labels, drop))
        rows.append(
            {
                "seed": seed,
                "accuracy, all patches": full,
                "accuracy, interpreters": found,
                "accuracy, random": max(chance),
                "patches kept": [alive[:, 1:].float().mean().item() for alive in run.alive],
                "informative kept": [
                    alive[:, 1:].gather(1, where[:, None]).float().mean().item() for alive in run.alive
                ],
                "share of FLOPs": flops_share(run.alive, config.sizes).mean().item(),
                "AUC, interpreters": [above(scores[:, 1:], where) for scores in run.scores],
                "AUC, class attention": attention,
            }
        )

    def mean(field: str, place: int | None = None) -> float:
        found = [row[field] if place is None else row[field][place] for row in rows]
        return sum(found) / len(found)

    whole, own, drawn = (mean(f"accuracy, {name}") for name in ("all patches", "interpreters", "random"))
    kept, informative = mean("patches kept", 0), mean("informative kept", -1)
    pointing, raw = mean("AUC, interpreters", 0), mean("AUC, class attention", -1)
    best = max(mean("AUC, class attention", block) for block in range(4))

    def draw(axes: Any) -> None:
        bars = {
            "all patches": whole,
            "interpreters": own,
            "random, as many": drawn,
            "informative patch kept": informative,
            "AUC of interpreters": pointing,
            "AUC of class attention": raw,
        }
        axes.barh(list(bars), list(bars.values()), color=["tab:blue"] * 3 + ["tab:green"] * 3)
        axes.invert_yaxis()
        axes.set(xlabel=f"accuracy (blue), share or AUC (green); {kept:.0%} of the patches kept", xlim=(0, 1))

    return Finding(
        statements={
            "at least 40 % of the patches are dropped": kept <= 0.6,
            "the informative patch is kept in more than 95 % of pictures by both groups": informative > 0.95,
            "accuracy falls by less than 2 points": own > whole - 0.02,
            "as many random patches cost at least 10 points more": drawn <= own - 0.1,
            "scores point at the informative patch better than the last block's class attention": pointing
            > raw,
        },
        figure=f"accuracy {whole:.3f} with all patches, {own:.3f} with {kept:.0%} of them "
        f"({mean('share of FLOPs'):.0%} of FLOPs), {drawn:.3f} with as many random; informative one kept in "
        f"{informative:.1%}; AUC {pointing:.3f}, of class attention {raw:.3f} in the last block, "
        f"{best:.3f} in the best",
        rows=rows,
        data="Fashion-MNIST miniatures, one a picture, among 12 with shuffled pixels and 51 patches of noise",
        notes="The paper's models are DeiTs on ImageNet; here 4 blocks of 48 channels in two groups. Random "
        "patches are tried on the backbone before and after it adapts, and the better counts. AUC is "
        "that of the first group's scores, and of the last block's attention before interpreters were "
        "trained.",
        draw=draw,
    )
