"""An agent, keepers and edges without Ray: all real but Serve, in whose place a small HTTP server answers for every version.

Run as a program, it is the agent or a keeper in a process of its own, for the tests that kill it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from operators.core.traffic import AppState
from ray_jobs.agent.agent import Agent
from ray_jobs.agent.keeper import Keeper
from ray_jobs.agent.link import Link
from ray_jobs.agent.server import Server, listen
from ray_jobs.edge import Edge, EdgeConfig
from ray_jobs.edge.files import write
from tests.support.ports import free_port
from tests.support.waiting import until

TOKEN = "secret-of-the-test"
MODEL = "flights"
HOLDER = "release-1"


class Serve(ThreadingHTTPServer):
    """Answers for every version, where ``held`` names an event, once that is set; ``status`` may name a failure."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        self.held: dict[str, threading.Event] = {}
        self.status: dict[str, int] = {}
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Stay silent: connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Serve

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        version = self.path.split("/")[2]
        if held := self.server.held.get(version):
            held.wait(60)
        answer = json.dumps({"version": version}).encode()
        self.send_response(self.server.status.get(version, 200))
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class AppsFile:
    """In the place of Ray Serve's controller: what is deployed is in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def states(self) -> dict[str, AppState]:
        found = json.loads(self._path.read_text()) if self._path.exists() else {}
        return {name: AppState(status=status) for name, status in found.items()}

    def deploy(self, model: str, version: str, spec_json: str, model_uri: str) -> None:
        self.put(f"{model}-{version}", "RUNNING")

    def answers(self, model: str, version: str, timeout_s: float) -> bool:
        state = self.states().get(f"{model}-{version}")
        return state is not None and state.status == "RUNNING"

    def delete(self, model: str, version: str) -> None:
        self.put(f"{model}-{version}", None)

    def put(self, name: str, status: str | None) -> None:
        states = {known: state.status for known, state in self.states().items()}
        write(self._path, json.dumps({k: v for k, v in {**states, name: status}.items() if v}), durable=False)


class Api:
    """A caller of the agent's API."""

    def __init__(self, port: int, token: str | None = TOKEN) -> None:
        self._port = port
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        with contextlib.closing(connection):
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, self.headers | {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        kind = answer.headers["Content-Type"] or ""
        return answer.status, json.loads(text) if kind.startswith("application/json") else text.decode()

    def route(self, *, query: str = "", **route: Any) -> tuple[int, Any]:
        body = {"stable": "1", "lease_s": 60.0, "holder": HOLDER, **route}
        return self("PUT", f"/v1/routes/{MODEL}{query}", body)

    def journal(self, kind: str | None = None) -> list[Any]:
        status, entries = self("GET", "/v1/journal")
        assert status == 200, entries
        return [entry for entry in entries if kind in (None, entry["kind"])]

    def counters(self) -> Any:
        status, found = self("GET", f"/v1/counters/{MODEL}")
        assert status == 200, found
        return found

    def since(self, counters: Any = None) -> dict[str, str | None]:
        """Return which counting each edge has."""
        return {edge["edge"]: edge["since"] for edge in (counters or self.counters())["edges"]}


class EdgeCaller:
    """A caller of an edge, with one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def __call__(self, unit: str = "") -> tuple[int, str]:
        headers = {"X-Taxiway-Unit": unit} if unit else {}
        self._connection.request("POST", f"/v2/models/{MODEL}/infer", b"{}", headers)
        answer = self._connection.getresponse()
        body = json.loads(answer.read())
        return answer.status, body.get("version", "")


def answers(port: int) -> str:
    """Return the version that answers on an edge, over a new connection; ``""`` if none does."""
    try:
        return EdgeCaller(port)()[1]
    except (OSError, http.client.HTTPException):
        return ""


class World:
    """One agent and some edges in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.serve = Serve()
        self.versions = AppsFile(folder / "apps.json")
        for version in "1234":
            self.versions.put(f"{MODEL}-{version}", "RUNNING")
        self.port = free_port()
        self.api = Api(self.port)
        self.ports = {name: free_port() for name in ("a", "b", "c")}
        self.server: Server | None = None
        self.keepers: dict[str, Keeper] = {}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start_agent(self) -> None:
        self.server = agent_server(self.folder, self.port)
        self.server.start()

    def stop_agent(self) -> None:
        assert self.server is not None
        self.server.stop()
        self.server = None

    def edge(self, name: str, **settings: Any) -> Edge:
        return Edge(
            EdgeConfig(
                bind=f"127.0.0.1:{self.ports[name]}",
                upstream=f"127.0.0.1:{self.serve.server_port}",
                state_dir=self.folder / f"edge-{name}",
                **settings,
            )
        )

    def start_keeper(self, name: str = "a", **settings: Any) -> None:
        self.keepers[name] = keeper_of(self.edge(name, **settings), self.port, name)
        self.keepers[name].start()

    def stop_keeper(self, name: str = "a") -> None:
        self.keepers.pop(name).stop()

    def pid(self, name: str = "a") -> int:
        return int((self.folder / f"edge-{name}" / "haproxy.pid").read_text())

    def call(self, name: str = "a") -> EdgeCaller:
        return EdgeCaller(self.ports[name])

    def health(self) -> dict[str, Any]:
        return {edge["id"]: edge for edge in self.api("GET", "/v1/health")[1]["edges"]}

    def wait_ready(self, *names: str) -> None:
        until(lambda: all(self.health().get(name, {}).get("ready") for name in names or ("a",)), "ready")

    def spawn(self, role: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the agent or a keeper in a process of its own."""
        command = [
            sys.executable,
            "-m",
            "tests.support.agent_world",
            role,
            str(self.folder),
            str(self.port),
            *arguments,
        ]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
        self.processes.append(process)
        return process

    def spawn_keeper(self, name: str = "a") -> subprocess.Popen[bytes]:
        return self.spawn("keeper", name, str(self.ports[name]), str(self.serve.server_port))

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for keeper in self.keepers.values():
            keeper.stop()
        if self.server is not None:
            self.server.stop()
        for name in self.ports:
            self.edge(name).stop()
        self.serve.shutdown()
        self.serve.server_close()


@contextlib.contextmanager
def world_in(folder: Path) -> Iterator[World]:
    world = World(folder)
    try:
        yield world
    finally:
        world.close()


def agent_server(folder: Path, port: int) -> Server:
    return Server(lambda: Agent(folder / "agent", AppsFile(folder / "apps.json")), listen("127.0.0.1", port), TOKEN)


def keeper_of(edge: Edge, port: int, name: str) -> Keeper:
    link = Link(f"http://127.0.0.1:{port}", TOKEN, name)
    return Keeper(edge, link, url=f"http://{edge.config.bind}")


def _program(role: str, folder: str, port: str, *rest: str) -> None:
    if role == "agent":
        agent_server(Path(folder), int(port)).start()
    else:
        name, bind, upstream = rest
        config = EdgeConfig(
            bind=f"127.0.0.1:{bind}", upstream=f"127.0.0.1:{upstream}", state_dir=Path(folder) / f"edge-{name}"
        )
        keeper_of(Edge(config), int(port), name).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(asyncio.sleep(300))


if __name__ == "__main__":
    _program(*sys.argv[1:])
