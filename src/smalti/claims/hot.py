"""HoT: a pose transformer that works on a third of the frames in its middle lifts as well as on all."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smalti.backbones.hot import HoT, HoTConfig
from smalti.backbones.pose import MixSTEConfig, pose_loss
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.motions import JOINTS, cameras, recorded, swinging
from smalti.nn.flops import count_flops
from smalti.reducers.hot import HoTConfig as Selection

FRAMES, KEPT, STEPS, BATCH = 27, 9, 250, 12
HOST = MixSTEConfig(frames=FRAMES, joints=JOINTS, dim=32, depth=4, heads=2, hidden=64, drop_path=0.0)
UNPRUNED, HOT = "all frames", "HoT"
UNIFORM, NEAREST = "evenly spaced, linear in time", "DPC-kNN, nearest in time"
LEARNED_UNIFORM = "evenly spaced, learned recovery"
MODELS = {
    UNPRUNED: HoTConfig(HOST, tokens=None),
    HOT: HoTConfig(HOST, tokens=KEPT, layer=1),
    UNIFORM: HoTConfig(HOST, KEPT, 1, recover="linear", selection=Selection(selection="uniform")),
    NEAREST: HoTConfig(HOST, KEPT, 1, recover="nearest"),
    LEARNED_UNIFORM: HoTConfig(HOST, KEPT, 1, selection=Selection(selection="uniform")),
}


def mpjpe(poses: Float[Tensor, "b f n 3"], truth: Float[Tensor, "b f n 3"]) -> float:
    """Mean distance of joints in millimetres, roots at the origin."""
    return 1000 * (poses - truth).norm(dim=-1).mean().item()


def trained(config: HoTConfig, motions: list[Any], steps: int, seed: int) -> HoT:
    """A lifter trained from nothing on windows seen by random cameras, by the paper's loss."""
    torch.manual_seed(seed)
    model = HoT(config)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed + 1)
    for _ in range(steps):
        pictured, truth = cameras(motions, BATCH, FRAMES, generator)
        loss = pose_loss(model(pictured).poses, truth, weights=(1.0,) * JOINTS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def official_share() -> float:
    """Multiply-adds of MixSTE with HoT as a share of those without, at the official sizes."""
    costs = []
    for config in (HoTConfig(), HoTConfig(tokens=None)):
        with torch.device("meta"):
            model = HoT(config).eval()
            index = torch.arange(config.tokens)[None] if config.tokens else None
            costs.append(count_flops(model, torch.zeros(1, 243, 17, 2), index))
    return costs[0] / costs[1]


@claim("hot", minutes=4.0)
def hot(lab: Lab) -> Finding:
    """Errors from unseen cameras, and multiply-adds, of lifters that differ in their middle alone."""
    motions = list((swinging(2) if lab.quick else recorded()).values())
    seen = torch.Generator().manual_seed(1000)
    pictured, truth = cameras(motions, lab.some(256, 4), FRAMES, seen)
    rows = []
    for name, config in MODELS.items():
        cost = count_flops(HoT(config).eval(), pictured[:1])
        for seed in lab.seeds:
            model = trained(config, motions, lab.some(STEPS, 2), seed)
            with torch.no_grad():
                error = mpjpe(torch.cat([model(part).poses for part in pictured.split(32)]), truth)
            rows.append({"method": name, "seed": seed, "mpjpe": error, "multiply-adds": cost})

    def mean(method: str) -> float:
        found = [row["mpjpe"] for row in rows if row["method"] == method]
        return sum(found) / len(found)

    def cost(method: str) -> int:
        return next(row["multiply-adds"] for row in rows if row["method"] == method)

    def draw(axes: Any) -> None:
        for name in MODELS:
            axes.plot(cost(name) / 1e6, mean(name), "o", label=name)
        axes.set(xlabel="million multiply-adds a sequence", ylabel="MPJPE in millimetres")
        axes.legend(fontsize=8)

    official = official_share()
    return Finding(
        statements={
            "HoT's error is at most 5 % above that with all frames": mean(HOT) <= 1.05 * mean(UNPRUNED),
            "HoT is better than evenly spaced frames with linear interpolation": mean(HOT) < mean(UNIFORM),
            "learned recovery is better than the nearest frame": mean(HOT) < mean(NEAREST),
            "at the official sizes HoT saves 35 to 45 % of the multiply-adds": 0.55 <= official <= 0.65,
        },
        figure="MPJPE in mm: "
        + ", ".join(
            f"{name} {mean(name):.1f} ({cost(name) / cost(UNPRUNED):.0%} of the cost)" for name in MODELS
        )
        + f"; {official:.0%} of the cost at the official sizes",
        rows=rows,
        data="15 recorded motions of DeepMimic in windows of 27 frames, 0.9 s, from random cameras and "
        "tempos; tested on other cameras, starts and tempos of the same motions",
        notes=f"MixSTE of 4 steps, 32 wide, {STEPS} steps of training; 9 of 27 frames before the second "
        "step; no weights of joints in the loss. The paper trains on Human3.6M with 243 frames, for 160 "
        "epochs.",
        draw=draw,
    )
