"""Linear state spaces over long sequences: as one convolution by FFT, or step by step; both agree.

```
x'(t) = A x + B u,  y = C x        A = diag(w) − p q*  (normal plus low rank), or diag(w)

log_dt, w, B, C ──┬─► kernel K [h l] ─► FFT ─► y [b l h]          while all of u is there
                  └─► Recurrence ─► y, state of one step          while u arrives
```
States are kept as halves of conjugate pairs, complex numbers in parameters as pairs of reals. All of it is
computed in float32 or better, whatever the precision around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from smalti.errors import ConfigError

CHUNK = 1 << 20  # numbers of a table that is made at once


class Recurrence(NamedTuple):
    """A discrete state space, one for each of h channels: x' = A x + B u, y = 2 Re(C* x').

    Attributes:
        decay, left, right: A = diag(decay) − left right*, over both halves of the pairs.
        drive: B.
        readout: C.
    """

    decay: Complex[Tensor, "h n"]
    left: Complex[Tensor, "h n"]
    right: Complex[Tensor, "h n"]
    drive: Complex[Tensor, "h n"]
    readout: Complex[Tensor, "h n"]

    def start(self, batch: int) -> Complex[Tensor, "b h n"]:
        """The state before the first step."""
        return self.decay.new_zeros(batch, *self.decay.shape)

    def step(
        self, u: Float[Tensor, "b h"], state: Complex[Tensor, "b h n"]
    ) -> tuple[Float[Tensor, "b h"], Complex[Tensor, "b h n"]]:
        """What comes out, and the state after."""
        mixed = _pairs(self.right.conj() * state)[..., None]
        state = self.decay * state - self.left * mixed + self.drive * u[..., None]
        return _pairs(self.readout.conj() * state), state

    def matrix(self) -> Complex[Tensor, "h m m"]:
        """A written out, both halves of the pairs."""
        decay, left, right = (_whole(part) for part in (self.decay, self.left, self.right))
        return torch.diag_embed(decay) - left[..., None] * right.conj()[..., None, :]


def _pairs(half: Complex[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Sum over pairs of which one half is given."""
    return 2 * half.real.sum(-1)


def _whole(half: Complex[Tensor, "*batch n"]) -> Complex[Tensor, "*batch m"]:
    return torch.cat([half, half.conj()], -1)


def _complex(pairs: Float[Tensor, "*batch 2"]) -> Complex[Tensor, "*batch"]:
    return torch.view_as_complex(pairs.float().contiguous())


def _real(numbers: Complex[Tensor, "*batch"]) -> Float[Tensor, "*batch 2"]:
    return torch.view_as_real(numbers.to(torch.complex64).resolve_conj()).clone()


def _by_rows(table: Callable[..., Tensor], parts: Sequence[Tensor], cost: int) -> Tensor:
    """`table(*parts)`, some rows at a time; with gradients, what lies between is computed again for them.

    Args:
        table: from rows to rows.
        parts: its arguments.
        cost: numbers that it makes on the way for every row.
    """
    rows = max(CHUNK // cost, 1)
    pieces = zip(*(part.split(rows) for part in parts), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(table, *piece, use_reentrant=False) for piece in pieces])
    return torch.cat([table(*piece) for piece in pieces])


def hippo_legs(
    state: int,
) -> tuple[Complex[Tensor, "n"], Complex[Tensor, "n"], Complex[Tensor, "n"]]:
    """HiPPO-LegS (Gu et al., 2020) as diag(w) − p p*, and its B: w, p, B, halves of `state` numbers each.

    Its A is lower triangular: −√((2i+1)(2j+1)) below the diagonal and −(i+1) on it; with √(i+½) taken off
    both ways, what remains is −½ and antisymmetric, so it has imaginary eigenvalues beside −½.
    """
    number = torch.arange(state, dtype=torch.float64, device="cpu")
    root = (2 * number + 1).sqrt()
    matrix = -(root[:, None] * root).tril(-1) - torch.diag(number + 1)
    low = (number + 0.5).sqrt()
    antisymmetric = matrix + low[:, None] * low + 0.5 * torch.eye(state, dtype=torch.float64, device="cpu")
    frequency, basis = torch.linalg.eigh(-1j * antisymmetric)
    frequency, basis = frequency[state // 2 :], basis[:, state // 2 :]  # those above zero
    back = basis.mH
    w = torch.complex(torch.full_like(frequency, -0.5), frequency)
    return w, back @ low.to(back.dtype), back @ root.to(back.dtype)


class LowRankKernel(nn.Module):
    """S4's kernel (Gu, Goel & Ré, 2022): HiPPO-LegS as normal plus low rank, discretised bilinearly.

    The stored C is the one of the kernel cut off after `length` steps, C* (I − A^length): that is what
    makes the kernel a sum of fractions at the roots of unity. Shorter kernels are parts of it; longer ones
    are those of the same state space.

    Args:
        dim: channels, a state space each; w is shared by all.
        state: numbers of a state, even.
        length: steps of the kernel.
        step_range: least and largest dt; drawn evenly in its logarithm.
    """

    def __init__(
        self, dim: int, state: int = 64, length: int = 1024, step_range: tuple[float, float] = (1e-3, 1e-1)
    ) -> None:
        super().__init__()
        steps = _log_steps(dim, step_range)
        w, p, b = (part.to(steps.device) for part in hippo_legs(state))
        low = p.expand(dim, 1, -1)
        drawn = torch.randn(dim, 1, state // 2, dtype=torch.complex64)
        self.length = length
        self.log_dt = nn.Parameter(steps)
        self.w = nn.Parameter(_real(w))
        self.B = nn.Parameter(_real(torch.cat([b.expand(dim, 1, -1), low], 1)))  # B and p
        self.C = nn.Parameter(_real(torch.cat([drawn, low.to(drawn)], 1)))  # C and q

    def forward(self, length: int) -> Float[Tensor, "h l"]:
        """The first `length` numbers of the kernel."""
        steps = max(length, self.length)
        c = _complex(self.C)
        if steps > self.length:
            c = torch.cat([self._cut(steps)[:, None], c[:, 1:]], 1)
        half = torch.arange(steps // 2 + 1, dtype=torch.float64, device=c.device) * (math.pi / steps)
        sine, cosine = (2 * half.sin()).float(), half.cos().float()
        dt = self.log_dt.float().exp()[:, None]
        w = _complex(self.w) * dt
        v = 2 * _complex(self.B)[:, :, None] * c[:, None].conj()  # [h 2 2 n]
        weights = torch.cat([v.real.flatten(1, 2), (v * w[:, None, None].conj()).real.flatten(1, 2)], 1)

        def spectrum(dt: Tensor, size: Tensor, decay: Tensor, weights: Tensor) -> Complex[Tensor, "_h f"]:
            """Fractions v / (i·sine − cosine·w), both of a pair, at every root of unity; a turn is left."""
            apart = (cosine * size[..., None] - sine) * (cosine * size[..., None] + sine)
            across = (2 * sine * cosine) * decay[..., None]
            scale = 1 / (apart * apart + across * across)
            above_real, below_real = (weights @ (apart * scale)).chunk(2, 1)
            above_imag, below_imag = (weights @ (across * scale)).chunk(2, 1)
            sums = torch.complex(
                -sine * above_imag - cosine * below_real, sine * above_real - cosine * below_imag
            )
            bc, bq, pc, pq = (dt[..., None] * sums).unbind(1)
            return bc - cosine * bq * pc / (1 + cosine * pq)

        parts = (dt, w.abs(), w.real, weights)
        turn = torch.polar(torch.ones_like(half), half).to(w.dtype)
        spectra = _by_rows(spectrum, parts, w.shape[1] * len(half)) * turn
        return torch.fft.irfft(spectra, n=steps)[:, :length]

    def recurrence(self) -> Recurrence:
        """The same state space step by step, in float64."""
        w, b, c = (_complex(part).to(torch.complex128) for part in (self.w, self.B, self.C))
        (b, p), (c, q) = b.unbind(1), c.unbind(1)
        dt = self.log_dt.double().exp()[:, None]
        inverse = 1 / (1 - dt / 2 * w)
        low = inverse * p
        share = dt / 2 / (1 + dt / 2 * _pairs(q.conj() * low)[:, None])
        right = (inverse * q.conj()).conj()
        drive = dt * (inverse * b - low * share * _pairs(right.conj() * b)[:, None])
        free = Recurrence(2 * inverse - 1, 2 * share * low, right, drive, c)
        whole = torch.eye(2 * w.shape[-1], dtype=c.dtype, device=c.device)
        gone = torch.linalg.matrix_power(free.matrix(), self.length)
        uncut = torch.linalg.solve((whole - gone).mH, _whole(c))[:, : c.shape[-1]]
        return free._replace(readout=uncut)

    def _cut(self, steps: int) -> Complex[Tensor, "h n"]:
        """C of the kernel cut off after other steps."""
        free = self.recurrence()
        gone = torch.linalg.matrix_power(free.matrix(), steps).mH
        c = _whole(free.readout)[..., None]
        return (c - gone @ c)[:, : free.decay.shape[-1], 0].to(torch.complex64)


class DiagonalKernel(nn.Module):
    """S4D's kernel (Gu et al., 2022): a diagonal A from −½ + iπn, held for a step of dt; any length.

    Args:
        dim: channels, a state space each; w is shared by all.
        state: numbers of a state, even.
        step_range: least and largest dt; drawn evenly in its logarithm.
    """

    def __init__(self, dim: int, state: int = 64, step_range: tuple[float, float] = (1e-3, 1e-1)) -> None:
        super().__init__()
        number = torch.arange(state // 2)
        self.log_dt = nn.Parameter(_log_steps(dim, step_range))
        self.w = nn.Parameter(torch.stack([torch.full(number.shape, -0.5), math.pi * number], -1))
        self.C = nn.Parameter(_real(torch.randn(dim, state // 2, dtype=torch.complex64)))

    def forward(self, length: int) -> Float[Tensor, "h l"]:
        """The first `length` numbers of the kernel."""
        exponent, held = self._held()
        steps = torch.arange(length, dtype=torch.float32, device=held.device)

        def powers(exponent: Tensor, weight: Tensor) -> Float[Tensor, "_h l"]:
            return 2 * (weight[:, None] @ (exponent[..., None] * steps).exp())[:, 0].real

        weight = _complex(self.C).conj() * held
        return _by_rows(powers, (exponent, weight), length * exponent.shape[1])

    def recurrence(self) -> Recurrence:
        """The same state space step by step."""
        exponent, held = self._held()
        none = torch.zeros_like(held)
        return Recurrence(exponent.exp(), none, none, held, _complex(self.C))

    def _held(self) -> tuple[Complex[Tensor, "h n"], Complex[Tensor, "h n"]]:
        w = _complex(self.w)
        exponent = w * self.log_dt.float().exp()[:, None]
        return exponent, (exponent.exp() - 1) / w


def _log_steps(dim: int, step_range: tuple[float, float]) -> Float[Tensor, "h"]:
    low, high = (math.log(step) for step in step_range)
    return low + (high - low) * torch.rand(dim)


def causal_convolution(u: Float[Tensor, "b l h"], kernel: Float[Tensor, "h l"]) -> Float[Tensor, "b l h"]:
    """y_t = Σ K_s u_(t−s), by FFTs long enough that nothing comes around from the end."""
    length = u.shape[1]
    size = 1 << (2 * length - 1).bit_length()
    size = size * 3 // 4 if size * 3 // 4 >= 2 * length - 1 else size
    spectrum = torch.fft.rfft(u.float().mT.contiguous(), n=size) * torch.fft.rfft(kernel, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :length].mT


class StateSpaceLayer(nn.Module):
    """A layer of S4: state spaces of every channel, a skip, GELU, then channels mixed token by token.

    Args:
        dim: channels.
        state: numbers of a state.
        length: of the sequences that it is made for; others are taken as well.
        kernel: "nplr", S4's, or "diagonal", S4D's.
        dropout: of whole channels, behind GELU.
    """

    def __init__(
        self,
        dim: int,
        state: int = 64,
        length: int = 1024,
        kernel: Literal["nplr", "diagonal"] = "nplr",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if state < 2 or state % 2:
            raise ConfigError(f"a state is made of conjugate pairs: {state} must be even")
        self.skip = nn.Parameter(torch.randn(dim))
        self.kernel = LowRankKernel(dim, state, length) if kernel == "nplr" else DiagonalKernel(dim, state)
        self.dropout = nn.Dropout1d(dropout)
        self.project = nn.Linear(dim, dim)

    def mix(self, x: Float[Tensor, "b l h"]) -> Float[Tensor, "b l h"]:
        """The state spaces and the skip alone."""
        known = torch.amp.is_autocast_available(x.device.type)
        with torch.autocast(x.device.type, enabled=False) if known else nullcontext():
            mixed = causal_convolution(x, self.kernel(x.shape[1])) + x.float() * self.skip.float()
        return mixed.to(x.dtype)

    def forward(self, x: Float[Tensor, "b l h"]) -> Float[Tensor, "b l h"]:
        """All of a sequence."""
        x = F.gelu(self.mix(x))
        return self.project(self.dropout(x.mT).mT)

    def step(
        self, recurrence: Recurrence, x: Float[Tensor, "b h"], state: Complex[Tensor, "b h n"]
    ) -> tuple[Float[Tensor, "b h"], Complex[Tensor, "b h n"]]:
        """One token, with `kernel.recurrence()` and the state before; gives the state after as well."""
        mixed, state = recurrence.step(x.to(recurrence.decay.real.dtype), state)
        return self.project(F.gelu(mixed.to(x.dtype) + x * self.skip)), state
