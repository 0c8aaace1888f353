"""The fake dashboard answers as Ray's does: the same requests to both, and the answers compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from operators.compute.cluster.local import LocalCluster
from tests.support.ray_dashboard import Dashboard
from tests.support.waiting import until

TOKEN = "the-token-of-the-fake"
# What differs from job to job: of these the type is compared, of the others the value.
VOLATILE = ("start_time", "end_time", "driver_agent_http_address", "driver_node_id")
RAYS_OWN_LINES = re.compile(r"^.*INFO job_manager.*$|^Running entrypoint for job .*$", re.MULTILINE)
COMMANDS = {"ok": "echo one; echo two", "bad": "exit 3", "long": "echo begun; sleep 60", "gpu": "true"}
ENDS: dict[str, dict[str, Any]] = {
    "ok": {"status": "SUCCEEDED", "log": b"one\ntwo\n"},
    "bad": {"status": "FAILED", "driver_exit_code": 3},
    "long": {"status": "RUNNING", "driver_exit_code": None, "end_time": None, "log": b"begun\n"},
}


@dataclass
class Answers:
    """What a dashboard said to each request, without what differs from run to run."""

    http: httpx.Client
    found: dict[str, Any] = field(default_factory=dict)

    def ask(self, name: str, method: str, path: str, **sent: Any) -> httpx.Response:
        response = self.http.request(method, path, **sent)
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        self.found[name] = (response.status_code, kind, said(response, kind))
        return response

    def log(self, name: str, node: str | None, job_id: str, *, lines: int = -1, follow: bool = False) -> None:
        query = {"node_id": node or "", "filename": f"job-driver-{job_id}.log", "lines": lines}
        path = f"/api/v0/logs/{'stream' if follow else 'file'}"
        response = self.ask(name, "GET", path, params={**query, **({"interval": 1} if follow else {})})
        if response.status_code == 200:
            own = RAYS_OWN_LINES.sub("", response.text).split() if lines < 0 else len(response.text.splitlines())
            chunked = response.headers.get("Transfer-Encoding") == "chunked"
            self.found[name] = (200, response.headers["Content-Type"], chunked, own)


def said(response: httpx.Response, kind: str) -> Any:
    if kind == "application/json":
        body = response.json()
        return job(body) if isinstance(body, dict) and "status" in body else shape(body)
    lines = [line for line in response.text.splitlines() if re.search(r"\w", line)]
    last = re.sub(r"/\S+/", "/…/", lines[-1]) if lines else ""  # of a traceback, what was raised
    return last.replace(
        "JobSubmitRequest.__init__() missing 1 required positional argument: 'entrypoint'", "entrypoint?"
    )


def job(body: dict[str, Any]) -> dict[str, Any]:
    return {
        name: type(value).__name__ if name in VOLATILE else re.sub(r", last .*", "", value, flags=re.DOTALL) if name == "message" else value
        for name, value in body.items()
    }  # fmt: skip


def shape(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: value if isinstance(value, bool) else type(value).__name__ for name, value in body.items()}
    return sorted(job(row)["submission_id"] for row in body if row.get("submission_id"))


def answers(address: str, token: str, before: Callable[[str], None] = lambda job_id: None) -> dict[str, Any]:
    """Ask a dashboard everything.

    :param before: called before a job of this id is submitted
    """
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
        asked = Answers(http)
        _strangers(address, asked)
        _unknown(asked)
        details = _lives(asked, before)
        _logs(asked, details)
        _ends(asked, before)
        return asked.found


def _strangers(address: str, asked: Answers) -> None:
    for who, headers in (("nobody", {}), ("somebody", {"Authorization": "Bearer wrong"})):
        with httpx.Client(base_url=address, headers=headers) as http:
            stranger = Answers(http)
            for method, path in (
                ("GET", "/api/version"), ("GET", "/api/jobs/"), ("GET", "/api/jobs/x"), ("POST", "/api/jobs/"),
                ("POST", "/api/jobs/x/stop"), ("DELETE", "/api/jobs/x"), ("GET", "/api/v0/logs/file"),
                ("GET", "/api/packages/gcs/x.zip"),
            ):  # fmt: skip
                stranger.ask(f"{who} {method} {path}", method, path)
            asked.found |= stranger.found


def _unknown(asked: Answers) -> None:
    asked.ask("version", "GET", "/api/version")
    asked.ask("unknown job", "GET", "/api/jobs/none")
    asked.ask("stop unknown job", "POST", "/api/jobs/none/stop")
    asked.ask("delete unknown job", "DELETE", "/api/jobs/none")
    package = "/api/packages/gcs/_ray_pkg_0123456789abcdef.zip"
    asked.ask("unknown package", "GET", package)
    asked.ask("upload", "PUT", package, content=b"PK\x05\x06" + bytes(18))
    asked.ask("known package", "GET", package)
    asked.ask("entrypoint of the wrong type", "POST", "/api/jobs/", json={"submission_id": "x", "entrypoint": 7})
    asked.ask("no JSON", "POST", "/api/jobs/", content=b"x")


def _lives(asked: Answers, before: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Submit each job, and wait until it is what it shall be."""
    for job_id, command in COMMANDS.items():
        before(job_id)
        body = {"submission_id": job_id, "entrypoint": command, "metadata": {"a": "b"}}
        asked.ask(f"submit {job_id}", "POST", "/api/jobs/", json=body | ({"entrypoint_num_gpus": 9} if job_id == "gpu" else {}))  # fmt: skip
    asked.ask("submit it again", "POST", "/api/jobs/", json={"submission_id": "long", "entrypoint": "x"})
    states = {"ok": "SUCCEEDED", "bad": "FAILED", "long": "RUNNING", "gpu": "PENDING"}
    details = {job_id: ask_until(asked, job_id, state) for job_id, state in states.items()}
    asked.ask("all jobs", "GET", "/api/jobs/")
    asked.ask("submit what is over again", "POST", "/api/jobs/", json={"submission_id": "ok", "entrypoint": "x"})
    return details


def ask_until(asked: Answers, job_id: str, status: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        found: dict[str, Any] = asked.ask(f"job {job_id} is {status}", "GET", f"/api/jobs/{job_id}").json()
        return found if found["status"] == status else None

    answer: dict[str, Any] = until(reached, f"{job_id} is {status}", every_s=0.2)
    return answer


def _logs(asked: Answers, details: dict[str, dict[str, Any]]) -> None:
    node = details["ok"]["driver_node_id"]
    asked.log("log", node, "ok")
    asked.log("log of a job that runs", node, "long")
    asked.log("one line of a log", node, "ok", lines=1)
    asked.log("log that is not there", node, "none")
    asked.log("log that is not there, followed", node, "none", follow=True)
    asked.log("log of a node that is gone", "ff" * 28, "ok")
    asked.log("log of a job without a node", details["gpu"]["driver_node_id"], "gpu")


def _ends(asked: Answers, before: Callable[[str], None]) -> None:
    asked.ask("delete a job that runs", "DELETE", "/api/jobs/long")
    asked.ask("stop", "POST", "/api/jobs/long/stop")
    asked.ask("stop what waits for resources", "POST", "/api/jobs/gpu/stop")
    asked.ask("stop what is over", "POST", "/api/jobs/ok/stop")
    ask_until(asked, "long", "STOPPED")
    ask_until(asked, "gpu", "PENDING")
    asked.ask("delete", "DELETE", "/api/jobs/ok")
    asked.ask("deleted", "GET", "/api/jobs/ok")
    before("ok")
    asked.ask("submit what was deleted", "POST", "/api/jobs/", json={"submission_id": "ok", "entrypoint": COMMANDS["ok"]})  # fmt: skip


@pytest.fixture
def fake() -> Iterator[Dashboard]:
    server = Dashboard(TOKEN)
    yield server
    server.close()


def test_every_answer_of_the_fake_is_rays(ray_cluster: LocalCluster, fake: Dashboard) -> None:
    def plan(job_id: str) -> None:
        if job_id in ENDS:
            fake.plan(**ENDS[job_id])

    real = answers(ray_cluster.address, Path(ray_cluster.token_path).read_text())
    assert real["submit it again"][0] == real["submit what is over again"][0] == 500
    assert real["deleted"][0] == 404
    assert {real[f"{who} GET /api/jobs/x"][0] for who in ("nobody", "somebody")} == {401, 403}
    said = answers(fake.url, TOKEN, plan)
    # Of a log that is not there Ray says so, or sends nothing and ends it: which, is a race in Ray.
    for name in ("log that is not there", "log that is not there, followed"):
        assert real.pop(name) in (said.pop(name), (200, "text/plain", True, []))
    assert said == real
