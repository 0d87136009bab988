"""Tiny models of every family that a host knows, with random weights."""

from collections.abc import Callable

import torch
from torch import nn


def vit(**changes) -> nn.Module:
    import timm

    options = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4, "num_classes": 5}
    return timm.models.vision_transformer.VisionTransformer(**{**options, **changes})


def distilled() -> nn.Module:
    import timm

    return timm.models.deit.VisionTransformerDistilled(
        img_size=64, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=5
    )


def eva(**changes) -> nn.Module:
    import timm

    options = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4, "num_classes": 5}
    return timm.models.eva.Eva(**{**options, **changes})


TIMM: dict[str, Callable[[], nn.Module]] = {
    "vit": vit,
    "deit": lambda: vit(class_token=True),
    "deit-distilled": distilled,
    "deit3": lambda: vit(no_embed_class=True, init_values=1e-1),
    "dinov2": lambda: vit(init_values=0.5),
    "dinov2-registers": lambda: vit(init_values=0.5, reg_tokens=4, no_embed_class=True),
    "clip": lambda: vit(pre_norm=True),
    "siglip": lambda: vit(class_token=False, global_pool="map"),
    "siglip-gap": lambda: vit(class_token=False, global_pool="avg"),
    "vit-unfused": lambda: unfused(vit()),
    "eva": lambda: eva(),
    "eva-rope": lambda: eva(use_rot_pos_emb=True),
    "dinov3": lambda: eva(use_abs_pos_emb=False, use_rot_pos_emb=True, num_reg_tokens=4, init_values=0.5),
    "eva-avg": lambda: eva(global_pool="avg"),
}


def unfused(model: nn.Module) -> nn.Module:
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model whose parameters are all alive: what starts at zero is drawn too."""
    torch.manual_seed(seed)
    model = make().eval()
    for parameter in model.parameters():
        if parameter.std(correction=0) < 1e-3 or parameter.ndim == 1:
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
        else:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.1)
    return model
