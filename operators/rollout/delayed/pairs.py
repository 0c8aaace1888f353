"""From answers and labels to evidence: which labels count, and what they say. Pure: no clock, no I/O.

Labels come late, and how late may depend on what they say: a flight that lands in time is known to be in time before a late one
is known to be late. Whoever judges "the labels that are there" would judge by the early ones, and roll back a version that is
merely worse on those. So the answers stand in a fixed order, the one in which they were given, and only a beginning of it
counts.

In that beginning some labels may still be missing. They are taken for what speaks against the proof: for the canary where
harm is to be proven, for stable where it is to be excluded. Two answers that agree need no label for this: whatever it
says, it says the same of both. So the evidence of a beginning is at most what it will be once all its labels are there. That
is an e-process along the answers, which bounds the chance of a false alarm for all beginnings at once (Ville's inequality):
neither what decides how long the beginning is, nor which labels come first, nor which never come, can raise that chance. A
few labels that never come weaken the evidence a little, and hold up nothing.

A label that has not come within its time is left out for good, for both versions, also if it comes afterwards: what is in the
evidence once stays. A unit counts once, by its first answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import chain
from math import isfinite
from typing import NamedTuple, Protocol, TypeVar

from operators.judge.evidence import Losses, LossSums, PairCounts, Pairs
from operators.rollout.delayed.window import Waiting

# A label that is missing costs an e-value about as much as seven labels that are there gain.
_PRICE = 7.0
FIRST = (-(2**62), 0)
"""Place in the order of the answers before all of them: time in microseconds and hash of a request."""


class _Waits(Protocol):
    @property
    def at_us(self) -> int: ...
    @property
    def arrived_us(self) -> int | None: ...


_Row = TypeVar("_Row", bound=_Waits)
Numbers = tuple[float, ...]


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


class Measure(Protocol):
    """What a guard takes from a pair: numbers, which are summed up."""

    size: int

    def stake(self, pair: Pair) -> float:
        """Return how far the pair's label can favour one of the versions at most; 0: not at all."""

    def known(self, pair: Pair, label: float) -> Numbers:
        """Return the numbers of a labelled pair."""

    def awaited(self, pair: Pair) -> Numbers:
        """Return the numbers of a pair whose label may still come."""

    def evidence(self, whole: Numbers, blocks: Iterable[Numbers]) -> Pairs | Losses:
        """Return sums as evidence: over all pairs, and over each block that has passed."""


class RightOrWrong:
    """Which version was wrong.

    :param threshold: a prediction at or over it says yes; a label says yes if it is at or over a half
    """

    size = 4

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def stake(self, pair: Pair) -> float:
        """See `Measure.stake`."""
        return float((pair.stable >= self._threshold) != (pair.canary >= self._threshold))

    def known(self, pair: Pair, label: float) -> Numbers:
        """See `Measure.known`."""
        if not self.stake(pair):
            return 1, 0, 0, 0
        canary_right = (pair.canary >= self._threshold) == (label >= 0.5)
        return 1, int(canary_right), int(not canary_right), 0

    def awaited(self, pair: Pair) -> Numbers:
        """See `Measure.awaited`."""
        return 0, 0, 0, int(self.stake(pair))

    def evidence(self, whole: Numbers, blocks: Iterable[Numbers]) -> Pairs:
        """See `Measure.evidence`."""
        names = ("answered", "total", "stable_only_wrong", "canary_only_wrong", "open")
        passed = tuple(PairCounts.model_validate(dict(zip(names, block, strict=True))) for block in blocks)
        return Pairs.model_validate({**dict(zip(names, whole, strict=True)), "blocks": passed})


class Error:
    """By how much more the canary erred than stable, in absolute terms.

    :param largest: errors beyond it count as this, so that a difference is bounded
    """

    size = 6

    def __init__(self, largest: float) -> None:
        self._largest = largest

    def stake(self, pair: Pair) -> float:
        """See `Measure.stake`. Errors to the same label differ by no more than the answers."""
        return self._clipped(pair.canary - pair.stable)

    def known(self, pair: Pair, label: float) -> Numbers:
        """See `Measure.known`."""
        difference = self._clipped(pair.canary - label) - self._clipped(pair.stable - label)
        return 1, difference, difference * difference, 0, 0, 0

    def awaited(self, pair: Pair) -> Numbers:
        """See `Measure.awaited`."""
        stake = self.stake(pair)
        return 0, 0, 0, 1, stake, stake * stake

    def evidence(self, whole: Numbers, blocks: Iterable[Numbers]) -> Losses:
        """See `Measure.evidence`."""
        names = ("answered", "count", "total", "squares", "open", "open_total", "open_squares")
        passed = tuple(LossSums.model_validate(dict(zip(names, block, strict=True))) for block in blocks)
        return Losses.model_validate({**dict(zip(names, whole, strict=True)), "blocks": passed})

    def _clipped(self, error: float) -> float:
        return min(abs(error), self._largest) if isfinite(error) else self._largest


class _State(NamedTuple):
    whole: Numbers
    passed: int


class _Sums:
    """Sums over the answers so far, in their order, and over each block of time that they have passed."""

    def __init__(self, size: int) -> None:
        self.passed: list[Numbers] = []
        self._zero = [0.0] * (size + 1)
        self._whole, self._block = list(self._zero), list(self._zero)
        self._index = 0

    def add(self, index: int, numbers: Numbers) -> None:
        """Add an answer.

        :param index: of its block
        :param numbers: without its own count, which comes first; empty: nothing is known of it, nor ever will be
        """
        self.reach(index)
        for sums in (self._whole, self._block):
            sums[0] += 1
            for at, number in enumerate(numbers, start=1):
                sums[at] += number

    def reach(self, index: int) -> None:
        """Be in a block; those before it have passed."""
        if index != self._index:
            if self._block[0]:
                self.passed.append(tuple(self._block))
            self._block, self._index = list(self._zero), index

    def state(self) -> _State:
        """Return what there is at this moment."""
        return _State(tuple(self._whole), len(self.passed))


class PairTally:
    """Counts the pairs of a release, look by look: what is settled once, what is not at each look anew.

    :param begin_us: Unix time in microseconds when the first block begins
    :param block_us: how long a block is; None: none ever passes
    :param within_us: a label that comes later than this after its answer does not count
    """

    def __init__(self, measure: Measure, *, begin_us: int, block_us: int | None, within_us: int) -> None:
        self.after: tuple[int, int] = FIRST
        self.waiting = Waiting()
        self._measure = measure
        self._begin_us, self._block_us, self._within_us = begin_us, block_us, within_us
        self._settled = _Sums(measure.size)
        self._labelled = self._unlabelled = 0
        self.evidence = measure.evidence(self._settled.state().whole, ())

    def take(self, pairs: Iterable[Pair], *, now_us: int, until_us: int) -> None:
        """Take all pairs that come after `after`, in their order, and set `evidence` and `waiting`.

        :param until_us: there are no more pairs up to this moment
        """
        rest = iter(pairs)
        unsettled = chain(self._settle(rest, now_us), rest)
        sums = deepcopy(self._settled)
        # The longest beginning that is worth its missing labels. More labels and more answers only make it longer.
        best = score = 0.0
        chosen, seen, labelled, counted, to_the_end = sums.state(), 0, 0, 0, True
        for pair in unsettled:
            score += self._count(sums, pair, now_us)
            seen += 1
            labelled += self._status(pair, now_us) is True
            to_the_end = score >= best
            if to_the_end:
                best, chosen, counted = score, sums.state(), labelled
        if to_the_end:
            sums.reach(self._block_of(until_us))
            chosen = sums.state()
        self.evidence = self._measure.evidence(chosen.whole, sums.passed[: chosen.passed])
        self.waiting = Waiting(labelled=self._labelled + counted, unlabelled=self._unlabelled, open=seen - counted)

    def _settle(self, pairs: Iterator[Pair], now_us: int) -> list[Pair]:
        """Count pairs for good, up to the first whose label may still come; return that one, if there is one."""
        for pair in pairs:
            status = self._status(pair, now_us)
            if status is None:
                return [pair]
            self._count(self._settled, pair, now_us)
            self._labelled += status
            self._unlabelled += not status
            self.after = (pair.at_us, pair.request)
        return []

    def _status(self, pair: Pair, now_us: int) -> bool | None:
        """Return whether the label counts; None: not known yet."""
        closes_us = pair.at_us + self._within_us
        if pair.arrived_us is not None and pair.arrived_us <= min(now_us, closes_us):
            return True
        return None if closes_us > now_us else False

    def _block_of(self, at_us: int) -> int:
        return (at_us - self._begin_us) // self._block_us if self._block_us else 0

    def _count(self, sums: _Sums, pair: Pair, now_us: int) -> float:
        """Add a pair; return what it is worth."""
        index = self._block_of(pair.at_us)
        status, stake = self._status(pair, now_us), self._measure.stake(pair)
        if status and pair.label is not None:
            sums.add(index, self._measure.known(pair, pair.label))
            return stake
        if status is None and stake:
            sums.add(index, self._measure.awaited(pair))
            return -_PRICE * stake
        sums.add(index, ())
        return 0.0
