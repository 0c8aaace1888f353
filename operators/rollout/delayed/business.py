"""From business numbers to evidence. Pure: no clock, no I/O. Which numbers count is said in `pairs`: the same as for labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from operators.judge.evidence import Moments

Cell = tuple[int, bool]
"""A period's index, and whether it is the canary's arm."""


class Value(NamedTuple):
    """The first request of a unit in a period, and the number that it waits for.

    A unit belongs to the arm that it was assigned to, also where stable answered because the canary had failed: that is what
    the canary did to the business.

    :param at_us: Unix time in microseconds of the answer
    :param request: tells requests of one moment apart
    :param span: index of the period
    :param value: None: not known, which is not 0
    :param arrived_us: when it became known; None: it has not
    """

    at_us: int
    request: int
    span: int
    canary: bool
    value: float | None
    arrived_us: int | None


def moments(
    values: Iterable[Value], *, lowest: float, highest: float, before: Mapping[Cell, Moments] | None = None
) -> dict[Cell, Moments]:
    """Return the moments of each arm in each period.

    Source of the update: Welford, B. P. (1962), Note on a method for calculating corrected sums of squares and products,
    Technometrics 4(3), 419-420.

    :param lowest: what is below counts as this
    :param highest: what is above counts as this
    :param before: what earlier values gave
    """
    found = {cell: (known.count, known.mean, known.m2) for cell, known in (before or {}).items()}
    for value in values:
        if value.value is None:
            raise ValueError("a request without its number says nothing")
        cell = (value.span, value.canary)
        count, mean, m2 = found.get(cell, (0, 0.0, 0.0))
        clipped = min(max(value.value, lowest), highest)
        away = clipped - mean
        mean += away / (count + 1)
        found[cell] = (count + 1, mean, m2 + away * (clipped - mean))
    return {cell: Moments(count=count, mean=mean, m2=m2) for cell, (count, mean, m2) in found.items()}
