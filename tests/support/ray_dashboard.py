"""Ray's job API, as far as the clients use it, for failures that a real Ray refuses to produce.

`tests/contract/test_ray_dashboard.py` holds every answer of it against a real cluster's. As a process of its own:
``python -m tests.support.ray_dashboard <jobs> <milliseconds>`` prints its address, has that many running jobs, ``job-0`` and
so on, and takes that long for each answer.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NODE = "ab" * 28
_MESSAGES = {
    "PENDING": "Job has not started yet. It may be waiting for resources (CPUs, GPUs, memory, custom resources) to become "
    "available.",
    "RUNNING": "Job is currently running.",
    "SUCCEEDED": "Job finished successfully.",
    "STOPPED": "Job was intentionally stopped.",
}
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")
_BROKEN = "500 Internal Server Error\n\nServer got itself in trouble"


class Dashboard(ThreadingHTTPServer):
    """A cluster without GPUs, whose jobs run until somebody ends them.

    ``failure`` answers every request with a status and a text; ``drop_answers`` loses answers after doing the work; ``hang``
    answers nothing until it is set; so many answers with a log as ``cut_logs`` says end in the middle; ``log_ends`` lets a
    followed log end at once, as Ray does now and then where there is none; ``forget`` loses the jobs, as a restart does.

    :param token: what a request must carry; None: nothing
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, bytes] = {}
        self.packages: set[str] = set()
        self.plans: list[dict[str, Any]] = []
        self.looks: dict[str, int] = {}
        self.lock = threading.Lock()
        self.after_submit: Callable[[str], None] = lambda job_id: None
        self.failure: tuple[int, str] | None = None
        self.drop_answers = False
        self.delay_s = 0.0
        self.hang: threading.Event | None = None
        self.cut_logs = 0
        self.log_ends = False
        self.log_reads = 0
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
            waits = body.get("entrypoint_num_gpus", 0) > 0
            self.jobs[job_id] = {
                "type": "SUBMISSION",
                "job_id": None,
                "submission_id": job_id,
                "driver_info": None,
                "status": "PENDING" if waits else "RUNNING",
                "entrypoint": body["entrypoint"],
                "message": _MESSAGES["PENDING" if waits else "RUNNING"],
                "error_type": None,
                "start_time": _now_ms(),
                "end_time": None,
                "metadata": body.get("metadata") or None,
                "runtime_env": body.get("runtime_env") or None,
                "driver_agent_http_address": None if waits else "http://127.0.0.1:52365",
                "driver_node_id": None if waits else NODE,
                "driver_exit_code": None,
                **plan,
            }
            return True

    def look(self, job_id: str) -> dict[str, Any] | None:
        job = self.jobs.get(job_id)
        if job is None:
            return None
        with self.lock:
            self.looks[job_id] = self.looks.get(job_id, 0) + 1
            if self.looks[job_id] >= 2 and (plan := job.pop("plan", None)):
                self.logs[job_id] = plan.pop("log")
                self.end(job_id, **plan)
        return {name: value for name, value in job.items() if name != "plan"}

    def end(self, job_id: str, status: str = "SUCCEEDED", **more: Any) -> None:
        """End a job; ``more`` are details of it other than those that Ray gives such an end."""
        code = {"SUCCEEDED": 0, "FAILED": 1}.get(status)
        found: dict[str, Any] = {"status": status, "end_time": _now_ms(), "driver_exit_code": code, **more}
        if status == "FAILED":
            found.setdefault("error_type", "JOB_ENTRYPOINT_COMMAND_ERROR")
            found.setdefault(
                "message", f"Job entrypoint command failed with exit code {found['driver_exit_code']}, last …"
            )
        found.setdefault("message", _MESSAGES.get(status))
        self.jobs[job_id] |= found

    def forget(self) -> None:
        """Lose every job, as a restart of a cluster does that keeps its table in memory."""
        self.jobs.clear()

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
        if not self._admitted():
            return
        path = urlsplit(self.path)
        if path.path.startswith("/api/v0/logs/"):
            return self._log(path.path.endswith("stream"), parse_qs(path.query))
        if path.path.startswith("/api/packages/"):
            return self._package(path.path)
        if path.path == "/api/version":
            return self._say(200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "0", "session_name": "fake"})
        if path.path == "/api/jobs/":
            self.server.lists += 1
            return self._say(200, self._list())
        job_id = path.path.split("/")[3]
        job = self.server.look(job_id)
        self._say(200, job) if job else self._unknown(job_id)

    def _package(self, path: str) -> None:
        if path in self.server.packages:
            return self._say(200, "")
        self._say(404, f"Package {path.removeprefix('/api/packages/').replace('/', '://', 1)} does not exist")

    def _unknown(self, job_id: str) -> None:
        self._say(404, f"Job {job_id} does not exist")

    def _list(self) -> list[dict[str, Any]]:
        driver = {"type": "DRIVER", "submission_id": None, "status": "RUNNING"}  # Ray lists these, too
        return [driver, *filter(None, map(self.server.look, list(self.server.jobs)))]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if not self._admitted():
            return
        self.server.packages.add(self.path)
        self._say(200, "")

    def do_DELETE(self) -> None:
        if not self._admitted():
            return
        job_id = self.path.split("/")[3]
        job = self.server.jobs.get(job_id)
        if job is None:
            return self._unknown(job_id)
        if job["status"] not in _OVER:
            state = f"it is in a non-terminal state {job['status']}"
            return self._say(500, f"RuntimeError: Attempted to delete job '{job_id}', but {state}.")
        del self.server.jobs[job_id]
        self._say(200, {"deleted": True})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._admitted():
            return
        if self.server.failure:
            return self._say(0, "")
        if self.path.endswith("/stop"):
            return self._stop(self.path.split("/")[3])
        try:
            body = json.loads(raw)
        except ValueError:
            return self._say(500, _BROKEN)
        if not isinstance(body.get("entrypoint"), str):
            return self._say(400, f"TypeError: entrypoint must be a string, got {type(body.get('entrypoint'))}")
        job_id = body["submission_id"]
        if not self.server.take(job_id, body):
            text = f"ValueError: Job with submission_id {job_id} already exists. Please use a different submission_id."
            return self._say(500, text)  # as Ray does: no 409
        self._say(200, {"job_id": job_id, "submission_id": job_id})
        self.server.after_submit(job_id)

    def _stop(self, job_id: str) -> None:
        job = self.server.jobs.get(job_id)
        if job is None:
            return self._unknown(job_id)
        runs = job["status"] not in _OVER
        if job["status"] == "RUNNING":  # one that waits for resources ends only when it has them
            self.server.end(job_id, "STOPPED")
        self._say(200, {"stopped": runs})

    def _admitted(self) -> bool:
        """Answer a request without the right token, as Ray does on every route."""
        given, wanted = self.headers.get("Authorization"), self.server.token
        time.sleep(self.server.delay_s)
        if self.server.hang is not None:
            self.server.hang.wait(60)
        if wanted is None or given == f"Bearer {wanted}":
            return True
        if given is None:
            self._say(401, "Unauthorized: Missing authentication token")
        else:
            self._say(403, "Forbidden: Invalid authentication token")
        return False

    def _log(self, follow: bool, query: dict[str, list[str]]) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        self.server.log_reads += 1
        job_id = query["filename"][0].removeprefix("job-driver-").removesuffix(".log")
        node = query.get("node_id", [""])[0]
        if not node:
            return self._say(500, _BROKEN)
        if node != NODE:
            return self._say(500, f"Agent for node id: {node} doesn't exist.")
        if job_id not in self.server.logs or self.server.failure:
            return self._say(500, f"A file is not found at: /tmp/ray/session/logs/job-driver-{job_id}.log")
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent, lines = 0, int(query["lines"][0])
        if lines >= 0:
            data = self.server.logs[job_id]
            sent = len(data) - len(b"".join(data.splitlines(keepends=True)[-lines:]))
        try:
            while True:
                data = self.server.logs[job_id][sent:]
                if self.server.cut_logs:
                    self.server.cut_logs -= 1
                    return self._cut(data)
                if data:
                    self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                    self.wfile.flush()
                    sent += len(data)
                if not follow or self.server.log_ends or self._is_left():
                    break
                time.sleep(0.01)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def _cut(self, data: bytes) -> None:
        """Promise all of it, send a half, and hang up."""
        self.wfile.write(f"{len(data):x}\r\n".encode() + data[: len(data) // 2])
        self.wfile.flush()
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
        if raw:
            self.send_header(
                "Content-Type", f"{'text/plain' if isinstance(body, str) else 'application/json'}; charset=utf-8"
            )
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def _now_ms() -> int:
    return int(time.time() * 1000)


def main(count: int, delay_ms: float) -> None:
    """Serve so many running jobs until standard input ends."""
    server = Dashboard()
    server.delay_s = delay_ms / 1000
    for number in range(count):
        server.take(f"job-{number}", {"entrypoint": "true"})
    print(server.url, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
