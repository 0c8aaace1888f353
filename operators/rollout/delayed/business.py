"""From business numbers to evidence. Pure: no clock, no I/O. The rule by which a number counts is that of labels: see `pairs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from operators.judge.evidence import Moments
from operators.rollout.delayed.pairs import FIRST, label_counts

Cell = tuple[int, bool]
"""A period's index, and whether it is the canary's arm."""


class BusinessNumber(NamedTuple):
    """The first request of a unit in a period, and the number that it waits for.

    A unit belongs to the arm that it was assigned to, even if stable answered because the canary had failed: a failing canary
    has an effect on the business too.

    :param at_us: Unix time in microseconds of the answer
    :param request: hash of the request's id, which tells requests of one moment apart
    :param span: index of the period
    :param value: the number; None: not known yet
    :param arrived_us: when the number became known; None: not yet
    """

    at_us: int
    request: int
    span: int
    canary: bool
    value: float | None
    arrived_us: int | None


class Cohort:
    """Takes business numbers in the order of the answers, each once.

    :param within_us: how long after its answer a number may come and still count
    """

    def __init__(self, within_us: int) -> None:
        self.after: tuple[int, int] = FIRST
        self._within_us = within_us

    def take(self, rows: Iterable[BusinessNumber], now_us: int) -> list[BusinessNumber]:
        """Return the rows with a number, up to the first row whose number may still come."""
        numbered = []
        for row in rows:
            counts = label_counts(row, now_us=now_us, within_us=self._within_us)
            if counts is None:
                break
            self.after = (row.at_us, row.request)
            if counts:
                numbered.append(row)
        return numbered


def moments(
    values: Iterable[BusinessNumber], *, lowest: float, highest: float, before: Mapping[Cell, Moments] | None = None
) -> dict[Cell, Moments]:
    """Return the moments of each arm in each period.

    Source of the update: Welford, B. P. (1962), Note on a method for calculating corrected sums of squares and products,
    Technometrics 4(3), 419-420.

    :param lowest: a smaller value counts as this
    :param highest: a larger value counts as this
    :param before: the moments of earlier values, which are included
    """
    sums = {cell: (known.count, known.mean, known.m2) for cell, known in (before or {}).items()}
    for value in values:
        if value.value is None:
            raise ValueError("a request has no number")
        cell = (value.span, value.canary)
        count, mean, m2 = sums.get(cell, (0, 0.0, 0.0))
        clipped = min(max(value.value, lowest), highest)
        away = clipped - mean
        mean += away / (count + 1)
        sums[cell] = (count + 1, mean, m2 + away * (clipped - mean))
    return {cell: Moments(count=count, mean=mean, m2=m2) for cell, (count, mean, m2) in sums.items()}
