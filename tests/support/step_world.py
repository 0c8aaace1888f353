"""A release under way, for its tasks and triggers: the real moves, on a ledger, a registry and an agent in memory."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from operators.core.rows import Row as LedgerRow
from operators.core.spec import PredictionSpec
from operators.core.traffic import Counters, RouteState, Row
from operators.rollout import operators as rollout_operators
from operators.rollout.approval import triggers as approval_triggers
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.release_moves import ReleaseMoves
from operators.rollout.steps import triggers as step_triggers
from operators.rollout.steps.operators import CanaryStepOperator
from tests.support.memory_ledger import MemoryLedger
from tests.support.readings import counted
from tests.support.release_world import FakeAgent, FakeAsyncAgent, FakeRegistry
from tests.support.specs import small_spec
from tests.support.tasks import context

MODEL = "small"
RELEASE: dict[str, Any] = {
    "release_id": f"{MODEL}/run#1",
    "version": "2",
    "stable": "1",
    "began_at": 1000.0,
    "smoke_keys": [],
    "model_uri": "x",
}


def spec_with(**release: Any) -> PredictionSpec:
    return small_spec(release=release)


class StepWorld:
    """Version 1 is stable, and `RELEASE` holds the model, to try version 2. It is long ago, so that no bake time is left."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger(datetime.fromtimestamp(1000, UTC))
        self.agent = FakeAgent("1", "2", model=MODEL)
        self.calls = FakeAsyncAgent(self.agent, counted())
        traffic = ModelTraffic(MODEL, ledger=self.ledger, registry=FakeRegistry("1", "2"), agent=self.agent)
        self.moves = ReleaseMoves(traffic)
        first = self.moves.begin("first", self.moves.find("1"))
        self.moves.promote(first.release_id, "1", None, spec_with())
        assert self.moves.begin("run", self.moves.find("2")).release_id == RELEASE["release_id"]

    def sees(self, *readings: Counters | Exception) -> None:
        """Let the edges have counted this, look after look; the last one stays."""
        self.calls.readings = list(readings)

    @property
    def route(self) -> RouteState:
        route = self.agent.route(MODEL)
        assert route is not None
        return route

    def steps(self) -> list[str]:
        """Return the steps of the release that have moved the route."""
        return [move.step for move in self.moves.traffic.moves_of(RELEASE["release_id"])]

    def kinds(self) -> list[str]:
        """Return the kinds of the release's rows in the ledger."""
        return [entry.kind for entry in self.ledger.entries(MODEL, release_id=RELEASE["release_id"])]

    def verdicts(self) -> list[tuple[str, str, bool]]:
        """Return the release's verdicts: step, outcome, and whether the judge was blind."""
        return [(row.step, row.outcome, row.blind) for row in self.moves.verdicts(RELEASE["release_id"])]

    def ended_with(self, kind: type[LedgerRow]) -> bool:
        return self.ledger.ended_with(RELEASE["release_id"], kind)


def enter(monkeypatch: pytest.MonkeyPatch) -> StepWorld:
    """Return a world that tasks and triggers find in place of the services."""
    world = StepWorld()
    for module in (rollout_operators, step_triggers):
        monkeypatch.setattr(module, "ModelTraffic", {MODEL: world.moves.traffic}.__getitem__)
    monkeypatch.setattr(step_triggers, "AsyncAgent", lambda: world.calls)
    for module in (step_triggers, approval_triggers):
        monkeypatch.setattr(module, "LOOK_EVERY_S", 0.001)
        monkeypatch.setattr(module, "SETTLE_S", 0.0)
    return world


def bad() -> Counters:
    return counted(
        Row(version="1", arm="stable", weight_bp=500, requests=300, units=300),
        Row(version="2", arm="canary", weight_bp=500, requests=20, units=20, failed_units=20, failed_first=20),
    )


def good(weight_bp: int = 500, units: int = 4000) -> Counters:
    share = weight_bp / 10_000
    return counted(
        Row(version="1", arm="stable", weight_bp=weight_bp, requests=units, units=round(units * (1 - share))),
        Row(version="2", arm="canary", weight_bp=weight_bp, requests=units, units=round(units * share)),
    )


def canary(spec: PredictionSpec, index: int = 0, **changes: Any) -> CanaryStepOperator:
    task_id = f"canary_{spec.release.steps[index].weight_bp // 100}_pct"
    return CanaryStepOperator(task_id=task_id, spec=spec, release={**RELEASE, **changes}, index=index)


def deferred(operator: Any, given: Any, method: str = "execute", **kwargs: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        getattr(operator, method)(given, **kwargs)
    return caught.value


def event_of(step: TaskDeferred) -> Any:
    """Return the first event of a deferred task's trigger."""
    trigger = step.trigger

    async def first() -> Any:
        _, kept = trigger.serialize()
        async for event in type(trigger)(**kept).run():
            return event.payload
        raise AssertionError("no event")

    return asyncio.run(asyncio.wait_for(first(), 60))


def end(operator: Any, step: TaskDeferred) -> Any:
    return getattr(operator, step.method_name)(context(), event_of(step), **(step.kwargs or {}))
