"""TokDense: how much accuracy a token buys, and what the reduction and the language model cost, each apart.

```
answers, tokens of each ──► TokDense = accuracy in percent / average tokens
tokens → codes          ──► module complexity  (k-means, VQ-attention)
tokens in every layer   ──► prefill of the language model
```
From "VQToken: Neural Discrete Token Representation Learning for Extreme Token Reduction in Video Large
Language Models" (2025). FLOPs count a multiplication and an addition as two; `prefill_macs` counts pairs as
one, as FastV-style papers do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

from smalti.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from torchmetrics import Metric


class Density(NamedTuple):
    """Attributes:
    accuracy: percent.
    tokens: average a question, as the language model reads them.
    density: accuracy / tokens.
    """

    accuracy: float
    tokens: float
    density: float


def token_density(accuracy: float, tokens: float | int) -> float:
    """Accuracy in percent a token.

    Raises:
        ConfigError: no tokens.
    """
    if tokens <= 0:
        raise ConfigError(f"TokDense of {tokens} tokens: at least some must be read")
    return accuracy / tokens


def tok_dense() -> Metric:
    """The metric: `update(correct [b], tokens [b])`, `compute() -> Density`.

    Raises:
        UnsupportedError: torchmetrics is not installed.
    """
    try:
        from smalti.evaluation._tokdense import TokDense
    except ImportError as error:
        raise missing_extra("torchmetrics", "eval") from error
    return TokDense()


def module_flops(
    tokens: int,
    codes: int,
    dim: int,
    *,
    iterations: int,
    frames: int = 1,
    attention: Literal["paper", "decoder", "none"] = "none",
    hidden: int = 2048,
) -> int:
    """What VQToken costs for one video: O(N K D I) of k-means, O(K² D) or O(T K D) of the attention.

    Args:
        tokens: N of the whole video.
        codes: K.
        dim: D.
        iterations: I of k-means.
        frames: T.
        attention: as in `smalti.backbones.vqtoken`.
        hidden: channels of the MLP ("paper") or feed-forward part ("decoder").
    """
    clustering = iterations * (2 * tokens * codes * dim + tokens * dim)
    if attention == "none":
        return clustering
    if attention == "paper":
        hashed = 2 * hidden * (tokens + codes * dim)
        return clustering + hashed + 8 * codes * dim**2 + 4 * codes**2 * dim
    rows = max(frames, codes)
    queries = 2 * rows * (tokens // frames) * dim
    return clustering + queries + 2 * (8 * rows * dim**2 + 4 * rows**2 * dim) + 4 * rows * dim * hidden


def prefill_macs(tokens: Iterable[int], dim: int, hidden: int, matrices: Literal[2, 3] = 3) -> int:
    """Multiplications of a language model that reads a prompt: 4 n d² + 2 n² d + c n d m, summed over layers.

    Args:
        tokens: n of every layer; fewer from the layer on where some leave.
        dim: d.
        hidden: m, channels of the MLP.
        matrices: c: 3 in gated MLPs, 2 in plain ones and in FastV's formula.
    """
    return sum(4 * n * dim**2 + 2 * n**2 * dim + matrices * n * dim * hidden for n in tokens)
