"""The acts of the demo. Each drives Airflow as a user would and reads the outcome from where it really is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from operators.core.errors import ServiceError, TaxiwayError
from operators.core.rows import VerdictRow, WeightSetRow, read
from operators.core.spec import PredictionSpec
from operators.demo.airflow import Airflow
from operators.demo.callers import Tally, Traffic
from operators.demo.view import View
from operators.registry.client import CHAMPION
from operators.rollout.model_traffic import ModelTraffic

_RUN_TIMEOUT_S = 600.0
_EVENT_TIMEOUT_S = 60.0
_QUIET = {"queued", "scheduled", "running", "deferred", "restarting", "up_for_retry", "upstream_failed", "removed"}


@dataclass
class Act:
    """One act in the report."""

    name: str
    expected: str
    outcome: str = ""
    ok: bool = False
    began_at: str = ""
    seconds: float = 0.0
    champion_before: str | None = None
    champion_after: str | None = None
    requests: dict[str, Any] = field(default_factory=dict)
    weights: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


class Play:
    """The stage: services, callers and the report of what happened on it."""

    def __init__(self, spec: PredictionSpec, airflow: Airflow, view: View, env: Mapping[str, str]) -> None:
        self.spec = spec
        self.airflow = airflow
        self.view = view
        self.env = dict(env)
        self.model_traffic = ModelTraffic(spec.name)
        self.traffic: Traffic | None = None
        self.acts: list[Act] = []

    def tally(self) -> Tally:
        """Return what callers saw so far."""
        return self.traffic.tally() if self.traffic else Tally()

    def champion(self) -> str | None:
        """Return the version that both the registry and the edge name.

        :raises ServiceError: they name different ones
        """
        alias = self.model_traffic.registry.alias(self.spec.name, CHAMPION)
        route = self.model_traffic.agent.route(self.spec.name)
        named, routed = alias.version if alias else None, route.stable if route else None
        if named != routed:
            raise ServiceError(f"the registry's champion is {named}, the edge's stable is {routed}")
        return named

    def perform(self, name: str, expected: str, act: Callable[[Act], str]) -> None:
        """Run one act and write its page of the report; an act that breaks is an outcome too."""
        page = Act(name=name, expected=expected)
        self.acts.append(page)
        began, before = datetime.now(UTC), self.tally()
        page.began_at = began.isoformat(timespec="milliseconds")
        self.view.heading(name)
        try:
            page.champion_before = self.champion()
            page.outcome = act(page)
            page.champion_after = self.champion()
        except TaxiwayError as error:
            page.outcome = f"{type(error).__name__}: {error}"
        page.ok = page.outcome == expected
        page.seconds = round((datetime.now(UTC) - began).total_seconds(), 1)
        page.requests = self.tally().since(before)
        for entry in self.model_traffic.ledger.entries(self.spec.name):
            if entry.at < began:
                continue
            at = {"at": entry.at.isoformat(timespec="milliseconds")}
            row = read(entry)
            if isinstance(row, WeightSetRow):
                page.weights.append(at | row.payload())
            elif isinstance(row, VerdictRow):
                page.verdicts.append(at | {"step": row.step} | row.judgement)
        self.view.event(f"{page.outcome} ({page.seconds:.0f} s)", style="green" if page.ok else "red")

    def report(self, seconds: float) -> dict[str, Any]:
        """Return the whole report."""
        total = self.tally()
        chain = self.model_traffic.ledger.broken_links(self.spec.name)
        return {
            "model": self.spec.name,
            "ok": all(act.ok for act in self.acts) and total.failed == 0 and not chain,
            "seconds": round(seconds, 1),
            "requests": {**total.since(Tally()), "failures": total.failures},
            "ledger_broken_links": chain,
            "acts": [asdict(act) for act in self.acts],
        }

    def follow(
        self, dag_id: str, *, conf: dict[str, Any] | None = None, since: datetime | None = None
    ) -> tuple[str, dict[str, str | None], str]:
        """Start a run, or find the one that an event has started, and watch it to its end.

        :param conf: start a run with these parameters
        :param since: find a run that has begun to exist since
        :returns: the run's state, its tasks' states, its id
        """
        run_id = self.airflow.trigger(dag_id, conf) if conf is not None else self._started(dag_id, since)

        def show(task: str, state: str) -> None:
            if state not in _QUIET:
                numbers = "" if state == "skipped" else self._numbers(dag_id, run_id, task)
                self.view.event(f"{dag_id}  {task}: {state}{numbers}")

        state, tasks = self.airflow.follow(dag_id, run_id, timeout_s=_RUN_TIMEOUT_S, on_change=show)
        return state, tasks, run_id

    def _started(self, dag_id: str, since: datetime | None) -> str:
        end = time.monotonic() + _EVENT_TIMEOUT_S
        while not (runs := self.airflow.runs_since(dag_id, since or datetime.now(UTC))):
            if time.monotonic() > end:
                raise ServiceError(f"no run of {dag_id} has begun within {_EVENT_TIMEOUT_S:.0f} s")
            time.sleep(0.5)
        return runs[-1]

    def _numbers(self, dag_id: str, run_id: str, task: str) -> str:
        """Return what is worth saying about a task that has ended."""
        value = self.airflow.xcom(dag_id, run_id, task)
        if task == "gate" and isinstance(value, dict):
            beside = "no champion yet" if value["champion"] is None else f"champion {value['champion']:.4f}"
            return f", {value['metric']} {value['challenger']:.4f} ({beside})"
        if task.startswith("canary_"):
            verdicts = self.model_traffic.ledger.entries(self.spec.name, kind=VerdictRow.KIND)
            mine = [VerdictRow.of(e) for e in verdicts if e.payload["step"] == task and f"/{run_id}#" in e.key]
            return f", {mine[-1].outcome}: {mine[-1].reason}" if mine else ""
        if task == "register" and isinstance(value, dict):
            return f", version {value['version']}"
        return ""

    def faulty_versions(self) -> dict[str, str]:
        """Register the versions that break; in a process of its own, because MLflow takes seconds to import."""
        command = [sys.executable, "-m", "operators.demo.faulty", self.spec.name]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=180, check=False)
        if done.returncode:
            raise ServiceError(f"the faulty versions could not be registered: {done.stderr[-2000:]}")
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))

    @staticmethod
    def write(path: Path, report: Mapping[str, Any]) -> None:
        """Write the report whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(report, indent=2, ensure_ascii=False))
        fresh.replace(path)
