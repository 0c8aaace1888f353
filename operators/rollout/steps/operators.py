"""The tasks that the judge ends: shadow, canary steps, the watch after a promotion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.core.spec import ModelSpec
from operators.core.spec_operations import Moment
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.judge.phases import (
    FROZEN,
    SHADOW,
    WATCH,
    Kind,
    Watched,
    alpha_share,
    canary_step,
    control_step,
    shadow_step,
)
from operators.rollout.freeze import frozen_until
from operators.rollout.notifiers import tell
from operators.rollout.operators import ReleaseOperator, controller_of
from operators.rollout.steps.looker import Look
from operators.rollout.steps.triggers import JudgeTrigger, opened, outcome_of, write_verdict
from operators.traffic.limits import AnswerLimits, limits_from

if TYPE_CHECKING:
    from operators.rollout.controller import Controller


_KIND_OF_STEP: Mapping[str, Kind] = {SHADOW: "shadow", WATCH: "control"}


class StepTask:
    """Base of the tasks during which a version is watched."""

    spec: ModelSpec
    release: Any
    task_id: str
    log: Any

    def controller(self) -> Controller:
        """Return the moves of this model's release."""
        return controller_of(self.spec.name)

    def before(self, controller: Controller, kind: Kind) -> dict[str, Any]:
        """Read the counters, and what the release has shown in this phase so far. To be called before the weight changes."""
        looks = controller.ledger.looks(self.release["release_id"])
        mine = [look for look in looks if _KIND_OF_STEP.get(look.step, "canary") == kind]
        known = Evidence.model_validate(mine[-1].evidence) if mine else Evidence()
        counters = controller.agent.counters(self.spec.name)
        before = counters.of(self.release["version"], self.release["stable"])
        return {"kind": kind, "before": before, "earlier": known.periods}

    def watched(self, **facts: Any) -> Watched:
        """Return what this step is watched for."""
        release = self.spec.release
        return Watched(
            model=self.spec.name,
            release_id=self.release["release_id"],
            canary=self.release["version"],
            stable=self.release["stable"],
            pool_bp=10_000 - round(release.holdout_pct * 100),
            lease_s=release.lease_s,
            alpha_share=alpha_share(release),
            released_at=self.release["began_at"],
            **{"step": self.task_id, **facts},
        )

    def note(self, event: Mapping[str, Any], watched: str) -> Judgement:
        """Write a verdict down, with all that it rests on.

        :param event: as the trigger has sealed it
        :param watched: JSON of the `Watched`
        """
        about, look = Watched.model_validate_json(watched), Look.model_validate_json(event["look"])
        write_verdict(self.controller(), self.spec.release.judge, about, look, blind=event["blind"])
        self.log.info("%s: %s", look.judgement.outcome, look.judgement.reason)
        return look.judgement

    def tell(self, moment: Moment, text: str, context: Any) -> None:
        """Notify whom the spec names."""
        facts = {name: self.release[name] for name in ("release_id", "version", "stable")}
        tell(self.spec, moment, text, context, **facts)


class StepOperator(StepTask, ReleaseOperator):
    """Base of the tasks that end with a verdict of the judge."""

    def wait(self, watched: Watched, *, then: str, until: float | None = None) -> None:
        """Watch without a worker slot.

        :raises TaskDeferred: always
        """
        trigger = JudgeTrigger(spec=self.spec.to_json(), watched=watched.model_dump(mode="json"), until=until)
        self.defer(trigger=trigger, method_name=then, kwargs={"watched": watched.model_dump_json()})

    def resume(self, context: Any, event: Mapping[str, Any], watched: str) -> dict[str, Any]:
        """Write the verdict down, and go on, ask, or fail.

        :raises AirflowFailException: the release ends here; the rollback task does the rest
        """
        judgement = self.note(event, watched)
        said = {"step": self.task_id, "outcome": str(judgement.outcome), "reason": judgement.reason}
        if judgement.outcome is Outcome.SUCCESSFUL:
            self.tell("step", f"{self.task_id}: {judgement.reason}", context)
            return said
        asks = self.spec.release.approval.mode == "ask" and not event["blind"]
        if judgement.outcome is Outcome.INCONCLUSIVE and asks:
            return said
        raise AirflowFailException(f"{judgement.outcome}: {judgement.reason}")


class ShadowOperator(StepOperator):
    """Copy live requests to the version, and wait for the judge. No caller sees the answers; the prediction log keeps
    them.

    :returns: the verdict, with ``outcome`` and ``reason``
    :raises AirflowFailException: the verdict is not Successful
    """

    def execute(self, context: Any) -> None:
        """Start copying, and wait."""
        if self.release["stable"] is None:
            raise AirflowSkipException("there is no traffic to copy before the first release")
        shadow = self.spec.release.shadow
        if shadow is None:
            raise AirflowSkipException("the spec has no shadow")
        controller, stable = self.controller(), self.release["stable"]
        known = self.before(controller, "shadow")
        move = controller.start_shadow(
            self.release["release_id"],
            self.spec.release,
            stable=stable,
            version=self.release["version"],
            limits=limits(self.spec, controller, self.release),
        )
        watched = self.watched(
            **known,
            began_at=move.at.timestamp(),
            deadline_s=move.route.canary_timeout_ms / 1000,
            weights_bp=(),
            shadow_bp=round(shadow.sample_pct * 100),
            late=shadow.await_labels,
            **shadow_step(self.spec.release),
        )
        self.wait(watched, then="resume")


class CanaryStepOperator(StepOperator):
    """Give the canary the share of one step, and wait for the judge.

    If the task is killed and runs again, it goes on with the evidence that it has.

    :param index: number of the step in the spec, from 0
    :returns: the verdict, with ``outcome`` and ``reason``
    :raises AirflowFailException: the verdict is not Successful; the rollback task does the rest
    """

    def __init__(self, *, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.index = index

    def execute(self, context: Any) -> None:
        """Wait for the end of a freeze, set the weight, and wait for the judge."""
        if self.release["stable"] is None:
            raise AirflowSkipException("there is nothing to compare the first release with")
        frozen = frozen_until(self.spec.release.freeze, datetime.now(UTC))
        if frozen is not None:
            self._wait_out(frozen, context)
        controller = self.controller()
        known = self.before(controller, "canary")
        move = controller.set_route(
            self.release["release_id"],
            self.task_id,
            self.spec.release,
            stable=self.release["stable"],
            version=self.release["version"],
            weight_bp=self.spec.release.steps[self.index].weight_bp,
            limits=limits(self.spec, controller, self.release),
        )
        facts = {"began_at": move.at.timestamp(), "deadline_s": move.route.canary_timeout_ms / 1000}
        self.wait(self._watched(self.index, **facts, **known), then="resume")

    def thaw(self, context: Any, event: Any, watched: str | None = None) -> None:
        """Begin the step, unless the canary has shown itself bad at the weight before."""
        if watched is not None and (event["blind"] or outcome_of(opened(event)) is Outcome.FAILED):
            judgement = self.note(event, watched)
            raise AirflowFailException(f"{judgement.outcome}: {judgement.reason}")
        self.execute(context)

    def _wait_out(self, frozen: tuple[datetime, str], context: Any) -> None:
        """Keep the weight that there is, and its watch, until the freeze ends."""
        until, reason = frozen
        text = f"{self.task_id} waits until {until.isoformat(timespec='minutes')}: {reason or 'releases are frozen'}"
        self.log.info(text)
        self.tell("pause", text, context)
        if self.index == 0:
            self.defer(trigger=DateTimeTrigger(moment=until), method_name="thaw")
        known = self.before(self.controller(), "canary")
        watched = self._watched(self.index - 1, began_at=time.time(), step=self.task_id + FROZEN, **known)
        self.wait(watched, then="thaw", until=until.timestamp())

    def _watched(self, index: int, **facts: Any) -> Watched:
        weights = tuple(step.weight_bp for step in self.spec.release.steps[: index + 1])
        return self.watched(weights_bp=weights, **canary_step(self.spec.release, index), **facts)


class WatchOperator(StepOperator):
    """Watch the promoted version. The old one keeps a small control group, and gets all traffic back if the new one
    is worse.

    :returns: the verdict, with ``outcome`` and ``reason``
    :raises AirflowFailException: the verdict is Failed; the rollback task does the rest
    """

    def execute(self, context: Any) -> None:
        """Wait; the promotion has given the old version its control group."""
        watch_s = self.spec.release.watch_s
        if self.release["stable"] is None or watch_s is None:
            raise AirflowSkipException("there is no version to go back to, or the spec has no watch")
        controller = self.controller()
        known = self.before(controller, "control")
        began_at = controller.watch(self.release["release_id"]).at.timestamp()
        watched = self.watched(**known, began_at=began_at, weights_bp=(), late=True, **control_step(self.spec.release))
        self.wait(watched, then="resume", until=began_at + watch_s)

    def resume(self, context: Any, event: Mapping[str, Any], watched: str) -> dict[str, Any]:
        """End the watch, or the version."""
        judgement = self.note(event, watched)
        if judgement.outcome is Outcome.FAILED:
            raise AirflowFailException(f"{judgement.outcome}: {judgement.reason}")
        self.controller().end_watch(self.release["release_id"], self.release["version"], self.spec.release)
        return {"step": self.task_id, "outcome": str(judgement.outcome), "reason": judgement.reason}


def limits(spec: ModelSpec, controller: Controller, release: Mapping[str, Any]) -> AnswerLimits:
    """Return what is too long for an answer in this release: by the spec, or by what stable's own answers took.

    The first step decides, for all of the release: a limit that moves would compare different things.
    """
    from operators.rollout.model_traffic import route_of

    judge = spec.release.judge
    for entry in controller.moves_of(release["release_id"]):
        route = route_of(entry)
        if route.slow_us or (judge.slow is None and (route.canary or route.shadow)):
            return AnswerLimits.of(route)
    return limits_from(spec.release, controller.agent.counters(spec.name), release["stable"])
