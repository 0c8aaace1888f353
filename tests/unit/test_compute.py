from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.compute.client import RayJobs
from operators.compute.policy import submission_id
from operators.compute.triggers import RayJobTrigger
from operators.core.errors import ServiceError, ServiceRefusedError

names = st.text(min_size=1, max_size=20)


class Dashboard(ThreadingHTTPServer):
    """Ray's job API, as far as the client uses it; ``failure`` answers every request with a status and a text."""

    daemon_threads = True

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.failure: tuple[int, str] | None = None
        self.tokens: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        job_id = self.path.split("/")[3]
        if self.path.endswith("/logs"):
            return self._say(200, {"logs": "one\ntwo"})
        job = self.server.jobs.get(job_id)
        self._say(200, job) if job else self._say(404, "Job does not exist")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.path.endswith("/stop"):
            self.server.jobs[self.path.split("/")[3]]["status"] = "STOPPED"
            return self._say(200, {"stopped": True})
        if body["submission_id"] in self.server.jobs:
            return self._say(500, f"Job with submission_id {body['submission_id']} already exists")
        self.server.jobs[body["submission_id"]] = {**body, "status": "RUNNING"}
        self._say(200, {"submission_id": body["submission_id"]})

    def _say(self, status: int, body: Any) -> None:
        self.server.tokens.append(self.headers.get("Authorization"))
        if self.server.failure:
            status, body = self.server.failure
        raw = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    server = Dashboard()
    yield server
    server.shutdown()
    server.server_close()


def test_second_submission_reattaches(dashboard: Dashboard) -> None:
    jobs = RayJobs(dashboard.url)
    assert jobs.submit("tw-1", "python -m x") is True
    assert jobs.submit("tw-1", "python -m x") is False
    assert list(dashboard.jobs) == ["tw-1"]
    assert set(dashboard.tokens) == {"Bearer secret"}


def test_unknown_job_is_none_and_stopping_is_final(dashboard: Dashboard) -> None:
    jobs = RayJobs(dashboard.url)
    assert jobs.get("tw-1") is None
    jobs.submit("tw-1", "true")
    jobs.stop("tw-1")
    job = jobs.get("tw-1")
    assert job
    assert (job.status, job.is_over) == ("STOPPED", True)
    assert jobs.logs("tw-1") == "one\ntwo"


@pytest.mark.parametrize(
    ("status", "kind"), [(401, ServiceRefusedError), (400, ServiceRefusedError), (503, ServiceError)]
)
def test_what_a_failure_means_for_a_retry(dashboard: Dashboard, status: int, kind: type[Exception]) -> None:
    dashboard.failure = (status, "no")
    with pytest.raises(kind, match=f"with {status}: no"):
        RayJobs(dashboard.url).submit("tw-1", "true")


def test_nobody_there_is_a_service_error() -> None:
    with pytest.raises(ServiceError, match="Ray's job API did not answer"):
        RayJobs("http://127.0.0.1:1").get("tw-1")


def fired(trigger: RayJobTrigger) -> Any:
    async def first() -> Any:
        return (await anext(aiter(trigger.run()))).payload

    return asyncio.run(asyncio.wait_for(first(), 10))


def test_trigger_fires_at_the_end_and_survives_a_failing_dashboard(dashboard: Dashboard) -> None:
    RayJobs(dashboard.url).submit("tw-1", "true")
    dashboard.failure = (500, "restarting")

    def recover() -> None:
        dashboard.jobs["tw-1"]["status"] = "SUCCEEDED"
        dashboard.failure = None

    timer = threading.Timer(0.1, recover)
    timer.start()
    trigger = RayJobTrigger(url=dashboard.url, submission_id="tw-1", deadline=9e9, poll_s=0.02)
    assert fired(trigger) == {"status": "SUCCEEDED"}
    timer.join()


def test_trigger_stops_a_job_at_its_deadline(dashboard: Dashboard) -> None:
    RayJobs(dashboard.url).submit("tw-1", "true")
    trigger = RayJobTrigger(url=dashboard.url, submission_id="tw-1", deadline=0, poll_s=0.02)
    assert fired(trigger) == {"status": "TIMEOUT"}
    assert dashboard.jobs["tw-1"]["status"] == "STOPPED"


def test_cleanup_leaves_the_job_alone_and_on_kill_stops_it(dashboard: Dashboard) -> None:
    RayJobs(dashboard.url).submit("tw-1", "true")
    trigger = RayJobTrigger(url=dashboard.url, submission_id="tw-1", deadline=9e9)
    asyncio.run(trigger.cleanup())
    assert dashboard.jobs["tw-1"]["status"] == "RUNNING"
    asyncio.run(trigger.on_kill())
    assert dashboard.jobs["tw-1"]["status"] == "STOPPED"


def test_trigger_is_made_again_from_what_it_keeps() -> None:
    trigger = RayJobTrigger(url="http://ray", submission_id="tw-1", deadline=5.5)
    path, arguments = trigger.serialize()
    assert path == "operators.compute.triggers.RayJobTrigger"
    assert RayJobTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)


@given(names, names, names, st.integers(-1, 1000), st.integers(0, 9))
def test_ids_are_the_same_again_and_fit_ray(dag: str, run: str, task: str, index: int, epoch: int) -> None:
    made = submission_id(dag, run, task, index, epoch)
    assert made == submission_id(dag, run, task, index, epoch)
    assert made != submission_id(dag, run, task, index, epoch + 1)
    assert made.isascii()
    assert " " not in made
    assert len(made) < 100
