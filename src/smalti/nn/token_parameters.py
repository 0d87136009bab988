"""Pattention: a linear map written as attention to learned parameter tokens (Wang et al., TokenFormer, 2025).

```
x [… d_in] ──► A = x Kᵀ [… n] ──► S = theta(A) ──► y = S V [… d_out]        K [n d_in], V [n d_out]
```
The layer grows by rows of K and V: `grow` appends keys of zero, whose scores are zero, whose GELU is zero.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError, nearest

Theta = Literal["l2_norm_gelu", "gelu_l2_norm", "softmax"]
THETAS = ("l2_norm_gelu", "gelu_l2_norm", "softmax")
SMALLEST_NORM = 1e-12  # of scores; below it a token says nothing to any parameter


def theta(scores: Float[Tensor, "*batch n"], kind: str, tau: float) -> Float[Tensor, "*batch n"]:
    """Weights of parameter tokens: GELU of scores of norm `tau`, scores' GELU of that norm, softmax · n."""
    if kind == "softmax":
        return scores.softmax(-1) * scores.shape[-1]
    if kind == "l2_norm_gelu":
        return F.gelu(_of_norm(scores, tau))
    return _of_norm(F.gelu(scores), tau)


def _of_norm(scores: Float[Tensor, "*batch n"], tau: float) -> Float[Tensor, "*batch n"]:
    precise = torch.promote_types(scores.dtype, torch.float32)
    norm = torch.linalg.vector_norm(scores, dim=-1, keepdim=True, dtype=precise)
    return scores * (tau / norm.clamp_min(SMALLEST_NORM)).to(scores.dtype)


class Pattention(nn.Module):
    """Attention from data tokens to parameter tokens, in the place of a linear layer; without bias.

    Args:
        d_in: channels that come in.
        d_out: channels that go out.
        n: parameter tokens.
        norm: "l2_norm_gelu" (the paper's), "gelu_l2_norm" or "softmax".
        tau: norm of the scores (or of their GELU); √n of the tokens in use when not given.
        value_std: of values at the start, 2 / (blocks · √d) in the paper; keys start with 0.02.
        frozen: the first rows, which are not learned.
        dropout: share of weights that are left out in training.

    Raises:
        ConfigError: an unknown norm, or frozen rows that are not there.
    """

    frozen_keys: Tensor | None
    frozen_values: Tensor | None

    def __init__(
        self,
        d_in: int,
        d_out: int,
        n: int,
        norm: str = "l2_norm_gelu",
        tau: float | None = None,
        *,
        value_std: float = 0.02,
        frozen: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if norm not in THETAS:
            raise ConfigError(f"no norm {norm!r}: {nearest(norm, THETAS)}")
        if not 0 <= frozen < n:
            raise ConfigError(f"{frozen} of {n} parameter tokens cannot be frozen: choose 0 to {n - 1}")
        self.norm, self.tau, self.value_std, self.dropout = norm, tau, value_std, dropout
        self.key_tokens = nn.Parameter(torch.empty(n - frozen, d_in))
        self.value_tokens = nn.Parameter(torch.empty(n - frozen, d_out))
        self.register_buffer("frozen_keys", torch.zeros(frozen, d_in) if frozen else None)
        self.register_buffer("frozen_values", torch.zeros(frozen, d_out) if frozen else None)
        nn.init.normal_(self.key_tokens, std=0.02)
        nn.init.normal_(self.value_tokens, std=value_std)

    @property
    def keys(self) -> Float[Tensor, "n d_in"]:
        """All of them, the frozen ones first."""
        return self.key_tokens if self.frozen_keys is None else torch.cat([self.frozen_keys, self.key_tokens])

    @property
    def values(self) -> Float[Tensor, "n d_out"]:
        """All of them, the frozen ones first."""
        if self.frozen_values is None:
            return self.value_tokens
        return torch.cat([self.frozen_values, self.value_tokens])

    @property
    def count(self) -> int:
        """Parameter tokens n."""
        return len(self.key_tokens) + (0 if self.frozen_keys is None else len(self.frozen_keys))

    def forward(
        self, x: Float[Tensor, "*batch d_in"], mask: Bool[Tensor, "*#batch n"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Every token by itself; scores are set to 0 where `mask` is False, before the norm."""
        return self._attend(x, self.keys, self.values, mask)

    def route(
        self, x: Float[Tensor, "*batch d_in"], index: Int[Tensor, "m"]
    ) -> Float[Tensor, "*batch d_out"]:
        """The answer of some parameter tokens alone, as of one expert."""
        return self._attend(x, self.keys[index], self.values[index], None)

    def _attend(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        scores = x @ keys.mT
        if mask is not None:
            scores = scores * mask
        weights = theta(scores, self.norm, math.sqrt(len(keys)) if self.tau is None else self.tau)
        return F.dropout(weights, self.dropout, self.training) @ values

    @torch.no_grad()
    def grow(
        self, extra: int, tau: Literal["fixed", "sqrt_n"] = "fixed", freeze_old: bool = False
    ) -> Pattention:
        """A layer with more parameter tokens: keys of zero, random values.

        Args:
            extra: tokens to add.
            tau: "fixed" holds its value, so that the function stays; "sqrt_n" lets it grow, and changes it.
            freeze_old: learn the new tokens alone.

        Raises:
            ConfigError: softmax, which gives weight to keys of zero; nothing to add.
        """
        if self.norm == "softmax":
            raise ConfigError("softmax gives weight to new tokens: grow a layer with a GELU norm")
        if extra < 1:
            raise ConfigError(
                f"a layer of {self.count} parameter tokens cannot grow by {extra}: add 1 or more"
            )
        keys = torch.cat([self.keys, self.keys.new_zeros(extra, self.keys.shape[1])])
        added = self.value_std * torch.randn_like(self.values[:1].expand(extra, -1))
        frozen = self.count if freeze_old else self.count - len(self.key_tokens)
        held = self._held_tau() if tau == "fixed" else None
        return self._with(keys, torch.cat([self.values, added]), frozen, held)

    @torch.no_grad()
    def prune(self, keep: Int[Tensor, "m"]) -> Pattention:
        """A layer with some of the parameter tokens, at the same tau; all of them are learned.

        Raises:
            ConfigError: nothing to keep.
        """
        if len(keep) == 0:
            raise ConfigError("a layer needs at least one parameter token: keep some")
        return self._with(self.keys[keep], self.values[keep], 0, self._held_tau())

    def _held_tau(self) -> float:
        return math.sqrt(self.count) if self.tau is None else self.tau

    def _with(self, keys: Tensor, values: Tensor, frozen: int, tau: float | None) -> Pattention:
        new = Pattention(
            keys.shape[1],
            values.shape[1],
            len(keys),
            self.norm,
            tau,
            value_std=self.value_std,
            frozen=frozen,
            dropout=self.dropout,
        ).to(keys)
        new.key_tokens.copy_(keys[frozen:])
        new.value_tokens.copy_(values[frozen:])
        if new.frozen_keys is not None and new.frozen_values is not None:
            new.frozen_keys.copy_(keys[:frozen])
            new.frozen_values.copy_(values[:frozen])
        return new.train(self.training)
