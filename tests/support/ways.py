"""A stack with three small models, their callers, and what a release of one is asked afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from operators.core.loader import load_spec
from operators.core.storage import Storage
from operators.demo.airflow import Airflow
from operators.demo.callers import Traffic
from operators.registry.client import CHAMPION
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.reconcile.client import recorded
from operators.rollout.release_moves import ReleaseMoves
from tests.support.waiting import until

UNITS = 12_000
SMOKE_KEY = "ways/smoke.json"
_SPEC = """
name: {name}
description: Is x above 0?
owner: ways
data:
  tables: {{things: {{source: raw/{name}, time_column: asked_at}}}}
  query: queries/ways.sql
  window: 60d
  holdout: 7d
  id: thing
  time: asked_at
  label: label
  features: {{x: number}}
validation: {{suite: expectations/ways.yaml}}
training: {{entrypoint: "ray_jobs.trainers.xgboost_classifier:train"}}
gate: {{metric: log_loss}}
serving: {{replicas: 1, cpus_per_replica: 0.1}}
monitoring: {{prediction_log: {{flush_every: 2s}}}}
release:
  lease: 30s
  drain: 5s
  judge:
    alpha: 0.01
    confidence: 0.8
    min_requests: 15
    max_wait: 90s
    failures: {{margin_pct: 20}}
    slow: null
{judge}
{release}
"""
_QUERY = """
SELECT thing, asked_at, x, CASE WHEN label_time <= $as_of THEN label END AS label,
       CASE WHEN label_time <= $as_of THEN label_time END AS label_time
FROM things
"""
_MODEL = """
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Sign(PythonModel):
    def predict(self, context, model_input, params=None):
        return [{yes} if x > 0 else {no} for x in model_input["x"]]


set_model(Sign())
"""


def write_include(include: Path, models: dict[str, tuple[str, str]]) -> None:
    """Write specs and what they name.

    :param models: name -> YAML below ``judge:``, YAML below ``release:``
    """
    for part in ("models", "queries", "expectations"):
        (include / part).mkdir(parents=True, exist_ok=True)
    (include / "queries" / "ways.sql").write_text(_QUERY)
    (include / "expectations" / "ways.yaml").write_text("things: {expectations: []}\n")
    for name, (judge, release) in models.items():
        path = include / "models" / f"{name}.yaml"
        path.write_text(_SPEC.format(name=name, judge=judge.rstrip(), release=release.strip("\n")))
        load_spec(path)


def log_models(spec: Any, folder: Path) -> dict[str, str]:
    """Log a model that is right and one that is always wrong, and return where MLflow has them."""
    import mlflow

    from ray_jobs.training.signature import signature_of

    mlflow.set_experiment("ways")
    found = {}
    for name, (yes, no) in {"right": (0.9, 0.1), "wrong": (0.1, 0.9)}.items():
        code = folder / f"{name}.py"
        code.write_text(_MODEL.format(yes=yes, no=no))
        with mlflow.start_run(run_name=name):
            info = mlflow.pyfunc.log_model(
                name="model", python_model=str(code), signature=signature_of(spec), pip_requirements=[]
            )
        found[name] = info.model_uri
    return found


class Way:
    """One model on the stack: what a person does with it, and what can be read of it afterwards."""

    def __init__(self, stack: Any, airflow: Airflow, spec_path: Path, storage: Storage, uris: dict[str, str]) -> None:
        self.stack, self.airflow, self.storage = stack, airflow, storage
        self.spec_path = spec_path
        self.spec = load_spec(spec_path)
        self.model, self.dag = self.spec.name, f"{self.spec.name}.release"
        self.to = ReleaseMoves(ModelTraffic(self.model))
        self._uris = uris

    def register(self, *kinds: str) -> None:
        """Register versions 1, 2 … of these models."""
        for n, kind in enumerate(kinds, 1):
            tags = {"taxiway.smoke_key": SMOKE_KEY}
            made = self.to.registry.register(self.model, self._uris[kind], "", key=f"{self.model}/{n}", tags=tags)
            assert made.version == str(n)

    def call(self, rate: float) -> Traffic:
        """Begin to call the model: each caller has an id, asks once, and x says what is right."""
        requests = [(self.unit(n), _body(_x(n))) for n in range(UNITS)]
        traffic = Traffic(f"{self.stack.url('edge')}/v2/models/{self.model}/infer", requests, rate=rate)
        traffic.start()
        return traffic

    def unit(self, n: int) -> str:
        """Return the id of a caller."""
        return f"{self.model}-{n:05}"

    def release(self, version: str) -> str:
        """Start a release and return its run."""
        return self.airflow.trigger(self.dag, {"version": version})

    def end(self, run: str, timeout_s: float = 200) -> tuple[str, dict[str, str | None]]:
        """Wait for the end of a release."""
        return self.airflow.follow(self.dag, run, timeout_s=timeout_s, on_change=self._say(run))

    def _say(self, run: str) -> Callable[[str, str], None]:
        def say(task: str, state: str) -> None:
            if state not in ("scheduled", "queued", "running"):
                print(f"{datetime.now(UTC):%H:%M:%S} {self.model} {run[-8:]} {task}: {state}", flush=True)

        return say

    def tries(self, run: str, task: str) -> int:
        """Return how often a task was begun."""
        path = f"/api/v2/dags/{self.dag}/dagRuns/{quote(run)}/taskInstances/{task}"
        return int(self.airflow.call("GET", path)["try_number"])

    def answer(self, run: str, task: str, option: str, *, deferred: bool = False) -> str:
        """Answer a form in the very instant in which it is there; return the state that the task had then.

        :param deferred: in the instant in which the task is deferred; Airflow resumes it then before it knows of that
        """
        form = f"/api/v2/dags/{self.dag}/dagRuns/{quote(run)}/taskInstances/{task}/-1/hitlDetails"
        until(lambda: self.airflow._http.get(form).status_code == 200, f"{task} asks", 150, every_s=0.02)
        if deferred:
            until(lambda: self.airflow.tasks(self.dag, run)[task] == "deferred", f"{task} is deferred", every_s=0.02)
        self.airflow.call("PATCH", form, {"chosen_options": [option], "params_input": {}})
        return str(self.airflow.tasks(self.dag, run)[task])

    def write_labels(self) -> None:
        """Let the labels of all callers become known, now."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        now = datetime.now(UTC).replace(tzinfo=None)
        xs = [_x(n) for n in range(UNITS)]
        table = pa.table(
            {
                "thing": [self.unit(n) for n in range(UNITS)],
                "asked_at": [now] * UNITS,
                "x": xs,
                "label": [x > 0 for x in xs],
                "label_time": [now] * UNITS,
            }
        )
        path = Path(self.stack.home) / "labels.parquet"
        pq.write_table(table, path)
        self.storage.upload(path, f"raw/{self.model}/things.parquet")

    # ------------------------------------------------------------------ afterwards

    def release_of(self, run: str) -> str:
        """Return the id of a run's release."""
        return f"{self.model}/{run}#1"

    def story(self, run: str) -> list[str]:
        """Return what the ledger says of a release, in order; what a second try says again is left out."""
        told: list[str] = []
        for row in self.to.ledger.entries(self.model, release_id=self.release_of(run)):
            said = row.payload
            about = row.kind
            if row.kind == "weight_set":
                about = f"route {said['step']} {said['weight_bp']}"
            elif row.kind == "verdict":
                about = f"verdict {said['step']} {said['judgement']['outcome']}"
            elif row.kind == "approval":
                about = f"approval {said['answer']} by {said['by']}"
            if about not in told[-1:]:
                told.append(about)
        return told

    def seqs(self, run: str) -> list[int]:
        """Return the places of a release's rows in the model's chain."""
        return [row.seq for row in self.to.ledger.entries(self.model, release_id=self.release_of(run))]

    def agreed(self) -> set[str | None]:
        """Return the versions that ledger, traffic and alias name; one, where they agree."""
        alias, route = self.to.registry.alias(self.model, CHAMPION), self.to.agent.route(self.model)
        assert route is None or (route.canary, route.shadow, route.weight_now_bp) == (None, None, 0), route
        named = {alias.version if alias else None, route.stable if route else None}
        return named | {recorded(self.to.ledger.entries(self.model))}


def smoke_body() -> bytes:
    """Return the request that the smoke test sends."""
    tensor = {"name": "x", "shape": [8], "datatype": "FP64", "data": [_x(n) for n in range(8)]}
    return json.dumps({"inputs": [tensor]}).encode()


def _x(n: int) -> float:
    return 1.0 if n % 3 else -1.0


def _body(x: float) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [x]}]}
