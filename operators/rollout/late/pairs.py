"""From answers and labels to evidence: which labels count, and what they say. Pure: no clock, no I/O.

Labels come late, and how late may depend on what they say: a flight that lands in time is known to be in time before a late one
is known to be late. Whoever judges "the labels that are there" would judge by the early ones, and roll back a version that is
merely worse on those. So the answers stand in a fixed order, the one in which they were given, and only a beginning of it
counts: up to the first answer whose label has not come and may still come. An answer whose label did not come within its time
is left out for good, also if the label comes afterwards: what is in the evidence once stays, and nothing is put in between.

Each look therefore sees a prefix of one sequence that label delays cannot reorder. An e-process bounds the chance of a false
alarm for all prefixes at once (Ville's inequality), so it does not matter what decides how long the prefix is. What
remains is the choice of ``within``: labels that never come within it are not in the evidence at all, for either version.

A unit counts once, by its first answer, whose label is waited for: a second answer with a faster label does not take its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

from operators.rollout.evidence import Pairs


class _Waits(Protocol):
    @property
    def at_us(self) -> int: ...
    @property
    def arrived_us(self) -> int | None: ...


_Row = TypeVar("_Row", bound=_Waits)


class Pair(NamedTuple):
    """A request that both versions answered.

    :param at_us: Unix time in microseconds when stable answered
    :param request: tells requests of one moment apart
    :param label: None: not known
    :param arrived_us: when the label became known; None: it has not
    """

    at_us: int
    request: int
    stable: float
    canary: float
    label: float | None
    arrived_us: int | None


def settled(rows: Iterable[_Row], *, now_us: int, within_us: int) -> Iterator[tuple[_Row, bool]]:
    """Yield the rows that are settled, up to the first that is not, and for each whether its label counts.

    :param rows: in a fixed order that no label has an influence on
    :param within_us: a label that comes later than this after its answer does not count
    """
    for row in rows:
        closes_us = row.at_us + within_us
        counts = row.arrived_us is not None and row.arrived_us <= min(now_us, closes_us)
        if not counts and closes_us > now_us:
            return
        yield row, counts


def right_or_wrong(pairs: Iterable[Pair], threshold: float, *, before: Pairs | None = None) -> Pairs:
    """Count labelled pairs by who was wrong.

    :param threshold: a prediction at or over it says yes; a label says yes if it is at or over a half
    :param before: what earlier pairs gave
    """
    known = before or Pairs()
    total, stable_only, canary_only = known.total, known.stable_only_wrong, known.canary_only_wrong
    for pair in pairs:
        yes = _label(pair) >= 0.5
        stable_wrong, canary_wrong = (pair.stable >= threshold) != yes, (pair.canary >= threshold) != yes
        total += 1
        stable_only += stable_wrong and not canary_wrong
        canary_only += canary_wrong and not stable_wrong
    return Pairs(total=total, stable_only_wrong=stable_only, canary_only_wrong=canary_only)


def loss_differences(pairs: Iterable[Pair], largest: float) -> Iterator[float]:
    """Yield the canary's absolute error less stable's, for each labelled pair; to six digits, as it is recorded.

    :param largest: errors beyond it count as this, so that a difference is bounded
    """
    for pair in pairs:
        label = _label(pair)
        yield float(f"{min(abs(pair.canary - label), largest) - min(abs(pair.stable - label), largest):.6g}")


def _label(pair: Pair) -> float:
    if pair.label is None:
        raise ValueError("a pair without a label says nothing")
    return pair.label
