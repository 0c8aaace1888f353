"""From answers and labels to evidence: which labels count, and what they show. Pure: no clock, no I/O.

Labels come late, and how late may depend on the label: a flight that lands in time is known to be in time before a late one is
known to be late. If the judge used every label as soon as it is there, it would judge by the early labels, and roll back a
version that is worse only on those. So the answers are taken in the order in which they were given, and only a prefix of them
counts: from the first answer up to a cut-off.

Some labels of the prefix may still be missing. A missing label counts against what is to be proven: for the canary where harm is
to be proven, for stable where harm is to be ruled out. Two answers that agree need no label: it would be the same for both.
So the evidence of a prefix is at most what it will be once all its labels are there, and that final evidence is an e-process
along the answers. It bounds the chance of a false alarm for all prefixes at once (Ville's inequality). Neither the choice of the
cut-off, nor which labels come first, nor which never come, can raise that chance. A few labels that never come weaken the
evidence a little, and the judge does not wait for them.

A label that comes after its time is left out for good, for both versions: the evidence of a settled answer never changes. A unit
counts once, by its first answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import chain
from math import isfinite
from typing import ClassVar, NamedTuple, Protocol

from operators.judge.evidence import Losses, LossSums, PairCounts, Pairs

# One missing label lowers an e-value about as much as seven labels raise it.
_PRICE = 7.0
FIRST = (-(2**62), 0)
"""A place before all answers: time in microseconds and hash of a request."""
Sums = tuple[float, ...]
"""The numbers of one pair, or their sums over several pairs."""


class PendingAnswer(Protocol):
    """An answer that waits for its label or for its business number."""

    @property
    def at_us(self) -> int:
        """Unix time in microseconds of the answer."""

    @property
    def arrived_us(self) -> int | None:
        """When the label became known; None: not yet."""


class Pair(NamedTuple):
    """A request that both versions answered.

    :param at_us: Unix time in microseconds when stable answered
    :param request: hash of the request's id, which tells requests of one moment apart
    :param label: None: not known yet
    :param arrived_us: when the label became known; None: not yet
    """

    at_us: int
    request: int
    stable: float
    canary: float
    label: float | None
    arrived_us: int | None


def label_counts(answer: PendingAnswer, *, now_us: int, within_us: int) -> bool | None:
    """Say whether an answer's label counts; None: it may still come.

    :param within_us: how long after its answer a label may come and still count
    """
    closes_us = answer.at_us + within_us
    if answer.arrived_us is not None and answer.arrived_us <= min(now_us, closes_us):
        return True
    return None if closes_us > now_us else False


class Measure(ABC):
    """What a guard measures on a pair: some numbers, which are then summed over the pairs."""

    names: ClassVar[tuple[str, ...]]  # of the numbers. The sums have one more in front: the count of the answers
    types: ClassVar[tuple[type[Pairs], type[PairCounts]] | tuple[type[Losses], type[LossSums]]]

    @abstractmethod
    def stake(self, pair: Pair) -> float:
        """Return by how much the pair's label can favour one version at most; 0: it favours neither, whatever it is."""

    @abstractmethod
    def labelled(self, pair: Pair, label: float) -> Sums:
        """Return the numbers of a labelled pair."""

    @abstractmethod
    def unlabelled(self, pair: Pair) -> Sums:
        """Return the numbers of a pair whose label may still come."""

    def evidence(self, whole: Sums, blocks: Iterable[Sums]) -> Pairs | Losses:
        """Return the evidence.

        :param whole: the sums over all pairs
        :param blocks: the sums over each block that has passed
        """
        of_all, of_block = self.types
        names = ("answered", *self.names)
        passed = tuple(of_block.model_validate(dict(zip(names, block, strict=True))) for block in blocks)
        return of_all.model_validate({**dict(zip(names, whole, strict=True)), "blocks": passed})


class RightOrWrong(Measure):
    """Counts which version was wrong.

    :param threshold: a prediction at or over it says yes. A label at or over 0.5 says yes
    """

    names = ("total", "stable_only_wrong", "canary_only_wrong", "open")
    types = (Pairs, PairCounts)

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def stake(self, pair: Pair) -> float:
        """Return 1 if the answers differ, else 0."""
        return float((pair.stable >= self._threshold) != (pair.canary >= self._threshold))

    def labelled(self, pair: Pair, label: float) -> Sums:
        """Count the pair, and which version alone was wrong."""
        if not self.stake(pair):
            return 1, 0, 0, 0
        canary_right = (pair.canary >= self._threshold) == (label >= 0.5)
        return 1, int(canary_right), int(not canary_right), 0

    def unlabelled(self, pair: Pair) -> Sums:
        """Count the pair as open if the answers differ."""
        return 0, 0, 0, int(self.stake(pair))


class ErrorDifference(Measure):
    """Measures how much larger the canary's absolute error is than stable's.

    :param largest: a larger error counts as this, so that the difference is bounded
    """

    names = ("count", "total", "squares", "open", "open_total", "open_squares")
    types = (Losses, LossSums)

    def __init__(self, largest: float) -> None:
        self._largest = largest

    def stake(self, pair: Pair) -> float:
        """Return the distance of the answers. Their errors to the same label differ by no more."""
        return self._clipped(pair.canary - pair.stable)

    def labelled(self, pair: Pair, label: float) -> Sums:
        """Add the difference of the errors."""
        difference = self._clipped(pair.canary - label) - self._clipped(pair.stable - label)
        return 1, difference, difference * difference, 0, 0, 0

    def unlabelled(self, pair: Pair) -> Sums:
        """Add the largest possible difference as open."""
        stake = self.stake(pair)
        return 0, 0, 0, 1, stake, stake * stake

    def _clipped(self, error: float) -> float:
        return min(abs(error), self._largest) if isfinite(error) else self._largest


class State(NamedTuple):
    """The sums after some answer.

    :param passed: how many blocks had passed by then
    """

    whole: Sums
    passed: int


class BlockSums:
    """Sums over the answers so far, and over each block of time that has passed.

    :param size: how many numbers are summed, with the count of the answers
    """

    def __init__(self, size: int) -> None:
        self.passed: list[Sums] = []
        self._zero = [0.0] * size
        self._whole, self._block = list(self._zero), list(self._zero)
        self._index = 0

    def add(self, index: int, numbers: Sums) -> None:
        """Add numbers to the whole and to their block.

        :param index: the block's index
        """
        self.reach(index)
        for sums in (self._whole, self._block):
            for at, number in enumerate(numbers):
                sums[at] += number

    def reach(self, index: int) -> None:
        """Enter a block: those before it have passed."""
        if index != self._index:
            if self._block[0]:
                self.passed.append(tuple(self._block))
            self._block, self._index = list(self._zero), index

    def state(self) -> State:
        """Return the sums so far."""
        return State(tuple(self._whole), len(self.passed))


class PairTally:
    """Counts the pairs of a release, look by look: settled pairs once, the others anew at each look.

    :param begin_us: Unix time in microseconds when the first block begins
    :param block_us: length of a block; None: all pairs are in one block, which never passes
    :param within_us: how long after its answer a label may come and still count
    """

    def __init__(self, measure: Measure, *, begin_us: int, block_us: int | None, within_us: int) -> None:
        self.after: tuple[int, int] = FIRST
        self._measure = measure
        self._begin_us, self._block_us, self._within_us = begin_us, block_us, within_us
        self._settled = BlockSums(1 + len(measure.names))
        self.evidence = measure.evidence(self._settled.state().whole, ())

    def take(self, pairs: Iterable[Pair], *, now_us: int, until_us: int) -> None:
        """Take all pairs after the place `after`, in the order of the answers, and set `evidence`.

        :param until_us: the pairs up to this moment are all there
        """
        rest = iter(pairs)
        unsettled = chain(self._settle(rest, now_us), rest)
        sums = deepcopy(self._settled)
        # Choose the longest prefix whose labels outweigh its missing ones. More labels and answers only make it longer.
        best = score = 0.0
        chosen, to_the_end = sums.state(), True
        for pair in unsettled:
            score += self._count(sums, pair, now_us)
            to_the_end = score >= best
            if to_the_end:
                best, chosen = score, sums.state()
        if to_the_end:
            sums.reach(self._block_of(until_us))
            chosen = sums.state()
        self.evidence = self._measure.evidence(chosen.whole, sums.passed[: chosen.passed])

    def _settle(self, pairs: Iterator[Pair], now_us: int) -> list[Pair]:
        """Count pairs for good, up to the first whose label may still come, and return that one, if there is one."""
        for pair in pairs:
            if label_counts(pair, now_us=now_us, within_us=self._within_us) is None:
                return [pair]
            self._count(self._settled, pair, now_us)
            self.after = (pair.at_us, pair.request)
        return []

    def _block_of(self, at_us: int) -> int:
        return (at_us - self._begin_us) // self._block_us if self._block_us else 0

    def _count(self, sums: BlockSums, pair: Pair, now_us: int) -> float:
        """Add a pair to the sums, and return what it adds to the score of the prefix."""
        counts = label_counts(pair, now_us=now_us, within_us=self._within_us)
        index, stake = self._block_of(pair.at_us), self._measure.stake(pair)
        if counts and pair.label is not None:
            sums.add(index, (1, *self._measure.labelled(pair, pair.label)))
            return stake
        if counts is None and stake:
            sums.add(index, (1, *self._measure.unlabelled(pair)))
            return -_PRICE * stake
        sums.add(index, (1,))
        return 0.0
