"""Waiting for a deployment, and watching a canary step, without a worker slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.core.errors import ServiceError
from operators.core.spec import Judge
from operators.rollout.client import AsyncAgent
from operators.rollout.policy import Arm, Outcome, Verdict, judge_step

_LONGEST_SILENCE_S = 60.0


class _AgentTrigger(BaseTrigger):
    """Polls the agent until `look` returns an event; gives up when the agent has been silent for a minute.

    ``fields`` names the constructor's arguments, which are all that a trigger keeps.
    """

    fields: ClassVar[tuple[str, ...]] = ()

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that make this trigger again."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {name: getattr(self, name) for name in self.fields}

    async def look(self, agent: AsyncAgent) -> dict[str, Any] | None:
        """Return the event, or None to go on waiting."""
        raise NotImplementedError

    def silent(self, error: ServiceError) -> dict[str, Any]:
        """Return the event for an agent that does not answer."""
        raise NotImplementedError

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look once in `poll_s`."""
        agent = AsyncAgent()
        last_answer = time.monotonic()
        try:
            while True:
                try:
                    event = await self.look(agent)
                    last_answer = time.monotonic()
                except ServiceError as error:
                    self.log.warning("%s", error)
                    event = self.silent(error) if time.monotonic() - last_answer > _LONGEST_SILENCE_S else None
                if event is not None:
                    yield TriggerEvent(event)
                    return
                await asyncio.sleep(1.0)
        finally:
            await agent.close()


class DeployTrigger(_AgentTrigger):
    """Fire once a version runs, or cannot.

    :param deadline: Unix time in seconds after which the wait ends
    """

    fields = ("model", "version", "deadline")

    def __init__(self, *, model: str, version: str, deadline: float) -> None:
        super().__init__()
        self.model = model
        self.version = version
        self.deadline = deadline

    async def look(self, agent: AsyncAgent) -> dict[str, Any] | None:
        """Ask where the deployment stands."""
        state = await agent.app(self.model, self.version)
        if state.status in ("RUNNING", "DEPLOY_FAILED", "NOT_STARTED"):
            return state.model_dump()
        if time.time() > self.deadline:
            return {"status": "TIMEOUT", "message": f"still {state.status}: {state.message}"}
        return None

    def silent(self, error: ServiceError) -> dict[str, Any]:
        """Report the silence."""
        return {"status": "UNREACHABLE", "message": str(error)}


class JudgeTrigger(_AgentTrigger):
    """Watch one canary step and fire its verdict.

    :param canary: version of the canary
    :param stable: version that it is compared with
    :param judge: the spec's judge, as `Judge.model_dump(mode="json", by_alias=True)` gives it
    :param bake_s: how long the step is watched at least
    :param started_at: Unix time in seconds when the step's weight was set
    :param canary_before: JSON of the canary's `Arm` at that time
    :param stable_before: JSON of stable's
    """

    fields = ("model", "canary", "stable", "judge", "bake_s", "started_at", "canary_before", "stable_before")

    def __init__(
        self,
        *,
        model: str,
        canary: str,
        stable: str,
        judge: dict[str, Any],
        bake_s: float,
        started_at: float,
        canary_before: str,
        stable_before: str,
    ) -> None:
        super().__init__()
        self.model = model
        self.canary = canary
        self.stable = stable
        self.judge = judge
        self.bake_s = bake_s
        self.started_at = started_at
        self.canary_before = canary_before
        self.stable_before = stable_before

    async def look(self, agent: AsyncAgent) -> dict[str, Any] | None:
        """Read both arms' counters and ask the judge."""
        now = await agent.counters(self.model, canary=self.canary, stable=self.stable)
        verdict = judge_step(
            Judge.model_validate(self.judge),
            bake_s=self.bake_s,
            elapsed_s=time.time() - self.started_at,
            canary=now.canary.since(Arm.model_validate_json(self.canary_before)),
            stable=now.stable.since(Arm.model_validate_json(self.stable_before)),
        )
        return verdict.model_dump(mode="json") if verdict else None

    def silent(self, error: ServiceError) -> dict[str, Any]:
        """Without counters there is no evidence, and without evidence no success."""
        verdict = Verdict(outcome=Outcome.INCONCLUSIVE, reason=f"the counters could not be read: {error}", numbers={})
        return verdict.model_dump(mode="json")
