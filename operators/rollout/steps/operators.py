"""The tasks that the judge ends: shadow, canary steps, the watch after a promotion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.core.spec import ModelSpec
from operators.core.spec_operations import Moment
from operators.core.traffic import Counters
from operators.judge.evidence import Evidence, Judgement, Kind, Outcome, Period
from operators.judge.phases import FROZEN, Phase, canary_phase, shadow_phase, watch_phase
from operators.rollout.freeze import frozen_until
from operators.rollout.model_traffic import Move
from operators.rollout.notifiers import tell
from operators.rollout.operators import ReleaseOperator, release_moves_of
from operators.rollout.release_moves import ReleaseMoves
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Look
from operators.rollout.steps.triggers import JudgeTrigger, write_verdict
from operators.traffic.limits import AnswerLimits, limits_from


class Before(NamedTuple):
    """What is known when a phase begins, or begins again.

    :param counters: of both versions
    :param earlier: what this kind of phase has shown in the release so far
    """

    counters: Counters
    earlier: tuple[Period, ...]


class StepTask:
    """Base of the tasks during which a version is watched."""

    spec: ModelSpec
    release: Any
    task_id: str
    log: Any

    def moves(self) -> ReleaseMoves:
        """Return the moves of this model's release."""
        return release_moves_of(self.spec.name)

    def before(self, moves: ReleaseMoves, kind: Kind) -> Before:
        """Read the counters and the newest look. To be called before the weight changes."""
        newest = moves.ledger.looks(self.release["release_id"], last=1)
        earlier = Evidence.model_validate(newest[0].evidence).of(kind) if newest else ()
        counters = moves.agent.counters(self.spec.name)
        return Before(counters.of(self.release["version"], self.release["stable"]), earlier)

    def live(
        self, phase: Phase, before: Before, *, began_at: float, deadline_s: float = 2.0, step: str | None = None
    ) -> LivePhase:
        """Return a phase of this release under way.

        :param deadline_s: after this the edge cuts off the canary
        :param step: default: this task
        """
        return LivePhase(
            phase=phase,
            model=self.spec.name,
            release_id=self.release["release_id"],
            step=step or self.task_id,
            canary=self.release["version"],
            stable=self.release["stable"],
            lease_s=self.spec.release.lease_s,
            deadline_s=deadline_s,
            released_at=self.release["began_at"],
            began_at=began_at,
            before=before.counters,
            earlier=before.earlier,
        )

    def note(self, event: Mapping[str, Any], watched: str) -> Look:
        """Write a verdict down, with all that it rests on.

        :param event: the trigger's
        :param watched: JSON of the `LivePhase`
        """
        look = Look.of_event(event)
        write_verdict(self.moves(), self.spec.release.judge, LivePhase.model_validate_json(watched), look)
        self.log.info("%s: %s", look.outcome, look.judgement.reason)
        return look

    def tell(self, moment: Moment, text: str, context: Any) -> None:
        """Notify whom the spec names."""
        facts = {name: self.release[name] for name in ("release_id", "version", "stable")}
        tell(self.spec, moment, text, context, **facts)


class StepOperator(StepTask, ReleaseOperator):
    """Base of the tasks that end with a verdict of the judge."""

    def watch(self, phase: Phase, before: Before, move: Move) -> None:
        """Watch a phase that this change of the route begins, until the judge has a verdict."""
        deadline_s = move.route.canary_timeout_ms / 1000
        self.wait(self.live(phase, before, began_at=move.at.timestamp(), deadline_s=deadline_s), then="resume")

    def wait(self, live: LivePhase, *, then: str, until: float | None = None) -> None:
        """Watch without a worker slot.

        :raises TaskDeferred: always
        """
        trigger = JudgeTrigger(spec=self.spec.to_json(), watched=live.model_dump(mode="json"), until=until)
        self.defer(trigger=trigger, method_name=then, kwargs={"watched": live.model_dump_json()})

    def resume(self, context: Any, event: Mapping[str, Any], watched: str) -> dict[str, Any]:
        """Write the verdict down; then continue, leave the decision to a person, or fail.

        :raises AirflowFailException: the release ends here; the rollback task does the rest
        """
        look = self.note(event, watched)
        if look.outcome is Outcome.SUCCESSFUL:
            self.tell("step", f"{self.task_id}: {look.judgement.reason}", context)
        elif look.outcome is not Outcome.INCONCLUSIVE or look.blind or self.spec.release.approval.mode != "ask":
            raise failure(look.judgement)
        return result(self.task_id, look.judgement)


def result(step: str, judgement: Judgement) -> dict[str, Any]:
    """Return what a task hands on."""
    return {"step": step, "outcome": str(judgement.outcome), "reason": judgement.reason}


def failure(judgement: Judgement) -> AirflowFailException:
    """Return the exception that ends the release."""
    return AirflowFailException(f"{judgement.outcome}: {judgement.reason}")


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
        if self.spec.release.shadow is None:
            raise AirflowSkipException("the spec has no shadow")
        moves, stable = self.moves(), self.release["stable"]
        before = self.before(moves, "shadow")
        move = moves.start_shadow(
            self.release["release_id"],
            self.spec.release,
            stable=stable,
            version=self.release["version"],
            limits=limits(self.spec, moves, self.release),
        )
        self.watch(shadow_phase(self.spec.release), before, move)


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
        moves = self.moves()
        before = self.before(moves, "canary")
        move = moves.set_route(
            self.release["release_id"],
            self.task_id,
            self.spec.release,
            stable=self.release["stable"],
            version=self.release["version"],
            weight_bp=self.spec.release.steps[self.index].weight_bp,
            limits=limits(self.spec, moves, self.release),
        )
        self.watch(canary_phase(self.spec.release, self.index), before, move)

    def thaw(self, context: Any, event: Any, watched: str | None = None) -> None:
        """Begin the step, unless the canary has failed at the weight before."""
        if watched is not None and ((look := Look.of_event(event)).blind or look.outcome is Outcome.FAILED):
            raise failure(self.note(event, watched).judgement)
        self.execute(context)

    def _wait_out(self, frozen: tuple[datetime, str], context: Any) -> None:
        """Keep the present weight, and watch it, until the freeze ends."""
        until, reason = frozen
        text = f"{self.task_id} waits until {until.isoformat(timespec='minutes')}: {reason or 'releases are frozen'}"
        self.log.info(text)
        self.tell("pause", text, context)
        if self.index == 0:
            self.defer(trigger=DateTimeTrigger(moment=until), method_name="thaw")
        before = self.before(self.moves(), "canary")
        phase = canary_phase(self.spec.release, self.index - 1)
        live = self.live(phase, before, began_at=time.time(), step=self.task_id + FROZEN)
        self.wait(live, then="thaw", until=until.timestamp())


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
        moves = self.moves()
        before = self.before(moves, "watch")
        began_at = moves.watch(self.release["release_id"]).at.timestamp()
        live = self.live(watch_phase(self.spec.release), before, began_at=began_at)
        self.wait(live, then="resume", until=began_at + watch_s)

    def resume(self, context: Any, event: Mapping[str, Any], watched: str) -> dict[str, Any]:
        """End the watch, or the version."""
        look = self.note(event, watched)
        if look.outcome is Outcome.FAILED:
            raise failure(look.judgement)
        self.moves().end_watch(self.release["release_id"], self.release["version"], self.spec.release)
        return result(self.task_id, look.judgement)


def limits(spec: ModelSpec, moves: ReleaseMoves, release: Mapping[str, Any]) -> AnswerLimits:
    """Return the time limits of answers in this release: the spec's, or derived from how long stable's own answers took.

    The first step sets them for the whole release: under a limit that moves, the steps could not be compared.
    """
    judge = spec.release.judge
    for move in moves.traffic.moves_of(release["release_id"]):
        route = move.route
        if route.slow_us or (judge.slow is None and (route.canary or route.shadow)):
            return AnswerLimits.of(route)
    return limits_from(spec.release, moves.agent.counters(spec.name), release["stable"])
