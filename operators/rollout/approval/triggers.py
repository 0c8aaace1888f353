"""Waiting for a person, and watching the canary meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.triggers.base import TriggerEvent

from operators.core.errors import ServiceError
from operators.judge.evidence import Outcome
from operators.rollout.steps.triggers import LOOK_EVERY_S, SETTLE_S, LookLoop


class ApprovalTrigger(HITLTrigger):
    """Wait for a person, and keep watching: a canary that turns out bad meanwhile loses its traffic without an answer.

    :param spec: JSON of the model's spec
    :param watched: JSON of the `LivePhase`
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
        loop = LookLoop(self.spec, self.watched, self.log)
        answer = asyncio.ensure_future(_first(super().run()))
        settled_at = time.monotonic() + SETTLE_S
        try:
            event = await self._wait(loop, answer)
            await asyncio.sleep(max(0.0, settled_at - time.monotonic()))
            yield event
        finally:
            answer.cancel()
            await loop.close()

    async def _wait(self, loop: LookLoop, answer: asyncio.Future[TriggerEvent]) -> TriggerEvent:
        while not answer.done():
            look = await loop.look()
            if look is not None and (look.outcome is Outcome.FAILED or look.blind):
                return TriggerEvent(look.event())
            await asyncio.wait({answer}, timeout=LOOK_EVERY_S)
        return answer.result()


async def _first(events: AsyncIterator[TriggerEvent]) -> TriggerEvent:
    async for event in events:
        return event
    raise ServiceError("the wait for an answer ended without one")
