"""High dynamic range (PQ, HLG) → the standard range and colours that all other pictures have.

```
code ── PQ (ST 2084) or HLG (BT.2100) ──► nits in BT.2020 ── brightest channel through a knee ──► 0 … 1
     ── BT.2020 → BT.709 colours, clipped ── display gamma 2.4 (BT.1886) ──► code
```
The knee is that of BT.2390: what is dark stays as it is, highlights of up to 1,000 nits roll off to the white
of 203 nits (BT.2408). Mastering metadata are not read: whatever is brighter than 1,000 nits becomes white.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float32, UInt16

PQ, HLG = 16, 18  # FFmpeg's numbers for the transfers
PEAK, WHITE = 1000.0, 203.0  # nits
GAMMA = 2.4
M1, M2, C1, C2, C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
A, B, C = 0.17883277, 0.28466892, 0.55991073
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    np.float32,
)


def to_standard_range(pixels: UInt16[np.ndarray, "3 h w"], transfer: int) -> UInt16[np.ndarray, "3 h w"]:
    """RGB of BT.2020 in PQ or HLG as RGB of BT.709, sixteen bits both.

    Args:
        pixels: code values, white 65535.
        transfer: `PQ` or `HLG`.
    """
    light = _light(transfer)[pixels]
    if transfer == HLG:  # scene to display light, for a screen of 1,000 nits: system gamma 1.2
        light *= np.tensordot(LUMA, light, 1).clip(1e-12) ** 0.2 * PEAK
    brightest = light.max(0)
    levels, mapped = _knee()
    light *= np.interp(pq(brightest), levels, mapped / nits(levels).clip(1e-6)).astype(np.float32)
    standard = np.tensordot(TO_BT709, light, 1).clip(0, 1)
    return np.rint(standard ** (1 / GAMMA) * 65535).astype(np.uint16)


def nits(code: np.ndarray) -> np.ndarray:
    """Light of PQ codes in 0 … 1."""
    root = code ** (1 / M2)
    return 10_000 * (np.maximum(root - C1, 0) / (C2 - C3 * root)) ** (1 / M1)


def pq(light: np.ndarray) -> np.ndarray:
    """PQ codes of nits."""
    power = (light / 10_000) ** M1
    return ((C1 + C2 * power) / (1 + C3 * power)) ** M2


@cache
def _light(transfer: int) -> Float32[np.ndarray, "65536"]:
    """Light of every code: nits of PQ, share of the scene's white of HLG."""
    code = np.arange(65536) / 65535
    if transfer == PQ:
        return nits(code).astype(np.float32)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - C) / A) + B) / 12).astype(np.float32)


@cache
def _knee() -> tuple[np.ndarray, np.ndarray]:
    """PQ codes, and the share of white that each is shown as: BT.2390's Hermite spline above the knee."""
    levels = np.linspace(0, 1, 4096)
    white, peak = pq(np.array([WHITE, PEAK]))
    source, most = np.minimum(levels / peak, 1), white / peak
    start = 1.5 * most - 0.5
    t = np.maximum(source - start, 0) / (1 - start)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * start + (t**3 - 2 * t**2 + t) * (1 - start) + (3 * t**2 - 2 * t**3) * most
    )
    shown = np.where(source < start, source, spline) * peak
    return levels, nits(shown) / WHITE
