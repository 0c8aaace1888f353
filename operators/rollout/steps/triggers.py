"""Watching a step without a worker slot: until the judge has a verdict, or a person has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.core.errors import ServiceError, ServiceRefusedError
from operators.core.spec import ModelSpec
from operators.rollout.client import AsyncAgent
from operators.rollout.evidence import Judgement, Outcome
from operators.rollout.steps.looking import Look, Looker
from operators.rollout.steps.notes import LedgerNotes
from operators.rollout.steps.sources import sources_for
from operators.rollout.steps.watched import Watched

_LOOK_EVERY_S = 1.0
_LONGEST_SILENCE_S = 60.0


class _Watch:
    """One look after another, with patience for an agent that is away for a moment."""

    def __init__(self, spec: str, watched: dict[str, Any], log: Any) -> None:
        self.watched = Watched.model_validate(watched)
        model = ModelSpec.from_json(spec)
        self._agent = AsyncAgent()
        self._looker = Looker(
            self.watched,
            model.release.judge,
            agent=self._agent,
            notes=LedgerNotes(self.watched.model, self.watched.release_id),
            sources=sources_for(model),
        )
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
        return self._last.model_dump(mode="json", exclude={"tally"})

    def _blind(self, reason: str) -> dict[str, Any]:
        """Without evidence there is no success."""
        guards = self._last.judgement.guards if self._last and self._last.judgement else {}
        judgement = Judgement(outcome=Outcome.INCONCLUSIVE, reason=reason, guards=guards)
        seen = self._last.model_dump(mode="json", exclude={"tally"}) if self._last else {"evidence": {}, "elapsed_s": 0}
        return {**seen, "judgement": judgement.model_dump(mode="json"), "blind": True}

    async def close(self) -> None:
        await self._agent.close()


def outcome_of(event: dict[str, Any] | None) -> Outcome:
    """Return what a look has found; Continue for none."""
    return Outcome(event["judgement"]["outcome"]) if event else Outcome.CONTINUE


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
        """Look once a second."""
        watch = _Watch(self.spec, self.watched, self.log)
        try:
            while True:
                event = await watch.look()
                if event is not None and self._ends(outcome_of(event), event):
                    yield TriggerEvent(event)
                    return
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            await watch.close()

    def _ends(self, outcome: Outcome, event: dict[str, Any]) -> bool:
        if self.until is None:
            return outcome is not Outcome.CONTINUE
        # After a promotion only a proof of harm ends the watch early; that the old version's control is too small, does not.
        return outcome is Outcome.FAILED or event.get("blind", False) or time.time() >= self.until


class ApprovalTrigger(HITLTrigger):
    """Wait for a person, and go on watching: a canary that turns out bad meanwhile is not kept for an answer.

    :param spec: JSON of the model's spec
    :param watched: JSON of the `Watched`
    """

    def __init__(self, *, spec: str, watched: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.watched = watched

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that make this trigger again."""
        kind = type(self)
        kept = {**super().serialize()[1], "spec": self.spec, "watched": self.watched}
        return f"{kind.__module__}.{kind.__qualname__}", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look and ask in turns; whichever has an answer first ends the wait."""
        watch = _Watch(self.spec, self.watched, self.log)
        answer = asyncio.ensure_future(_first(super().run()))
        try:
            while not answer.done():
                event = await watch.look()
                if event is not None and (outcome_of(event) is Outcome.FAILED or event.get("blind")):
                    yield TriggerEvent({"look": event})
                    return
                await asyncio.wait({answer}, timeout=_LOOK_EVERY_S)
            yield answer.result()
        finally:
            answer.cancel()
            await watch.close()


async def _first(events: AsyncIterator[TriggerEvent]) -> TriggerEvent:
    async for event in events:
        return event
    raise ServiceError("the wait for an answer ended without one")
