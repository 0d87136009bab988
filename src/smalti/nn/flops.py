"""Arithmetic of transformers: by formula, and as counted while a function runs.

```
block_flops(tokens, dim)       attention_flops + mlp_flops, each on its own number of tokens
count_flops(function, *args)   what the operators of a call cost
```
One multiply-add counts once, as papers count: DeiT-S is 4.6 G. Only products count; norms, activations and
biases do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

MULTIPLY_ADD = 2  # operations, as torch's counter counts them

aten = torch.ops.aten


def attention_flops(queries: int, dim: int, keys: int | None = None) -> int:
    """Multiply-adds of multi-head attention with its four projections.

    Args:
        queries: tokens that ask.
        dim: channels of queries, keys and values together over all heads.
        keys: tokens that are asked; the queries themselves when not given.
    """
    keys = queries if keys is None else keys
    return 2 * (queries + keys) * dim * dim + 2 * queries * keys * dim


def mlp_flops(tokens: int, dim: int, mlp_ratio: int | float = 4) -> int:
    """Multiply-adds of an MLP of two layers."""
    return 2 * tokens * dim * int(mlp_ratio * dim)


def block_flops(tokens: int, dim: int, mlp_ratio: int | float = 4, tokens_mlp: int | None = None) -> int:
    """Multiply-adds of a transformer block.

    Args:
        tokens: that attend to each other.
        dim: channels.
        mlp_ratio: hidden channels of the MLP, as a factor.
        tokens_mlp: that pass the MLP, where some leave between it and attention; all when not given.
    """
    return attention_flops(tokens, dim) + mlp_flops(
        tokens if tokens_mlp is None else tokens_mlp, dim, mlp_ratio
    )


def count_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Multiply-adds of a call, gradients included if it computes them.

    Torch's own counter, with formulas for what it counts as nothing: attention on CPU and distances.
    Attention counts whole also where a mask leaves parts out.
    """
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        function(*args, **kwargs)
    return counter.get_total_flops() // MULTIPLY_ADD


def _attention(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    return MULTIPLY_ADD * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(
    gradient: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *args: Any,
    **kwargs: Any,
) -> int:
    """Scores again, and the gradients of queries, keys, scores and values."""
    return MULTIPLY_ADD * prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


def _distances(a: Sequence[int], b: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return MULTIPLY_ADD * prod(a[:-1]) * b[-2] * a[-1]


_FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._cdist_forward: _distances,
    aten._euclidean_dist: _distances,
}
