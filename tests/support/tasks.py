"""Run an operator as Airflow would, without Airflow's database: execute, defer, trigger, resume."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import TaskDeferred


@dataclass
class TaskInstance:
    dag_id: str = "dag"
    run_id: str = "run"
    task_id: str = "task"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))


class Store:
    """The task's state store: in memory, or in a file that outlives the process."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self.values[key] = json.loads(json.dumps(value))
        if self.path:
            fresh = self.path.with_suffix(".tmp")
            fresh.write_text(json.dumps(self.values))
            fresh.replace(self.path)

    def clear(self) -> None:
        self.values.clear()


def context(ti: TaskInstance | None = None, store: Store | None = None, **more: Any) -> dict[str, Any]:
    return {"ti": ti or TaskInstance(), "task_state_store": store or Store(), **more}


def run(operator: Any, given: dict[str, Any], *, timeout_s: float = 60) -> Any:
    """Return what the task returns, through as many deferrals as it wants."""
    try:
        return operator.execute(given)
    except TaskDeferred as deferred:
        step = deferred
    while True:
        event = asyncio.run(asyncio.wait_for(_first(restored(step.trigger)), timeout_s))
        try:
            return getattr(operator, step.method_name)(given, json.loads(json.dumps(event)), **(step.kwargs or {}))
        except TaskDeferred as again:
            step = again


def restored(trigger: Any) -> Any:
    """Make a trigger anew from what it keeps, as a triggerer does."""
    _, arguments = trigger.serialize()
    return type(trigger)(**json.loads(json.dumps(arguments)))


async def _first(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")
