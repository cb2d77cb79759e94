"""How sure a figure is: 95% intervals of shares and of figures over repeated runs. Stdlib only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Interval = tuple[float, float]

NORMAL = 1.96
"""Standard errors that hold 95% of a normal distribution, to either side."""
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10)
"""The same of Student's t, by degrees of freedom from 1."""


def share_interval(part: int, whole: int) -> Interval:
    """Wilson's interval of a share of `whole` independent cases; (0, 1) where there is none."""
    if not whole:
        return 0.0, 1.0
    share, square = part / whole, NORMAL**2
    middle = (share + square / (2 * whole)) / (1 + square / whole)
    reach = NORMAL / (1 + square / whole) * math.sqrt(share * (1 - share) / whole + square / (4 * whole**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def student(freedom: int) -> float:
    """Standard errors that hold 95%, for so many degrees of freedom, 1 or more."""
    return STUDENT[freedom - 1] if freedom <= len(STUDENT) else NORMAL * (1 + 1.28 / freedom)


def ratio_interval(blocks: Sequence[Sequence[float]], figure: Callable[[Sequence[float]], float]) -> Interval | None:
    """The interval of a positive figure of the sums over all blocks (runs that belong together); None below two blocks.

    The jackknife (Quenouille 1956, Tukey 1958) on its logarithm: the figure is worked out without each block in turn,
    so a long block weighs more than a short one, and a slow minute that falls on both sides of a ratio leaves it as it
    was.
    """
    n = len(blocks)
    if n < 2:
        return None
    sums = [sum(column) for column in zip(*blocks, strict=True)]
    logs = [math.log(figure([whole - part for whole, part in zip(sums, block, strict=True)])) for block in blocks]
    mean = sum(logs) / n
    error = math.sqrt((n - 1) / n * sum((each - mean) ** 2 for each in logs))
    middle, reach = math.log(figure(sums)), student(n - 1) * error
    return math.exp(middle - reach), math.exp(middle + reach)
