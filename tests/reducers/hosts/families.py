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


def hugging(name: str, *, config: str = "", attention: str = "sdpa", **changes) -> nn.Module:
    """A tiny model of transformers, by the names of its class and its configuration."""
    import transformers

    options = {
        "image_size": 64,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_labels": 5,
    }
    options = {**options, **changes}
    made = getattr(transformers, config or name)(**options)
    made._attn_implementation = attention
    return getattr(transformers, name)(made)


def dino(name: str, **changes) -> nn.Module:
    config = "Dinov2WithRegistersConfig" if "Registers" in name else "Dinov2Config"
    return hugging(name, config=config, mlp_ratio=2, layerscale_value=0.5, **changes)


def two_towers(name: str, **changes) -> nn.Module:
    """CLIP or SigLIP with a text tower."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    vision = {**sizes, "image_size": 64, "patch_size": 8}
    text = {**sizes, "vocab_size": 99, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 1}
    config = getattr(transformers, f"{name.partition('Model')[0].partition('For')[0]}Config")
    projection = {"projection_dim": 16} if name.startswith("CLIP") else {}
    made = config(text_config={**text, "pad_token_id": 0}, vision_config=vision, **projection, **changes)
    return getattr(transformers, name)(made)


VIDEO = {"image_size": 32, "num_frames": 4}

TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: hugging("ViTForImageClassification", config="ViTConfig"),
    "vit-bare": lambda: hugging("ViTModel", config="ViTConfig"),
    "vit-eager": lambda: hugging("ViTForImageClassification", config="ViTConfig", attention="eager"),
    "deit": lambda: hugging("DeiTForImageClassificationWithTeacher", config="DeiTConfig"),
    "deit-bare": lambda: hugging("DeiTModel", config="DeiTConfig"),
    "dinov2": lambda: dino("Dinov2ForImageClassification"),
    "dinov2-swiglu": lambda: dino("Dinov2ForImageClassification", use_swiglu_ffn=True),
    "dinov2-bare": lambda: dino("Dinov2Model"),
    "dinov2-registers": lambda: dino("Dinov2WithRegistersForImageClassification", num_register_tokens=3),
    "dinov3": lambda: hugging(
        "DINOv3ViTModel", config="DINOv3ViTConfig", num_register_tokens=4, pos_embed_rescale=None
    ),
    "clip": lambda: hugging("CLIPVisionModel", config="CLIPVisionConfig"),
    "clip-eager": lambda: hugging("CLIPVisionModel", config="CLIPVisionConfig", attention="eager"),
    "clip-projected": lambda: hugging("CLIPVisionModelWithProjection", config="CLIPVisionConfig"),
    "clip-classifier": lambda: two_towers("CLIPForImageClassification", num_labels=5),
    "siglip": lambda: hugging("SiglipVisionModel", config="SiglipVisionConfig"),
    "siglip-eager": lambda: hugging("SiglipVisionModel", config="SiglipVisionConfig", attention="eager"),
    "siglip-classifier": lambda: two_towers("SiglipForImageClassification", num_labels=5),
    "videomae": lambda: hugging("VideoMAEForVideoClassification", config="VideoMAEConfig", **VIDEO),
    "videomae-eager": lambda: hugging(
        "VideoMAEForVideoClassification", config="VideoMAEConfig", attention="eager", **VIDEO
    ),
    "videomae-first": lambda: hugging(
        "VideoMAEForVideoClassification", config="VideoMAEConfig", use_mean_pooling=False, **VIDEO
    ),
    "videomae-bare": lambda: hugging("VideoMAEModel", config="VideoMAEConfig", **VIDEO),
    "vivit": lambda: hugging(
        "VivitForVideoClassification", config="VivitConfig", tubelet_size=[2, 8, 8], **VIDEO
    ),
}


def clip_tower(**changes) -> nn.Module:
    from open_clip.transformer import VisionTransformer

    options = {"image_size": 64, "patch_size": 8, "width": 32, "layers": 4, "heads": 4, "mlp_ratio": 2.0}
    return VisionTransformer(**{**options, "output_dim": 16, **changes})


def batch_second() -> nn.Module:
    """A tower whose blocks see tokens first, as those of older versions."""
    model = clip_tower()
    model.transformer.batch_first = False
    for block in model.transformer.resblocks:
        block.attn.batch_first = False
    return model


def clip_model(vision: dict | None = None) -> nn.Module:
    from open_clip.model import CLIP

    vision = {"image_size": 64, "patch_size": 8, "width": 64, "layers": 4, "head_width": 16, **(vision or {})}
    text = {"context_length": 8, "vocab_size": 99, "width": 32, "heads": 4, "layers": 2}
    return CLIP(16, vision, text)


OPEN_CLIP: dict[str, Callable[[], nn.Module]] = {
    "tower": clip_tower,
    "batch-second": batch_second,
    "layer-scale": lambda: clip_tower(ls_init_value=0.5),
    "average": lambda: clip_tower(pool_type="avg"),
    "average-then-norm": lambda: clip_tower(pool_type="avg", final_ln_after_pool=True),
    "attention-pool": lambda: clip_tower(attentional_pool=True, attn_pooler_queries=6, attn_pooler_heads=4),
    "parallel-pools": lambda: clip_tower(
        attentional_pool="parallel", attn_pooler_queries=6, attn_pooler_heads=4, output_dim=32
    ),
    "cascaded-pools": lambda: clip_tower(
        attentional_pool="cascade", attn_pooler_queries=6, attn_pooler_heads=4, output_dim=32
    ),
    "custom": lambda: clip_tower(block_type="custom", qk_norm=True, scale_heads=True, scale_attn=True),
    "model": clip_model,
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
