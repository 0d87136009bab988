"""The names that CDT's authors give to weights, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from smalti.nn.strict_loading import renamed

RULES = (
    (r"^model\.", ""),
    (r"^context_fn\.enc\.(\d+)\.0\.", r"encoder.levels.\1.block."),
    (r"^context_fn\.enc\.(\d+)\.1\.conv\.", r"encoder.levels.\1.space."),
    (r"^context_fn\.enc\.(\d+)\.2\.conv\.", r"encoder.levels.\1.time."),
    (r"^context_fn\.quant_conv\.", "encoder.direct."),
    (r"^context_fn\.quant_conv_res\.", "encoder.chain."),
    (r"^context_fn\.post_quant_conv\.", "context.direct."),
    (r"^context_fn\.post_quant_conv_res\.", "context.chain."),
    (r"^context_fn\.dec\.(\d+)\.0\.", r"context.levels.\1.block."),
    (r"^context_fn\.dec\.(\d+)\.1\.", r"context.levels.\1.space."),
    (r"^context_fn\.dec\.(\d+)\.2\.", r"context.levels.\1.time."),
    (r"^denoise_fn\.time_mlp\.", "denoiser.embed."),
    (r"^denoise_fn\.(down|up)s\.(\d+)\.0\.", r"denoiser.\1.\2.first."),
    (r"^denoise_fn\.(down|up)s\.(\d+)\.1\.", r"denoiser.\1.\2.second."),
    (r"^denoise_fn\.(down|up)s\.(\d+)\.2\.", r"denoiser.\1.\2.attention."),
    (r"^denoise_fn\.downs\.(\d+)\.3\.conv\.", r"denoiser.down.\1.space."),
    (r"^denoise_fn\.downs\.(\d+)\.4\.conv\.", r"denoiser.down.\1.time."),
    (r"^denoise_fn\.ups\.(\d+)\.3\.", r"denoiser.up.\1.space."),
    (r"^denoise_fn\.ups\.(\d+)\.4\.", r"denoiser.up.\1.time."),
    (r"^denoise_fn\.mid_block1\.", "denoiser.before."),
    (r"^denoise_fn\.mid_attn\.", "denoiser.attention."),
    (r"^denoise_fn\.mid_block2\.", "denoiser.after."),
    (r"^denoise_fn\.final_conv\.0\.", "denoiser.norm."),
    (r"^denoise_fn\.final_conv\.1\.", "denoiser.leave."),
    (r"\.fn\.fn\.", "."),
    (r"\.fn\.norm\.", ".norm."),
    (r"\.block([12])\.block\.0\.", r".conv\1."),
    (r"\.block([12])\.block\.1\.", r".norm\1."),
    (r"\.res_conv\.", ".shortcut."),
    (r"\.mlp\.1\.", ".time."),
    (r"\.g$", ".weight"),
    (r"\.b$", ".bias"),
)


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official checkpoint under our names and in our shapes."""
    return {name: _shaped(name, tensor) for name, tensor in renamed(state, RULES).items()}


def _shaped(name: str, tensor: Tensor) -> Tensor:
    """Gains of norms [1 c 1 1 1] as [c], kernels over time [o i k] as [o i k 1 1]."""
    if re.search(r"\bnorm\d?\.", name):
        return tensor.flatten()
    return tensor[..., None, None] if tensor.ndim == 3 else tensor
