"""A client of Airflow's public REST API, for the demo and the system tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx

from operators.core.errors import ServiceError
from operators.core.http import answer, client, unreachable

_SERVICE = "Airflow"
_OVER = ("success", "failed")
TaskStates = dict[str, str | None]


class Airflow:
    """A logged-in user of Airflow.

    :param url: address of the api-server
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        with client(url) as http:
            token = answer(http.post("/auth/token", json={"username": user, "password": password}), _SERVICE)
        self._http = client(url, token=token["access_token"], timeout_s=30.0)

    def wait_for_dag(self, dag_id: str, timeout_s: float = 120.0) -> None:
        """Wait until the dag-processor has read a DAG, and unpause it.

        :raises ServiceError: it has not read the DAG in time
        """
        end = time.monotonic() + timeout_s
        while True:
            response = self._http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False})
            if response.status_code != 404:
                answer(response, _SERVICE)
                return
            if time.monotonic() > end:
                raise ServiceError(
                    f"Airflow has not read {dag_id} in {timeout_s:.0f} s; see {self.url} for import errors"
                )
            time.sleep(0.5)

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run and return its id."""
        run = self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def end_runs(self, dag_id: str) -> int:
        """Mark every run that has not ended as failed, and return how many there were."""
        runs = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?state=running&state=queued&limit=100")["dag_runs"]
        for run in runs:
            self.call("PATCH", f"/api/v2/dags/{dag_id}/dagRuns/{run['dag_run_id']}", {"state": "failed"})
        return len(runs)

    def runs_since(self, dag_id: str, since: datetime) -> list[str]:
        """Return the runs that were created at ``since`` or later, the oldest first."""
        query = f"run_after_gte={since.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%S.%fZ')}&order_by=run_after"
        runs = self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?{query}")["dag_runs"]
        return [run["dag_run_id"] for run in runs]

    def tasks(self, dag_id: str, run_id: str) -> TaskStates:
        """Return each task's state."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return {row["task_id"]: row["state"] for row in self.call("GET", path)["task_instances"]}

    def state(self, dag_id: str, run_id: str) -> str:
        """Return a run's state."""
        return str(self.call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Return what a task pushed, or None."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=true"
        response = self._http.get(path)
        return None if response.status_code == 404 else answer(response, _SERVICE)["value"]

    def follow(
        self, dag_id: str, run_id: str, *, timeout_s: float, on_change: Callable[[str, str], None]
    ) -> tuple[str, TaskStates]:
        """Wait for the end of a run.

        :param on_change: called with task and state at each change
        :returns: the run's state, and each task's
        :raises ServiceError: it did not end in time
        """
        before: TaskStates = {}
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            state = self.state(dag_id, run_id)  # read before the tasks, so that their states are final if it is
            states = self.tasks(dag_id, run_id)
            for task, now in states.items():
                if now and now != before.get(task):
                    on_change(task, now)
            before = states
            if state in _OVER:
                return state, states
            time.sleep(0.5)
        raise ServiceError(f"run {run_id} of {dag_id} has not ended in {timeout_s:.0f} s; tasks: {before}")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call Airflow's REST API and return the answer's JSON."""
        try:
            return answer(self._http.request(method, path, json=body), _SERVICE)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error
