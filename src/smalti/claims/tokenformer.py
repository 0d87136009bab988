"""TokenFormer: a small model that grows by parameter tokens is sooner there than a large one begun anew."""

from __future__ import annotations

from typing import Any

import torch

from smalti.backbones.tokenformer import TokenFormer, grow_model
from smalti.backbones.tokenformer_block import Pictures, TokenFormerConfig
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.pictures import POINT, Naming, PlainViT, clean, judged, learn, mean, of_features

SIDE, PATCH, DIM, HEADS, DEPTH = 28, 4, 48, 3, 3
SMALL, LARGE = (12, 12, 48), (48, 48, 192)
PARTS = (4, 2, 1)  # that the steps are divided by
GROWN, ANEW, STAYED, VIT = "grown", "large from nothing", "small, trained on", "ViT of as many parameters"
clothes = clean(SIDE)


def token_former(tokens: tuple[int, int, int]) -> TokenFormer:
    """Three blocks for pictures of 28 pixels."""
    return TokenFormer(
        TokenFormerConfig(DIM, DEPTH, HEADS, tokens, pictures=Pictures(SIDE, PATCH, classes=10))
    )


def vit() -> PlainViT:
    """A block more, for a TokenFormer's has more parameters at this width."""
    return PlainViT(SIDE, PATCH, DIM, DEPTH + 1, HEADS)


@torch.no_grad()
def change(model: TokenFormer, other: TokenFormer) -> float:
    """Largest difference between the logits of test pictures."""
    pictures = clothes("test", torch.arange(50))[0]
    return (of_features(model)(pictures) - of_features(other)(pictures)).abs().max().item()


def begun(name: str, small: TokenFormer) -> tuple[torch.nn.Module, Naming]:
    """A contender before its training, and its logits."""
    if name == VIT:
        plain = vit()
        return plain, plain.classify
    if name == ANEW:
        model = token_former(LARGE)
    elif name == GROWN:
        model = grow_model(small, LARGE)
    else:
        model = token_former(SMALL)
        model.load_state_dict(small.state_dict())
    return model, of_features(model)


@claim("tokenformer", minutes=4)
def tokenformer(lab: Lab) -> Finding:
    """A small model that is trained, then grown or trained on, and a large one from nothing."""
    rows: list[dict[str, Any]] = []
    steps, count = lab.some(400, 4), lab.some(2000, 20)
    plan = [(name, part) for part in PARTS for name in (GROWN, STAYED, ANEW) if part > 1 or name == ANEW]
    for seed in lab.seeds:
        torch.manual_seed(seed)
        small = token_former(SMALL)
        learn(small, of_features(small), clothes, steps, seed)
        rows += [
            {"tau": tau, "seed": seed, "change": change(small, grow_model(small, LARGE, tau))}
            for tau in ("fixed", "sqrt_n")
        ]
        for name, part in [*plan, (VIT, 1)]:
            torch.manual_seed(seed)
            model, naming = begun(name, small)
            learn(model, naming, clothes, steps // part, seed + 1000)
            accuracy, lost = judged(naming, clothes, count)
            rows.append({"model": name, "part": part, "seed": seed, "loss": lost, "accuracy": accuracy})

    def loss(name: str, part: int) -> float:
        return mean(rows, "loss", model=name, part=part)

    changes = {
        tau: max(row["change"] for row in rows if row.get("tau") == tau) for tau in ("fixed", "sqrt_n")
    }
    known = {name: mean(rows, "accuracy", model=name, part=1) for name in (ANEW, VIT)}
    quarter, half, all_steps = (steps // part for part in PARTS)

    def draw(axes: Any) -> None:
        for name in (GROWN, STAYED, ANEW):
            parts = [part for part in PARTS if (name, part) in plan]
            axes.plot(
                [steps // part for part in parts], [loss(name, part) for part in parts], "o-", label=name
            )
        axes.set(xlabel="steps (after those of the small model)", ylabel="cross-entropy of test pictures")
        axes.legend(fontsize=8)

    return Finding(
        statements={
            "growth at a fixed tau leaves the logits as they were (to 1e-4), with tau √n it does not": (
                changes["fixed"] < 1e-4 < changes["sqrt_n"]
            ),
            "a grown model is better after a quarter and a half of the steps than one from nothing": (
                loss(GROWN, 4) < loss(ANEW, 4) and loss(GROWN, 2) < loss(ANEW, 2)
            ),
            "after a quarter of the steps it is as good as one from nothing after all (loss to 2 %)": (
                loss(GROWN, 4) <= 1.02 * loss(ANEW, 1)
            ),
            "growing is better than training the small model on": all(
                loss(GROWN, part) < loss(STAYED, part) for part in (4, 2)
            ),
            "a TokenFormer comes within 1 point of a ViT of as many parameters": known[ANEW]
            >= known[VIT] - POINT,
        },
        figure=f"test loss after {quarter}, {half} steps: grown {loss(GROWN, 4):.3f}, {loss(GROWN, 2):.3f}; "
        f"small, trained on {loss(STAYED, 4):.3f}, {loss(STAYED, 2):.3f}; "
        f"from nothing {loss(ANEW, 4):.3f}, {loss(ANEW, 2):.3f}, after {all_steps} {loss(ANEW, 1):.3f}; "
        f"accuracy from nothing {known[ANEW]:.3f}, ViT {known[VIT]:.3f}; change of logits by growth "
        f"{changes['fixed']:.1e}, with tau √n {changes['sqrt_n']:.1e}",
        rows=rows,
        data="Fashion-MNIST, 28 pixels, 49 patches; every model trained here",
        notes=f"The paper grows language models of 124 M parameters to 1.4 B on OpenWebText; here pictures, "
        f"{token_former(SMALL).params():,} to {token_former(LARGE).params():,} parameters (the ViT: "
        f"{sum(p.numel() for p in vit().parameters()):,}). The small model was trained for {steps} steps; "
        "every training has its own warm-up and decay at the same rate, old and new parameters learning. "
        "The small model still gained by being trained on: its size may not yet be what holds it back.",
        draw=draw,
    )
