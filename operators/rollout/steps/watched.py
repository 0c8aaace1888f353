"""What one step of a release is watched for. Pure: from a spec and a release to what the judge is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from operators.core.spec_release import Judge, Release
from operators.rollout.evidence import Evidence, Judgement, Period
from operators.rollout.judge import judge
from operators.rollout.reading import Counters, Tally, added, control_period, shadow_period
from operators.rollout.routes import CONTROL_BP

Kind = Literal["shadow", "canary", "control"]


class Watched(BaseModel):
    """One step under watch; travels as JSON in a trigger's arguments.

    :param step: name of the task
    :param kind: control: after the promotion, when the old version keeps a control group
    :param canary: version on trial
    :param stable: version that it is compared with
    :param weights_bp: weights that the release has had so far, oldest first, with this step's
    :param harm_weight: share of the callers that the next step gives the canary
    :param late: whether it is held to labels and business numbers, which come later
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

    def policy(self, whole: Judge) -> Judge:
        """Return the part of the spec's judge that this step is held to."""
        held = whole if self.late else whole.without_late()
        return held.model_copy(update={"alpha": held.alpha * self.alpha_share})

    def judge(self, whole: Judge, evidence: Evidence, *, now: float) -> Judgement:
        """Ask the judge.

        :param whole: the spec's
        :param now: Unix time in seconds
        """
        return judge(
            self.policy(whole),
            evidence,
            elapsed_s=self.elapsed_s(now),
            bake_s=self.bake_s,
            min_requests=self.min_requests,
            harm_weight=self.harm_weight,
        )

    def elapsed_s(self, now: float) -> float:
        """Return how long the step has been watched, over all its tries; in milliseconds' steps, as it is recorded."""
        return round(max(0.0, now - self.began_at), 3)


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
