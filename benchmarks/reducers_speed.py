"""How much of the arithmetic saved by reducers becomes time saved: the share of the FLOPs bound.

    python benchmarks/reducers_speed.py [--threads 1] [-o results/benchmarks/reducers_speed.json]

Every reducer at keep 0.5 in timm's ViT-S/14 (DINOv2; 256 and 1,369 patches) and ViT-B/16, random weights,
batch 1 and 8. Share = (time of the whole model ÷ time of the reduced one) ÷ (its FLOPs ÷ theirs); 1 is the bound.
Runs alternate between both, and medians of processor time are compared.
"""

from __future__ import annotations

MODELS = {
    "vit_small_patch14_dinov2, 256 patches": ("vit_small_patch14_dinov2", 224),
    "vit_small_patch14_dinov2, 1369 patches": ("vit_small_patch14_dinov2", 518),
    "vit_base_patch16_224": ("vit_base_patch16_224", 224),
}
