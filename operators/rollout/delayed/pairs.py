"""From answers and labels to evidence: which labels count, and what they show. Pure: no clock, no I/O.

Labels come late, and how late may depend on the label: a flight that lands in time is known to be in time before a late one is
known to be late. If the judge used the labels that are there, it would judge by the early ones, and roll back a version that is
worse only on those. So the answers stand in a fixed order, the one in which they were given. Only a prefix of the answers
counts: from the first one up to a cut-off.

Some labels of the prefix may still be missing. A missing label counts against what is to be proven: for the canary where harm is
to be proven, for stable where harm is to be ruled out. Two answers that agree need no label for this: it would be the same for
both. So the evidence of a prefix is at most what it will be once all its labels are there, and that is an e-process along the
answers. It bounds the chance of a false alarm for all prefixes at once (Ville's inequality): neither the choice of the cut-off,
nor which labels come first, nor which never come, can raise that chance. A few labels that never come weaken the evidence a
little, and the judge does not wait for them.

A label that has not come within its time is left out for good, for both versions, even if it comes afterwards: what is once in
the evidence stays. A unit counts once, by its first answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import chain
from math import isfinite
from typing import ClassVar, NamedTuple, Protocol

from operators.judge.evidence import Losses, LossSums, PairCounts, Pairs

# A label that is missing costs an e-value about as much as seven labels that are there gain.
_PRICE = 7.0
FIRST = (-(2**62), 0)
"""Place in the order of the answers before all of them: time in microseconds and hash of a request."""
Numbers = tuple[float, ...]


class Answered(Protocol):
    """An answer that waits for its label, or for a number."""

    @property
    def at_us(self) -> int:
        """When it was given."""

    @property
    def arrived_us(self) -> int | None:
        """When the label became known; None: it has not."""


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


def label_counts(answer: Answered, *, now_us: int, within_us: int) -> bool | None:
    """Return whether an answer's label counts; None: it may still come.

    :param within_us: a label that comes later than this after its answer does not count
    """
    closes_us = answer.at_us + within_us
    if answer.arrived_us is not None and answer.arrived_us <= min(now_us, closes_us):
        return True
    return None if closes_us > now_us else False


class Measure(ABC):
    """What a guard takes from a pair: numbers, which are summed up."""

    names: ClassVar[tuple[str, ...]]  # of the numbers; before them, the sums count the answers
    types: ClassVar[tuple[type[Pairs], type[PairCounts]] | tuple[type[Losses], type[LossSums]]]

    @abstractmethod
    def stake(self, pair: Pair) -> float:
        """Return how far the pair's label can favour one of the versions at most; 0: not at all."""

    @abstractmethod
    def known(self, pair: Pair, label: float) -> Numbers:
        """Return the numbers of a labelled pair."""

    @abstractmethod
    def awaited(self, pair: Pair) -> Numbers:
        """Return the numbers of a pair whose label may still come."""

    def evidence(self, whole: Numbers, blocks: Iterable[Numbers]) -> Pairs | Losses:
        """Return sums as evidence: over all pairs, and over each block that has passed."""
        of_all, of_block = self.types
        names = ("answered", *self.names)
        passed = tuple(of_block.model_validate(dict(zip(names, block, strict=True))) for block in blocks)
        return of_all.model_validate({**dict(zip(names, whole, strict=True)), "blocks": passed})


class RightOrWrong(Measure):
    """Which version was wrong.

    :param threshold: a prediction at or over it says yes; a label says yes if it is at or over a half
    """

    names = ("total", "stable_only_wrong", "canary_only_wrong", "open")
    types = (Pairs, PairCounts)

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def stake(self, pair: Pair) -> float:
        """Return 1 where the answers differ."""
        return float((pair.stable >= self._threshold) != (pair.canary >= self._threshold))

    def known(self, pair: Pair, label: float) -> Numbers:
        """Count the pair, and who alone was wrong."""
        if not self.stake(pair):
            return 1, 0, 0, 0
        canary_right = (pair.canary >= self._threshold) == (label >= 0.5)
        return 1, int(canary_right), int(not canary_right), 0

    def awaited(self, pair: Pair) -> Numbers:
        """Count the pair as open if the answers differ."""
        return 0, 0, 0, int(self.stake(pair))


class ErrorDifference(Measure):
    """How much larger the canary's absolute error is than stable's.

    :param largest: errors beyond it count as this, so that a difference is bounded
    """

    names = ("count", "total", "squares", "open", "open_total", "open_squares")
    types = (Losses, LossSums)

    def __init__(self, largest: float) -> None:
        self._largest = largest

    def stake(self, pair: Pair) -> float:
        """Return how far apart the answers are: errors to the same label differ by no more."""
        return self._clipped(pair.canary - pair.stable)

    def known(self, pair: Pair, label: float) -> Numbers:
        """Add the difference of the errors."""
        difference = self._clipped(pair.canary - label) - self._clipped(pair.stable - label)
        return 1, difference, difference * difference, 0, 0, 0

    def awaited(self, pair: Pair) -> Numbers:
        """Add the largest possible difference as open."""
        stake = self.stake(pair)
        return 0, 0, 0, 1, stake, stake * stake

    def _clipped(self, error: float) -> float:
        return min(abs(error), self._largest) if isfinite(error) else self._largest


class State(NamedTuple):
    """Sums at one moment.

    :param passed: how many blocks had passed
    """

    whole: Numbers
    passed: int


class BlockSums:
    """Sums over the answers so far, in their order, and over each block of time that they have passed.

    :param size: how many numbers are summed up, with the count of the answers, which comes first
    """

    def __init__(self, size: int) -> None:
        self.passed: list[Numbers] = []
        self._zero = [0.0] * size
        self._whole, self._block = list(self._zero), list(self._zero)
        self._index = 0

    def add(self, index: int, numbers: Numbers) -> None:
        """Add numbers.

        :param index: of their block
        """
        self.reach(index)
        for sums in (self._whole, self._block):
            for at, number in enumerate(numbers):
                sums[at] += number

    def reach(self, index: int) -> None:
        """Enter a block; those before it have passed."""
        if index != self._index:
            if self._block[0]:
                self.passed.append(tuple(self._block))
            self._block, self._index = list(self._zero), index

    def state(self) -> State:
        """Return the sums as they are now."""
        return State(tuple(self._whole), len(self.passed))


class PairTally:
    """Counts the pairs of a release, look by look: settled pairs once, the others anew at each look.

    :param begin_us: Unix time in microseconds when the first block begins
    :param block_us: how long a block is; None: none ever passes
    :param within_us: a label that comes later than this after its answer does not count
    """

    def __init__(self, measure: Measure, *, begin_us: int, block_us: int | None, within_us: int) -> None:
        self.after: tuple[int, int] = FIRST
        self._measure = measure
        self._begin_us, self._block_us, self._within_us = begin_us, block_us, within_us
        self._settled = BlockSums(1 + len(measure.names))
        self.evidence = measure.evidence(self._settled.state().whole, ())

    def take(self, pairs: Iterable[Pair], *, now_us: int, until_us: int) -> None:
        """Take all pairs that come after `after`, in their order, and set `evidence`.

        :param until_us: there are no more pairs up to this moment
        """
        rest = iter(pairs)
        unsettled = chain(self._settle(rest, now_us), rest)
        sums = deepcopy(self._settled)
        # The longest prefix that is worth its missing labels. More labels and more answers only make it longer.
        best = score = 0.0
        chosen, to_the_end = sums.state(), True
        for pair in unsettled:
            score += self._count(sums, pair, self._status(pair, now_us))
            to_the_end = score >= best
            if to_the_end:
                best, chosen = score, sums.state()
        if to_the_end:
            sums.reach(self._block_of(until_us))
            chosen = sums.state()
        self.evidence = self._measure.evidence(chosen.whole, sums.passed[: chosen.passed])

    def _settle(self, pairs: Iterator[Pair], now_us: int) -> list[Pair]:
        """Count pairs for good, up to the first whose label may still come; return that one, if there is one."""
        for pair in pairs:
            status = self._status(pair, now_us)
            if status is None:
                return [pair]
            self._count(self._settled, pair, status)
            self.after = (pair.at_us, pair.request)
        return []

    def _status(self, pair: Pair, now_us: int) -> bool | None:
        return label_counts(pair, now_us=now_us, within_us=self._within_us)

    def _block_of(self, at_us: int) -> int:
        return (at_us - self._begin_us) // self._block_us if self._block_us else 0

    def _count(self, sums: BlockSums, pair: Pair, status: bool | None) -> float:
        """Add a pair; return what it is worth."""
        index, stake = self._block_of(pair.at_us), self._measure.stake(pair)
        if status and pair.label is not None:
            sums.add(index, (1, *self._measure.known(pair, pair.label)))
            return stake
        if status is None and stake:
            sums.add(index, (1, *self._measure.awaited(pair)))
            return -_PRICE * stake
        sums.add(index, (1,))
        return 0.0
