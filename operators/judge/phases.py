"""The phases of a release, and what the judge is asked in each. Pure: from a spec to phases, from evidence to a judgement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from operators.core.frozen import Frozen
from operators.core.spec_judge import Judge
from operators.core.spec_release import CONTROL_BP, Release
from operators.judge.evidence import Evidence, Judgement, Kind, Outcome
from operators.judge.policy import judge
from operators.judge.tally import weight_of

SHADOW, WATCH = "shadow", "watch"  # names of the steps of these kinds; a canary has several, with names of their own
FROZEN = "_frozen"  # ends the name of a step that keeps the weight before it until a freeze is over


class Phase(Frozen):
    """One part of a release: the shadow, a step of the canary, or the watch after the promotion.

    :param weights_bp: weights at the edge in basis points that this kind of phase has had, oldest first, with this one's: of the
        shadow's sample, of the canary, of the old version's control group
    :param pool_bp: share of the units that may see a canary: those that are not held out
    :param bake_s: how long it is observed at least
    :param max_wait_s: after this the judge says Inconclusive; for a watch: when it ends
    :param min_requests: units that each arm needs
    :param harm_weight: share of the callers that what comes next gives the new version
    :param late: whether it must satisfy the guards on labels and business numbers, which come later. If not, they have a veto
    :param alpha_share: share of the release's alpha: shadow, canary and watch count the same units anew, so each has its own
    """

    kind: Kind
    weights_bp: tuple[int, ...]
    pool_bp: int = 10_000
    bake_s: float
    max_wait_s: float
    min_requests: int
    harm_weight: float
    late: bool = False
    alpha_share: float = 1.0

    @property
    def name(self) -> str:
        """The phase for people."""
        return f"{self.weights_bp[-1] / 100:g} %" if self.kind == "canary" else self.kind

    @property
    def weight(self) -> float:
        """The canary's share of what is compared."""
        return weight_of(self.kind, self.weights_bp[-1], self.pool_bp)

    @property
    def canary_share(self) -> float:
        """Of all units, those whose requests the new version answers, or gets a copy of."""
        share = self.weights_bp[-1] / 10_000
        return 1 - share if self.kind == "watch" else share

    @property
    def stable_share(self) -> float:
        """Of all units, those that the canary is compared with."""
        if self.kind == "shadow":
            return 1.0
        return self.weights_bp[-1] / 10_000 if self.kind == "watch" else self.pool_bp / 10_000 - self.canary_share

    @property
    def exposed_share(self) -> float:
        """Of all units, those whose callers get the new version's answer."""
        return 0.0 if self.kind == "shadow" else self.canary_share

    def policies(self, whole: Judge) -> tuple[Judge, ...]:
        """Return the part of the spec's judge that this phase must satisfy, and then the part that has a veto.

        All phases share one test on the labels, with one threshold, so checking it in each does not use up more of alpha.
        """
        return policies(whole, late=self.late, alpha_share=self.alpha_share)

    def judge(self, policies: Sequence[Judge], evidence: Evidence, *, elapsed_s: float) -> Judgement:
        """Ask the judge.

        :param policies: what `policies` has returned
        :param elapsed_s: since the phase began
        """
        return judge_parts(
            policies,
            evidence,
            elapsed_s=elapsed_s,
            bake_s=self.bake_s,
            min_requests=self.min_requests,
            harm_weight=self.harm_weight,
        )


def policies(whole: Judge, *, late: bool, alpha_share: float) -> tuple[Judge, ...]:
    """Return the parts of the spec's judge, with the alpha that a phase may spend.

    :param late: as for `Phase`
    :param alpha_share: likewise
    """
    parts = whole.parts(late=late)
    return tuple(part.model_copy(update={"alpha": part.alpha * alpha_share}) for part in parts)


def alpha_share(release: Release) -> float:
    """Return which share of the release's alpha each of shadow, canary and watch may spend."""
    return 1 / (1 + (release.shadow is not None) + (release.watch_s is not None))


def judge_parts(
    policies: Sequence[Judge],
    evidence: Evidence,
    *,
    elapsed_s: float,
    bake_s: float,
    min_requests: int | None,
    harm_weight: float,
) -> Judgement:
    """Ask the judge: the first policy decides, and the others have a veto."""
    ask = partial(
        judge,
        evidence=evidence,
        elapsed_s=elapsed_s,
        bake_s=bake_s,
        min_requests=min_requests,
        harm_weight=harm_weight,
    )
    judgement = ask(policies[0])
    for policy in policies[1:]:
        if judgement.outcome is not Outcome.FAILED and (other := ask(policy)).outcome is Outcome.FAILED:
            judgement = other.model_copy(update={"part": "veto"})
    return judgement


def phases_of(release: Release) -> tuple[Phase, ...]:
    """Return the phases of a release in their order."""
    return (
        *([shadow_phase(release)] if release.shadow else []),
        *(canary_phase(release, index) for index in range(len(release.steps))),
        *([watch_phase(release)] if release.watch_s else []),
    )


def shadow_phase(release: Release) -> Phase:
    """Return the shadow of a release that has one. It harms nobody, so its margin is that of the first step's weight."""
    if release.shadow is None:
        raise ValueError("this release has no shadow")
    return Phase(
        kind="shadow",
        weights_bp=(round(release.shadow.sample_pct * 100),),
        bake_s=release.shadow.bake_s,
        max_wait_s=max(release.shadow.bake_s, release.judge.max_wait_s),
        min_requests=release.shadow.min_requests,
        # Labels that must pass before any caller meets the version are judged for all callers: no later step asks them again.
        harm_weight=1.0 if release.shadow.await_labels else release.steps[0].weight_pct / 100,
        late=release.shadow.await_labels,
        alpha_share=alpha_share(release),
    )


def canary_phase(release: Release, index: int) -> Phase:
    """Return a step of the canary.

    :param index: which of the spec's steps
    """
    step = release.steps[index]
    return Phase(
        kind="canary",
        weights_bp=tuple(one.weight_bp for one in release.steps[: index + 1]),
        pool_bp=10_000 - round(release.holdout_pct * 100),
        bake_s=step.bake_s,
        max_wait_s=max(step.bake_s, release.judge.max_wait_s),
        min_requests=step.min_requests or release.judge.min_requests,
        harm_weight=release.steps[index + 1].weight_pct / 100 if index + 1 < len(release.steps) else 1.0,
        alpha_share=alpha_share(release),
    )


def watch_phase(release: Release) -> Phase:
    """Return the watch after a promotion: the version has all callers already."""
    watch_s = release.watch_s or 0.0
    return Phase(
        kind="watch",
        weights_bp=(CONTROL_BP,),
        bake_s=watch_s,
        max_wait_s=watch_s,
        min_requests=1,
        harm_weight=1.0,
        late=True,
        alpha_share=alpha_share(release),
    )
