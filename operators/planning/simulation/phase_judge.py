"""The looks of one phase, and the verdicts on them. The judge is the one of production."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from operators.core.spec_judge import Judge
from operators.judge.evidence import Arm, Evidence, Judgement, Outcome, Pairs, Period
from operators.judge.phases import Phase
from operators.planning.simulation.feeds import ARM_COLUMNS


class SimulatedLook(NamedTuple):
    """The counts and labels of one moment.

    :param row: cumulative counts of the phase, columns as in `feeds`
    :param elapsed_s: seconds since the phase began
    """

    row: Sequence[int]
    elapsed_s: float
    pairs: Pairs | None = None


class Verdict(NamedTuple):
    """How a phase ends.

    :param why: the guard that failed, or what was missing
    """

    outcome: Outcome
    why: str = ""


GO_ON = Verdict(Outcome.CONTINUE)


@dataclass
class Clock:
    """What the judge cost.

    :param looks: number of looks
    :param asked: how often the judge was asked
    :param spent_s: real seconds that its answers took, all together
    """

    looks: int = 0
    asked: int = 0
    spent_s: float = 0.0


class PhaseJudge:
    """The judge of one phase.

    :param policy: of the whole release
    :param earlier: evidence of the earlier phases of the same kind; another kind counts the units anew
    """

    def __init__(self, policy: Judge, phase: Phase, earlier: tuple[Period, ...], clock: Clock) -> None:
        self.phase, self.clock = phase, clock
        self._policies = phase.policies(policy)
        self._earlier = earlier

    def ask(self, look: SimulatedLook) -> Judgement:
        """Ask the judge about a look."""
        evidence = Evidence.model_construct(periods=(*self._earlier, self.period(look)), pairs=look.pairs)
        begun = time.perf_counter()
        judgement = self.phase.judge(self._policies, evidence, elapsed_s=look.elapsed_s)
        self.clock.spent_s += time.perf_counter() - begun
        self.clock.asked += 1
        return judgement

    def verdict(self, look: SimulatedLook) -> Verdict:
        """Return how a look ends the phase, or ``GO_ON``."""
        judgement = self.ask(look)
        if judgement.outcome is Outcome.FAILED:
            over = {name: guard.e / guard.threshold for name, guard in judgement.guards.items()}
            return Verdict(Outcome.FAILED, max(over, key=lambda name: over[name]))
        if judgement.outcome is Outcome.CONTINUE or self.phase.kind == "watch":
            return GO_ON
        late = look.elapsed_s > self.phase.max_wait_s
        why = "" if judgement.outcome is Outcome.SUCCESSFUL else "too little evidence" if late else "the split"
        return Verdict(judgement.outcome, why)

    def period(self, look: SimulatedLook) -> Period:
        """Return the phase's evidence. Its counts are not validated: that would take longer than to judge them."""
        row = look.row
        return Period.model_construct(
            kind=self.phase.kind,
            weight=self.phase.weight,
            stable=_arm(row[:ARM_COLUMNS]),
            canary=_arm(row[ARM_COLUMNS : 2 * ARM_COLUMNS]),
        )


def _arm(counts: Sequence[int]) -> Arm:
    requests, failed, slow, failed_first, slow_first = counts
    return Arm.model_construct(
        requests=requests, failed=failed, slow=slow, failed_first=failed_first, slow_first=slow_first
    )
