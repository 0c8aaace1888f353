"""One release, look by look, judged by the judge itself. Pure but for the generator that it is given."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from operators.core.spec_release import Judge
from operators.rollout.evidence import Arm, Evidence, Outcome, Period
from operators.rollout.judge import judge
from operators.rollout.simulation.feeds import ARM_COLUMNS, CANARY_BAD, CANARY_REQUESTS, Feed
from operators.rollout.simulation.labels import LabelFeed
from operators.rollout.simulation.phases import Phase

_FIRST_BLOCK, _LONGEST_BLOCK = 32, 1024
End = Literal["promoted", "rolled back", "inconclusive"]


@dataclass(frozen=True)
class Run:
    """How one release ended.

    :param phase: in which phase
    :param lasted_s: from the release's begin to that end; of a promoted one, to the promotion
    :param found_s: from the first moment at which the version could do harm to the rollback; None: not rolled back
    :param found_units: units that the judge had seen on it by then
    :param canary_requests: requests that the new version answered for callers, or would have without the fallback
    :param canary_bad: of these, failed or slow
    :param guard: that failed
    """

    end: End
    phase: str
    lasted_s: float
    found_s: float | None
    found_units: int | None
    canary_requests: int
    canary_bad: int
    guard: str | None = None


@dataclass
class Clock:
    """What the judge cost.

    :param looks: how often it was asked
    :param spent_s: in all
    """

    looks: int = 0
    spent_s: float = 0.0

    @property
    def look_us(self) -> float:
        """Mean time of one look."""
        return 1e6 * self.spent_s / self.looks if self.looks else 0.0


@dataclass
class Simulated:
    """A release under way.

    :param labels: gives the pairs whose labels have arrived; None: no labels
    :param harm_from_share: share of the callers from which on the new version is bad, if it is
    """

    policy: Judge
    feed: Feed
    look_s: float
    labels: LabelFeed | None = None
    harm_from_share: float = 0.0
    clock: Clock = field(default_factory=Clock)
    _now_s: float = 0.0
    _periods: list[Period] = field(default_factory=list)
    _harm_s: float | None = None
    _units: int = 0
    _requests: int = 0
    _bad: int = 0

    def run(self, phases: Sequence[Phase]) -> Run:
        """Go through all phases, or until the judge stops it."""
        promoted_s: float | None = None
        for phase in phases:
            if phase.kind == "watch":
                promoted_s = self._now_s
            if self._harm_s is None and phase.exposed_share >= self.harm_from_share:
                self._harm_s = self._now_s
            outcome, guard = self._watch(phase)
            if outcome is Outcome.FAILED:
                return self._end("rolled back", phase, guard=guard)
            if outcome is not Outcome.SUCCESSFUL and phase.kind != "watch":
                return self._end("inconclusive", phase)
        return self._end("promoted", phases[-1], lasted_s=promoted_s)

    def _end(self, end: End, phase: Phase, *, guard: str | None = None, lasted_s: float | None = None) -> Run:
        found = guard is not None
        return Run(
            end=end,
            phase=phase.name,
            lasted_s=self._now_s if lasted_s is None else lasted_s,
            found_s=self._now_s - (self._harm_s or 0.0) if found else None,
            found_units=self._units if found else None,
            canary_requests=self._requests,
            canary_bad=self._bad,
            guard=guard,
        )

    def _watch(self, phase: Phase) -> tuple[Outcome, str | None]:
        """Look at one phase until its verdict, as `JudgeTrigger` does."""
        self.feed.enter(phase)
        began_s, seen, row = self._now_s, None, (0,) * (2 * ARM_COLUMNS + 2)
        outcome, guard = Outcome.CONTINUE, None
        period = _period(phase, row)
        for row in self._rows(phase):
            elapsed_s = round(self._now_s - began_s, 3)
            last = elapsed_s + self.look_s > phase.max_wait_s
            period = _period(phase, row)
            if seen != row or elapsed_s >= phase.bake_s or last:
                outcome, guard = self._look(phase, period, elapsed_s)
                seen = row
            if self._ends(phase, outcome, elapsed_s):
                break
        if self._harm_s is not None:
            self._units += period.canary.requests
        self._periods.append(period)
        if phase.kind == "shadow":
            if self.labels:
                self.labels.stop(self._now_s)
        else:
            self._requests += row[CANARY_REQUESTS]
            self._bad += row[CANARY_BAD]
        return outcome, guard

    @staticmethod
    def _ends(phase: Phase, outcome: Outcome, elapsed_s: float) -> bool:
        if phase.kind == "watch":
            return outcome is Outcome.FAILED or elapsed_s >= phase.bake_s
        return outcome is not Outcome.CONTINUE

    def _rows(self, phase: Phase) -> Iterator[tuple[int, ...]]:
        """Give the counts of one look after another, to one look after the longest wait."""
        left = int(phase.max_wait_s / self.look_s) + 2
        size = min(max(_FIRST_BLOCK, int(phase.bake_s / self.look_s) + 1), _LONGEST_BLOCK)
        while left > 0:
            block = self.feed.block(self._now_s, min(size, left), self.look_s)
            for row in block.tolist():
                self._now_s += self.look_s
                yield tuple(row)
            left -= size
            size = min(2 * size, _LONGEST_BLOCK)

    def _look(self, phase: Phase, period: Period, elapsed_s: float) -> tuple[Outcome, str | None]:
        periods = (*self._periods, period)
        pairs = self.labels.at(self._now_s) if self.labels else None
        evidence = Evidence.model_construct(periods=periods, pairs=pairs)
        begun = time.perf_counter()
        judgement = judge(
            self.policy if phase.late else self.policy.without_late(),
            evidence,
            elapsed_s=elapsed_s,
            bake_s=phase.bake_s,
            min_requests=phase.min_requests,
            harm_weight=phase.harm_weight,
        )
        self.clock.spent_s += time.perf_counter() - begun
        self.clock.looks += 1
        if judgement.outcome is not Outcome.FAILED:
            return judgement.outcome, None
        return judgement.outcome, max(
            judgement.guards, key=lambda name: judgement.guards[name].e / judgement.guards[name].threshold
        )


def _period(phase: Phase, row: Sequence[int]) -> Period:
    """Return one phase's evidence. The counts are known to be sound; checking them again would cost more than the judge."""
    return Period.model_construct(
        weight=phase.weight, stable=_arm(row[:ARM_COLUMNS]), canary=_arm(row[ARM_COLUMNS : 2 * ARM_COLUMNS])
    )


def _arm(counts: Sequence[int]) -> Arm:
    requests, failed, slow, failed_first, slow_first = counts
    return Arm.model_construct(
        requests=requests, failed=failed, slow=slow, failed_first=failed_first, slow_first=slow_first
    )
