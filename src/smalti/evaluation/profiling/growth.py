"""How fast a cost grows with tokens, and from how many on it is the smaller one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from smalti.evaluation.audit.cost import break_even


def exponent(costs: Mapping[int, float]) -> float:
    """Slope of the logarithm of a cost over that of the tokens, by least squares over the upper half.

    Args:
        costs: by tokens. Of five counts the largest three are fitted.

    Returns:
        2 for a cost that is quadratic in the tokens; NaN for fewer than two counts.
    """
    counts = sorted(costs)[len(costs) // 2 :] if len(costs) > 2 else sorted(costs)
    if len(counts) < 2:
        return math.nan
    x, y = [math.log(count) for count in counts], [math.log(costs[count]) for count in counts]
    middle, height = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True))
    return rise / sum((a - middle) ** 2 for a in x)


def crossing(plain: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Tokens from which on the other cost is the smaller one, interpolated in logarithms.

    Returns:
        The smallest count that both have if the other is smaller throughout; infinity if it is not at the
        largest; NaN if they have none in common.
    """
    counts = sorted(plain.keys() & other.keys())
    if not counts:
        return math.nan
    return break_even(counts, [plain[n] for n in counts], [other[n] for n in counts])
