"""Wait for a deployment without a worker slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.core.errors import ServiceError
from operators.traffic.client import AsyncAgent

_LONGEST_SILENCE_S = 60.0


class DeployTrigger(BaseTrigger):
    """Fire when a version runs or cannot run; give up when the agent has not answered for a minute.

    :param deadline: Unix time in seconds after which the wait ends
    """

    def __init__(self, *, model: str, version: str, deadline: float) -> None:
        super().__init__()
        self.model = model
        self.version = version
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that make this trigger again."""
        kind = type(self)
        kept = {"model": self.model, "version": self.version, "deadline": self.deadline}
        return f"{kind.__module__}.{kind.__qualname__}", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask the agent once a second for the state of the deployment."""
        agent = AsyncAgent()
        last_answer = time.monotonic()
        try:
            while True:
                event = None
                try:
                    event = await self._event(agent)
                    last_answer = time.monotonic()
                except ServiceError as error:
                    self.log.warning("%s", error)
                    if time.monotonic() - last_answer > _LONGEST_SILENCE_S:
                        event = {"status": "UNREACHABLE", "message": str(error)}
                if event is not None:
                    yield TriggerEvent(event)
                    return
                await asyncio.sleep(1.0)
        finally:
            await agent.close()

    async def _event(self, agent: AsyncAgent) -> dict[str, Any] | None:
        state = await agent.app(self.model, self.version)
        if state.status in ("RUNNING", "DEPLOY_FAILED", "NOT_STARTED"):
            return state.model_dump()
        if time.time() > self.deadline:
            return {"status": "TIMEOUT", "message": f"still {state.status}: {state.message}"}
        return None
