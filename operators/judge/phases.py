"""What one step of a release is watched for. Pure: from a spec and a release to what the judge is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from operators.core.spec_judge import Judge
from operators.core.spec_release import Release
from operators.core.traffic import Counters
from operators.judge.evidence import Evidence, Judgement, Outcome, Period
from operators.judge.policy import judge
from operators.judge.tally import Tally, added, control_period, shadow_period
from operators.traffic.routes import CONTROL_BP

Kind = Literal["shadow", "canary", "control"]
SHADOW, WATCH = "shadow", "watch"  # names of the steps of these kinds; a canary has several, with names of their own
FROZEN = "_frozen"  # ends the name of what is watched while a step waits for the end of a freeze


class Watched(BaseModel):
    """One step under watch; travels as JSON in a trigger's arguments.

    :param step: name of the task
    :param kind: control: after the promotion, when the old version keeps a control group
    :param canary: version on trial
    :param stable: version that it is compared with
    :param weights_bp: weights that the release has had so far, oldest first, with this step's
    :param harm_weight: share of the callers that the next step gives the canary
    :param deadline_s: after which the edge cuts off a canary
    :param late: whether it is held to labels and business numbers, which come later. If not, they can only fail it
    :param alpha_share: of the release's budget: shadow, canary and watch count the same units anew, so each has its own part
    :param released_at: Unix time in seconds when the release began
    :param began_at: Unix time in seconds when the step began, the first try of it
    :param before: the counters when this try of the step began
    :param earlier: what this phase had shown by then, in steps before and in earlier tries
    """

    model_config = ConfigDict(frozen=True)

    model: str
    release_id: str
    step: str
    kind: Kind
    canary: str
    stable: str
    weights_bp: tuple[int, ...]
    pool_bp: int
    shadow_bp: int = 0
    bake_s: float
    min_requests: int
    harm_weight: float
    lease_s: float
    deadline_s: float = 2.0
    late: bool = False
    alpha_share: float = 1.0
    released_at: float
    began_at: float
    before: Counters
    earlier: tuple[Period, ...] = ()

    def periods(self, tally: Tally) -> tuple[Period, ...]:
        """Return what the release has shown, by weight."""
        return added(self.earlier, self._gained(tally))

    def _gained(self, tally: Tally) -> tuple[Period, ...]:
        if self.kind == "shadow":
            return (shadow_period(tally, shadow=self.canary, stable=self.stable, shadow_bp=self.shadow_bp),)
        canary = tally.periods(canary=self.canary, stable=self.stable, weights_bp=self.weights_bp, pool_bp=self.pool_bp)
        if self.kind == "canary":
            return canary
        return (*canary, control_period(tally, new=self.canary, old=self.stable, control_bp=CONTROL_BP))

    def policies(self, whole: Judge) -> tuple[Judge, ...]:
        """Return the part of the spec's judge that this step is held to, and then what can only fail it.

        Labels of what the shadow answered are one sequence through all steps, with one threshold: to look at them again costs
        nothing of alpha.
        """
        return policies(whole, late=self.late, alpha_share=self.alpha_share)

    def policy(self, whole: Judge, said: Judgement) -> Judge:
        """Return which part it was that has said this."""
        policies = self.policies(whole)
        return next((policy for policy in policies if set(policy.guards) == set(said.guards)), policies[0])

    def judge(self, whole: Judge, evidence: Evidence, *, now: float) -> Judgement:
        """Ask the judge.

        :param whole: the spec's
        :param now: Unix time in seconds
        """
        return judge_parts(
            self.policies(whole),
            evidence,
            elapsed_s=self.elapsed_s(now),
            bake_s=self.bake_s,
            min_requests=self.min_requests,
            harm_weight=self.harm_weight,
        )

    def elapsed_s(self, now: float) -> float:
        """Return how long the step has been watched, over all its tries; in milliseconds' steps, as it is recorded."""
        return round(max(0.0, now - self.began_at), 3)


def policies(whole: Judge, *, late: bool, alpha_share: float) -> tuple[Judge, ...]:
    """Return the parts of the spec's judge with the alpha that a phase may spend.

    :param late: as for `Watched`
    :param alpha_share: likewise
    """
    parts = whole.parts(late=late)
    return tuple(part.model_copy(update={"alpha": part.alpha * alpha_share}) for part in parts)


def alpha_share(release: Release) -> float:
    """Return which part of the release's alpha each of shadow, canary and watch may spend."""
    return 1 / (1 + (release.shadow is not None) + (release.watch_s is not None))


def judge_parts(policies: Sequence[Judge], evidence: Evidence, **asked: Any) -> Judgement:
    """Ask the judge: the first policy has the say, the others are heard only if they say Failed.

    :param asked: as for `judge`
    """
    said = judge(policies[0], evidence, **asked)
    for policy in policies[1:]:
        if said.outcome is not Outcome.FAILED:
            other = judge(policy, evidence, **asked)
            said = other if other.outcome is Outcome.FAILED else said
    return said


def shadow_step(release: Release) -> dict[str, float | int]:
    """Return what a shadow step is asked: it harms nobody, so the first weight is what its margin is measured by."""
    if release.shadow is None:
        raise ValueError("this release has no shadow")
    return {
        "bake_s": release.shadow.bake_s,
        "min_requests": release.shadow.min_requests,
        # Labels that must speak before anybody meets the version speak for all callers: no later step asks them again.
        "harm_weight": 1.0 if release.shadow.await_labels else release.steps[0].weight_pct / 100,
    }


def canary_step(release: Release, index: int) -> dict[str, float | int]:
    """Return what a canary step is asked.

    :param index: which of the spec's steps
    """
    step = release.steps[index]
    following = release.steps[index + 1].weight_pct / 100 if index + 1 < len(release.steps) else 1.0
    return {
        "bake_s": step.bake_s,
        "min_requests": step.min_requests or release.judge.min_requests,
        "harm_weight": following,
    }


def control_step(release: Release) -> dict[str, float | int]:
    """Return what the watch after a promotion is asked: the version has all callers already."""
    return {"bake_s": release.watch_s or 0.0, "min_requests": 1, "harm_weight": 1.0}
