"""One simulated release, look by look. Pure, apart from the random numbers that it is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from operators.core.spec_judge import Judge
from operators.judge.evidence import Kind, Outcome, Period
from operators.judge.phases import Phase
from operators.planning.simulation.feeds import CANARY_BAD, CANARY_NEW, CANARY_REQUESTS, CANARY_UNITS, Feed
from operators.planning.simulation.first_verdict import first_verdict
from operators.planning.simulation.label_arrivals import LabelFeed
from operators.planning.simulation.phase_judge import GO_ON, Clock, PhaseJudge, SimulatedLook, Verdict

_FIRST_BLOCK, _LONGEST_BLOCK = 32, 1024
End = Literal["promoted", "rolled back", "inconclusive"]


@dataclass(frozen=True)
class Run:
    """How one release ended.

    :param phase: the phase in which it ended
    :param lasted_s: seconds from the begin of the release to its end; to the promotion, if it was promoted
    :param found_s: seconds from the moment at which the version became bad to the rollback; None: not rolled back
    :param found_units: the canary's units until the rollback
    :param exposed_units: callers that the new version answered at least once
    :param canary_requests: callers' requests that were sent to the new version
    :param canary_bad: how many of these failed or were slow
    :param why: the guard that failed, or what was missing
    """

    end: End
    phase: str
    lasted_s: float
    found_s: float | None
    found_units: int | None
    exposed_units: int
    canary_requests: int
    canary_bad: int
    why: str = ""


@dataclass
class SimulatedRelease:
    """A release that is going on.

    :param policy: the part of the spec's judge that can be simulated
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
    _periods: dict[Kind, tuple[Period, ...]] = field(default_factory=dict)
    _harm_s: float | None = None
    _units: int = 0
    _exposed: int = 0
    _requests: int = 0
    _bad: int = 0

    def run(self, phases: Sequence[Phase]) -> Run:
        """Go through all phases, or until the judge stops the release."""
        promoted_s: float | None = None
        for phase in phases:
            if phase.kind == "watch":
                promoted_s = self._now_s
            if self._harm_s is None and phase.exposed_share >= self.harm_from_share:
                self._harm_s = self._now_s
            verdict = self._watch(phase)
            if verdict.outcome is Outcome.FAILED:
                return self._end("rolled back", phase, why=verdict.why)
            if verdict.outcome is not Outcome.SUCCESSFUL and phase.kind != "watch":
                return self._end("inconclusive", phase, why=verdict.why)
        return self._end("promoted", phases[-1], lasted_s=promoted_s)

    def _end(self, end: End, phase: Phase, *, why: str = "", lasted_s: float | None = None) -> Run:
        back = end == "rolled back"
        return Run(
            end=end,
            phase=phase.name,
            lasted_s=self._now_s if lasted_s is None else lasted_s,
            found_s=self._now_s - (self._harm_s or 0.0) if back else None,
            found_units=self._units if back else None,
            exposed_units=self._exposed,
            canary_requests=self._requests,
            canary_bad=self._bad,
            why=why,
        )

    def _watch(self, phase: Phase) -> Verdict:
        """Look at one phase until its verdict, as `JudgeTrigger` does."""
        self.feed.enter(phase)
        earlier = self._periods.get(phase.kind, ())
        judge = PhaseJudge(self.policy, phase, earlier, self.clock)
        began_s, verdict, last = self._now_s, GO_ON, None
        for looks in self._looks(phase, began_s):
            index, verdict = first_verdict(judge, looks)
            last = looks[index]
            if verdict is not GO_ON:
                self.feed.leave(index + 1)
                break
        assert last is not None
        self._now_s = began_s + last.elapsed_s
        self._periods[phase.kind] = (*earlier, judge.period(last))
        if self._harm_s is not None:
            self._units += last.row[CANARY_UNITS]
        if phase.kind == "shadow":
            if self.labels:
                self.labels.stop(self._now_s)
        else:
            self._exposed += last.row[CANARY_NEW]
            self._requests += last.row[CANARY_REQUESTS]
            self._bad += last.row[CANARY_BAD]
        return verdict

    def _looks(self, phase: Phase, began_s: float) -> Iterator[list[SimulatedLook]]:
        """Give the looks of a phase, many at a time; the last one is after the longest wait."""
        total = ceil(phase.bake_s / self.look_s) if phase.kind == "watch" else int(phase.max_wait_s / self.look_s) + 1
        size = min(max(_FIRST_BLOCK, int(phase.bake_s / self.look_s) + 1), _LONGEST_BLOCK)
        done = 0
        while done < total:
            count = min(size, total - done)
            rows = self.feed.block(began_s + done * self.look_s, count, self.look_s).tolist()
            times_s = [round((done + number) * self.look_s, 3) for number in range(1, count + 1)]
            pairs = [self.labels.at(began_s + at_s) if self.labels else None for at_s in times_s]
            yield [SimulatedLook(*look) for look in zip(rows, times_s, pairs, strict=True)]
            done += count
            size = min(2 * size, _LONGEST_BLOCK)
