"""The vision towers of transformers that are known: where they keep things, and layers with tokens leaving.

```
norm ► attention ► + ► step ► norm ► mlp ► +
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def _vit_forward(
    layer: Any, hidden_states: Float[Tensor, "b n d"], attention_mask: Tensor | None = None, **options: Any
) -> Float[Tensor, "b m d"]:
    attended, _ = layer.attention(layer.layernorm_before(hidden_states), attention_mask, **options)
    x = layer.smalti.step(hidden_states + layer.dropout(attended))
    return x + layer.dropout(layer.mlp(layer.layernorm_after(x)))


def _dino_forward(
    layer: Any, hidden_states: Float[Tensor, "b n d"], attention_mask: Tensor | None = None, **options: Any
) -> Float[Tensor, "b m d"]:
    attended, _ = layer.attention(layer.norm1(hidden_states), attention_mask=attention_mask, **options)
    x = layer.smalti.step(hidden_states + layer.drop_path(layer.layer_scale1(attended)))
    return x + layer.drop_path(layer.layer_scale2(layer.mlp(layer.norm2(x))))


def _clip_forward(
    layer: Any, hidden_states: Float[Tensor, "b n d"], attention_mask: Tensor | None = None, **options: Any
) -> Float[Tensor, "b m d"]:
    attended, _ = layer.self_attn(
        hidden_states=layer.layer_norm1(hidden_states), attention_mask=attention_mask, **options
    )
    x = layer.smalti.step(hidden_states + attended)
    return x + layer.mlp(layer.layer_norm2(x))


def _videomae_forward(
    layer: Any, hidden_states: Float[Tensor, "b n d"], **options: Any
) -> Float[Tensor, "b m d"]:
    attended = layer.attention(layer.layernorm_before(hidden_states), **options)
    x = layer.smalti.step(hidden_states + attended)
    return layer.output(layer.intermediate(layer.layernorm_after(x)), x)


def videomae_attention(
    attention: Any, hidden_states: Float[Tensor, "b n d"]
) -> tuple[Float[Tensor, "b n d"], Tensor | None]:
    """VideoMAE's attention, which has no place for a mask, with one."""
    from transformers.models.videomae.modeling_videomae import eager_attention_forward

    names = ("query", "key", "value")
    q, k, v = (
        getattr(attention, name)(hidden_states)
        .unflatten(-1, (-1, attention.attention_head_size))
        .transpose(1, 2)
        for name in names
    )
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, eager_attention_forward
    )
    context, weights = attend(
        attention,
        q,
        k,
        v,
        attention.smalti.bias,
        is_causal=False,
        scaling=attention.scaling,
        dropout=attention.dropout_prob if attention.training else 0.0,
    )
    return context.flatten(2), weights


@dataclass(frozen=True)
class Family:
    """Attributes:
    layers: where a tower keeps its layers.
    attention: where a layer keeps the module that projects queries and keys.
    forward: a layer with tokens leaving inside.
    query, key: names of the projections.
    takes_mask: layers are given a mask.
    """

    layers: str
    attention: str
    forward: Callable[..., Tensor]
    query: str = "q_proj"
    key: str = "k_proj"
    takes_mask: bool = True


VIT = Family("layers", "attention", _vit_forward)
DINOV2 = Family("encoder.layer", "attention", _dino_forward)
DINOV3 = Family("model.layer", "attention", _dino_forward)
CLIP = Family("encoder.layers", "self_attn", _clip_forward)
VIDEOMAE = Family("encoder.layer", "attention.attention", _videomae_forward, "query", "key", takes_mask=False)

TOWERS = {
    "ViTModel": VIT,
    "DeiTModel": VIT,
    "VivitModel": VIT,
    "Dinov2Model": DINOV2,
    "Dinov2Backbone": DINOV2,
    "Dinov2WithRegistersModel": DINOV2,
    "Dinov2WithRegistersBackbone": DINOV2,
    "DINOv3ViTModel": DINOV3,
    "DINOv3ViTBackbone": DINOV3,
    "CLIPVisionModel": CLIP,
    "SiglipVisionModel": CLIP,
    "VideoMAEModel": VIDEOMAE,
}
# heads that take a mean over tokens, and the module that is given it
MEANS = {
    "Dinov2ForImageClassification": "classifier",
    "Dinov2WithRegistersForImageClassification": "classifier",
    "CLIPForImageClassification": "classifier",
    "SiglipForImageClassification": "classifier",
    "VideoMAEForVideoClassification": "fc_norm",
}
TASKS = (
    *MEANS,
    "ViTForImageClassification",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "VivitForVideoClassification",
    "CLIPModel",
    "CLIPVisionModelWithProjection",
    "SiglipModel",
)
DENSE = (
    "Dinov2Backbone",
    "Dinov2WithRegistersBackbone",
    "DINOv3ViTBackbone",
    "ViTForMaskedImageModeling",
    "DeiTForMaskedImageModeling",
    "VideoMAEForPreTraining",
)


def kind(module: nn.Module, names: Iterable[str]) -> str:
    """The first of a module's classes that transformers defines under one of these names, or nothing."""
    found = (
        cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("transformers.models.")
    )
    return next((name for name in found if name in names), "")
