"""Ray's job API, as far as the clients use it, for failures that a real Ray refuses to produce.

`tests/integration/test_ray_cluster.py` runs `agrees` against this and against a real cluster.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from operators.compute.client import RayJobs


class Dashboard(ThreadingHTTPServer):
    """``failure`` answers every request with a status and a text; ``drop_answers`` loses answers after doing the work."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, bytes] = {}
        self.packages: set[str] = set()
        self.plans: list[dict[str, Any]] = []
        self.looks: dict[str, int] = {}
        self.lock = threading.Lock()
        self.after_submit: Callable[[str], None] = lambda job_id: None
        self.failure: tuple[int, str] | None = None
        self.drop_answers = False
        self.submissions = 0
        self.lists = 0
        self.tokens: set[str | None] = set()
        self.connections = 0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def plan(self, status: str = "SUCCEEDED", *, log: bytes = b"", **more: Any) -> None:
        """Say how the next job that is submitted ends, once it was looked at a second time."""
        self.plans.append({"status": status, "log": log, **more})

    def take(self, job_id: str, body: dict[str, Any]) -> bool:
        with self.lock:
            if job_id in self.jobs:
                return False
            self.submissions += 1
            plan = {"plan": self.plans.pop(0)} if self.plans else {}
            self.logs.setdefault(job_id, b"")
            self.jobs[job_id] = {**body, "status": "RUNNING", "driver_node_id": "node", **plan}
            return True

    def look(self, job_id: str) -> dict[str, Any] | None:
        job = self.jobs.get(job_id)
        if job is None:
            return None
        with self.lock:
            self.looks[job_id] = self.looks.get(job_id, 0) + 1
            if self.looks[job_id] >= 2 and (plan := job.pop("plan", None)):
                self.logs[job_id] = plan.pop("log")
                job |= plan
        return {name: value for name, value in job.items() if name != "plan"}

    def end(self, job_id: str, status: str = "SUCCEEDED", **more: Any) -> None:
        self.jobs[job_id] |= {"status": status, **more}

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Dashboard
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement

    def setup(self) -> None:
        self.server.connections += 1
        super().setup()

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        if path.path.startswith("/api/v0/logs/"):
            return self._log(path.path.endswith("stream"), parse_qs(path.query))
        if path.path.startswith("/api/packages/"):
            return self._say(200, {}) if path.path in self.server.packages else self._say(404, "no")
        if path.path == "/api/version":
            return self._say(200, {"ray_version": "2.60.0"})
        if path.path == "/api/jobs/":
            self.server.lists += 1
            return self._say(200, self._list())
        job = self.server.look(path.path.split("/")[3])
        self._say(200, job) if job else self._say(404, "Job does not exist")

    def _list(self) -> list[dict[str, Any]]:
        driver = {"type": "DRIVER", "submission_id": None, "status": "RUNNING"}  # Ray lists these, too
        return [driver, *filter(None, map(self.server.look, list(self.server.jobs)))]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.packages.add(self.path)
        self._say(200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.server.failure:
            return self._say(0, "")
        if self.path.endswith("/stop"):
            job = self.server.jobs.get(self.path.split("/")[3])
            if job is None:
                return self._say(404, "Job does not exist")
            if job["status"] not in ("SUCCEEDED", "FAILED"):
                job["status"] = "STOPPED"
            return self._say(200, {"stopped": True})
        job_id = body["submission_id"]
        if not self.server.take(job_id, body):
            return self._say(
                400, f"ValueError: Job with submission_id {job_id} already exists. Please use a different one."
            )
        self._say(200, {"submission_id": job_id})
        self.server.after_submit(job_id)

    def _log(self, follow: bool, query: dict[str, list[str]]) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        job_id = query["filename"][0].removeprefix("job-driver-").removesuffix(".log")
        if job_id not in self.server.logs or self.server.failure:
            return self._say(500, "no such log")
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent, lines = 0, int(query["lines"][0])
        if lines >= 0:
            data = self.server.logs[job_id]
            sent = len(data) - len(b"".join(data.splitlines(keepends=True)[-lines:]))
        try:
            while True:
                data = self.server.logs[job_id][sent:]
                if data:
                    self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                    self.wfile.flush()
                    sent += len(data)
                if not follow or self._is_left():
                    break
                time.sleep(0.01)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def _is_left(self) -> bool:
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def _say(self, status: int, body: Any) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.drop_answers:
            self.close_connection = True
            self.connection.close()
            return
        if self.server.failure:
            status, body = self.server.failure
        raw = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def agrees(jobs: RayJobs) -> None:
    """What our code relies on, true of the fake and of Ray."""
    assert jobs.version()
    assert jobs.get("agrees-none") is None
    jobs.stop("agrees-none")
    assert jobs.submit("agrees-1", "sleep 60") is True
    assert jobs.submit("agrees-1", "sleep 60") is False
    job = jobs.get("agrees-1")
    assert job is not None
    assert job.status in ("PENDING", "RUNNING")
    jobs.stop("agrees-1")
    deadline = time.monotonic() + 30
    while (job := jobs.get("agrees-1")) and not job.is_over and time.monotonic() < deadline:
        time.sleep(0.1)
    assert job is not None
    assert job.status == "STOPPED"
    assert jobs.submit("agrees-1", "true") is False
    jobs.upload("gcs://_ray_pkg_0123456789abcdef.zip", b"PK\x05\x06" + bytes(18))
    jobs.upload("gcs://_ray_pkg_0123456789abcdef.zip", b"PK\x05\x06" + bytes(18))
