"""The labels of requests that both shadow and stable answered, as they arrive."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

from pydantic import Field

from operators.core.frozen import Exact
from operators.judge.evidence import PairCounts, Pairs


class Labelling(Exact):
    """How many requests get a label, when, and how often the two versions differ in being right.

    :param share: share of the requests that get a label
    :param delay_s: seconds from the request to its label
    :param disagree: share of the pairs in which just one of two equally good versions is right; each is right in half of them
    """

    share: float = Field(0.5, ge=0, le=1)
    delay_s: float = Field(60.0, ge=0)
    disagree: float = Field(0.06, gt=0, le=1)


@dataclass
class LabelFeed:
    """The pairs of one release.

    :param rng: numpy's generator
    :param copied_per_s: requests per second that both versions answer while the shadow runs
    :param wrong: share of the pairs that the new version gets wrong in addition
    :param block_s: length of a block in seconds; None: each pair counts by itself
    """

    rng: Any
    labelling: Labelling
    copied_per_s: float
    wrong: float
    block_s: float | None = None
    _stopped_s: float = inf
    _until_s: float = 0.0
    _counts: list[int] = field(default_factory=lambda: [0, 0, 0])
    _block: list[int] = field(default_factory=lambda: [0, 0, 0])
    _blocks: tuple[PairCounts, ...] = ()
    _index: int = 0

    def stop(self, now_s: float) -> None:
        """Copy no more requests; the labels of those that were copied still come."""
        self._stopped_s = now_s

    def at(self, now_s: float) -> Pairs:
        """Return the pairs whose label has arrived by now."""
        until_s = min(self._stopped_s, now_s - self.labelling.delay_s)
        while until_s > self._until_s:
            self._go_on(until_s)
        total, stable, canary = self._counts
        return Pairs.model_construct(
            total=total, stable_only_wrong=stable, canary_only_wrong=canary, answered=total, blocks=self._blocks
        )

    def _go_on(self, until_s: float) -> None:
        """Add the pairs that were copied up to a moment, or to the end of the block if that is sooner."""
        labelling = self.labelling
        ends_s = (self._index + 1) * self.block_s if self.block_s else inf
        reached_s = min(until_s, ends_s)
        total = self.rng.poisson(self.copied_per_s * labelling.share * (reached_s - self._until_s))
        better = labelling.disagree / 2
        worse = min(better + self.wrong, 1 - better)
        stable, canary, _ = self.rng.multinomial(total, [better, worse, 1 - better - worse])
        gained = int(total), int(stable), int(canary)
        for counts in (self._counts, self._block):
            counts[:] = [before + number for before, number in zip(counts, gained, strict=True)]
        if reached_s == ends_s:
            total, stable, canary = self._block
            passed = PairCounts(total=total, stable_only_wrong=stable, canary_only_wrong=canary, answered=total)
            self._blocks, self._block, self._index = (*self._blocks, passed), [0, 0, 0], self._index + 1
        self._until_s = reached_s
