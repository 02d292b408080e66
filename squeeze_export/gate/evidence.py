"""How sure the gate must be, and how much more it must see to become so."""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL = 0.04
"""The gate says "broken" of a bound that holds, or "kept" of one that does not, at most this often. It promises 5%, and 2,000
simulated runs that err as often as they may would show more than that every other time."""
_CHANCE = 0.8
"""With as much more as is asked for, this share of runs is decided, if what was seen is the truth."""
_AT_THE_BOUND = 1e-6
"""Of a standard error: a figure as near to its bound differs from it by the rounding of floats."""
AT_THE_BOUND = "a bound that is not the figure itself"
"""What would decide where no number of images or rounds does."""


def more_needed(count: int, spread: float, distance: float) -> int | None:
    """Images or rounds beyond `count` that would probably decide, rounded up to two digits; None at the bound itself.

    Args:
        count: seen so far.
        spread: standard error of the figure, with these.
        distance: of the figure from its bound.
    """
    if abs(distance) <= _AT_THE_BOUND * spread:
        return None
    normal = NormalDist()
    more = count * ((normal.inv_cdf(1 - LEVEL) + normal.inv_cdf(_CHANCE)) * spread / distance) ** 2 - count
    more = max(more, 0.1 * count)
    unit = 10 ** max(0, math.floor(math.log10(more)) - 1)
    return int(math.ceil(more / unit) * unit)
