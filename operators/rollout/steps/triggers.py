"""Watching a step without a worker slot, until the judge has a verdict."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.core.errors import ServiceError, ServiceRefusedError, TaxiwayError
from operators.core.spec import ModelSpec
from operators.core.spec_judge import Judge
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.judge.phases import Watched
from operators.rollout.steps.looker import Look, Looker
from operators.rollout.steps.sources import sources_for
from operators.traffic.client import AsyncAgent

if TYPE_CHECKING:
    from operators.rollout.controller import Controller

LOOK_EVERY_S = 0.25
# A task that is resumed before the scheduler has heard of its deferral is taken for one that was killed, and tried again.
SETTLE_S = 5.0
_LONGEST_SILENCE_S = 60.0


def write_verdict(controller: Controller, judge: Judge, watched: Watched, look: Look, *, blind: bool) -> None:
    """Write a verdict down, with all that it rests on; the same one twice is one row.

    :param judge: the spec's
    :param blind: nothing could be seen
    :raises RejectedError: the release no longer holds the model
    """
    controller.record_verdict(
        watched.release_id,
        watched.step,
        policy=watched.policy(judge, look.judgement),
        evidence=look.evidence,
        judgement=look.judgement,
        elapsed_s=look.elapsed_s,
        bake_s=watched.bake_s,
        min_requests=watched.min_requests,
        harm_weight=watched.harm_weight,
        blind=blind,
    )


class Watch:
    """One look after another, with patience for an agent that is away for a moment.

    A version that has failed loses its traffic here and now: the tasks that do the rest need seconds to start.
    """

    def __init__(self, spec: str, watched: dict[str, Any], log: Any) -> None:
        self.watched = Watched.model_validate(watched)
        model = ModelSpec.from_json(spec)
        self._judge = model.release.judge
        self._agent = AsyncAgent()
        self._looker = Looker(
            self.watched,
            self._judge,
            agent=self._agent,
            write=self._write,
            sources=sources_for(model),
        )
        self._controller: Controller | None = None
        self._log = log
        self._last: Look | None = None
        self._answered_at = time.monotonic()

    async def look(self) -> dict[str, Any] | None:
        """Return the event of a look: its evidence and judgement; None while nobody answers."""
        try:
            self._last = await self._looker.look()
            self._answered_at = time.monotonic()
        except ServiceRefusedError as error:
            return self._blind(f"the canary lost its traffic: {error}")
        except ServiceError as error:
            self._log.warning("%s", error)
            if time.monotonic() - self._answered_at > _LONGEST_SILENCE_S:
                return self._blind(f"nothing could be seen for {_LONGEST_SILENCE_S:.0f} s: {error}")
            return None
        if self._last.judgement.outcome is Outcome.FAILED:
            await asyncio.to_thread(self._take_out, self._last)
        return {"look": self._last.model_dump(mode="json"), "blind": False}

    def _moves(self) -> Controller:
        """Return the controller; in a thread, where SQLAlchemy may be imported and wait."""
        if self._controller is None:
            from operators.rollout.controller import Controller

            self._controller = Controller(self.watched.model)
        return self._controller

    def _write(self, evidence: Evidence) -> None:
        self._moves().record_look(self.watched.release_id, self.watched.step, evidence)

    def _take_out(self, look: Look) -> None:
        about = self.watched
        try:
            write_verdict(self._moves(), self._judge, about, look, blind=False)
            self._moves().take_out(about.release_id, about.canary, about.stable)
        except TaxiwayError as error:
            self._log.warning("the version keeps its traffic until the task `roll_back` runs: %s", error)

    def _blind(self, reason: str) -> dict[str, Any]:
        """Without evidence there is no success."""
        judgement = Judgement(
            outcome=Outcome.INCONCLUSIVE, reason=reason, guards=self._last.judgement.guards if self._last else {}
        )
        look = Look(
            evidence=self._last.evidence if self._last else Evidence(periods=self.watched.earlier),
            judgement=judgement,
            elapsed_s=self.watched.elapsed_s(time.time()),
        )
        return {"look": look.model_dump(mode="json"), "blind": True}

    async def close(self) -> None:
        """Close the connections."""
        await self._looker.close()
        await self._agent.close()
        if self._controller is not None:
            await asyncio.to_thread(self._controller.close)


def outcome_of(event: Mapping[str, Any] | None) -> Outcome:
    """Return what a look has found; Continue for none."""
    return Outcome(event["look"]["judgement"]["outcome"]) if event else Outcome.CONTINUE


def sealed(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event for Airflow to carry, with the look as text.

    Airflow's database keeps the numbers of an event as decimals: an e-value of 1e30 would come back as a whole number with 31
    digits, which cannot be sent to a task.
    """
    return {**event, "look": json.dumps(event["look"])}


def opened(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event that was sealed."""
    return {**event, "look": json.loads(event["look"])}


class JudgeTrigger(BaseTrigger):
    """Watch a step and fire its verdict.

    :param spec: JSON of the model's spec
    :param watched: JSON of the `Watched`
    :param until: Unix time in seconds when the watch ends, whatever the judge says; None: when it has a verdict
    """

    def __init__(self, *, spec: str, watched: dict[str, Any], until: float | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.watched = watched
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that make this trigger again."""
        kind = type(self)
        kept = {"spec": self.spec, "watched": self.watched, "until": self.until}
        return f"{kind.__module__}.{kind.__qualname__}", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look again and again."""
        watch = Watch(self.spec, self.watched, self.log)
        settled_at = time.monotonic() + SETTLE_S
        try:
            while True:
                event = await watch.look()
                if event is not None and self._ends(outcome_of(event), event):
                    await asyncio.sleep(max(0.0, settled_at - time.monotonic()))
                    yield TriggerEvent(sealed(event))
                    return
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await watch.close()

    def _ends(self, outcome: Outcome, event: dict[str, Any]) -> bool:
        if self.until is None:
            return outcome is not Outcome.CONTINUE
        # After a promotion only a proof of harm ends the watch early; that the old version's control is too small, does not.
        return outcome is Outcome.FAILED or event["blind"] or time.time() >= self.until
