"""Wait for a deployment without a worker slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from airflow.triggers.base import TriggerEvent

from operators.core.errors import ServiceError
from operators.core.settings import LONGEST_SILENCE_S
from operators.traffic.client import AsyncAgent
from operators.triggers import KeptTrigger


@dataclass(kw_only=True, eq=False, repr=False)
class DeployTrigger(KeptTrigger):
    """Fire when a version runs or cannot run; give up when the agent has not answered for a minute.

    :param deadline: Unix time in seconds after which the wait ends
    """

    model: str
    version: str
    deadline: float

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
                    if time.monotonic() - last_answer > LONGEST_SILENCE_S:
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
