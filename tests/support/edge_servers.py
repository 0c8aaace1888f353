"""Small real HTTP servers behind the edge, and callers in front of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from operators.core.traffic import Route, Row
from ray_jobs.edge import Edge

CANARY_TIMEOUT_S = 0.8  # long enough for a machine that stalls, short enough to wait for
SLOW_S = 0.25
MODEL = "flight_delay"
INFER = f"/v2/models/{MODEL}/infer"


def split(weight_bp: int, **values: Any) -> Route:
    """Return the route of most tests: version 3, and 4 as the canary."""
    usual: dict[str, Any] = {"model": MODEL, "stable": "3", "canary": "4", "canary_timeout_ms": 800, "lease_s": 60.0}
    return Route(**{**usual, "weight_bp": weight_bp, **values})


class Versions(ThreadingHTTPServer):
    """What Ray Serve is to the edge. ``behaviour[version]`` is a status, or close, close once, cut, forget, hang, slow, stream."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        self.behaviour: dict[str, int | str] = {}
        self.asked: dict[str, list[str]] = defaultdict(list)
        self.requests: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Stay silent: connections break here on purpose."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Versions

    def do_POST(self) -> None:
        self.answer(self._body())

    def do_GET(self) -> None:
        self.answer(b"")

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size + 2)[:-2]
        self.rfile.readline()
        return body

    def answer(self, body: bytes) -> None:
        version = self.path.split("/")[2]
        self.server.asked[self.headers["X-Request-Id"]].append(version)
        behaviour = self.server.behaviour.get(version, 200)
        if behaviour == "close":
            return self._break_off()
        if behaviour in ("forget", "close once"):
            del self.server.behaviour[version]
            if behaviour == "close once":
                return self._break_off()
            behaviour = 404
        if behaviour == "stream":
            return self._stream()
        if behaviour == "hang":
            time.sleep(CANARY_TIMEOUT_S + 0.2)
        if behaviour == "slow":
            time.sleep(SLOW_S)
        headers = {name.lower(): value for name, value in self.headers.items()}
        said = {"version": version, "path": self.path, "bytes": len(body), "headers": headers}
        self.server.requests[version].append(said)
        answer = json.dumps(said)
        self.send_response(behaviour if isinstance(behaviour, int) else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if behaviour == "cut":
            self.wfile.write(answer[:5].encode())
            return self._break_off()
        self.wfile.write(answer.encode())

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(3):
            self.wfile.write(f"1\r\n{i}\r\n".encode())
            self.wfile.flush()
            time.sleep(0.1)
        self.wfile.write(b"0\r\n\r\n")

    def _break_off(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.json: Any = json.loads(response.read())
        self.arm = response.headers["X-Taxiway-Arm"]
        self.version = response.headers["X-Taxiway-Version"]
        self.request_id = response.headers["X-Request-Id"]


class Caller:
    """One caller with one connection that is kept alive."""

    def __init__(self, edge: Edge, timeout_s: float = 10.0) -> None:
        self._connection = http.client.HTTPConnection(edge.config.bind, timeout=timeout_s)

    def __call__(self, method: str = "POST", path: str = INFER, body: Any = b"{}", **headers: str) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body=body if method == "POST" else None, headers=names)
        return Answer(self._connection.getresponse())


def pid_of(edge: Edge) -> int:
    return int((Path(edge.config.state_dir) / "haproxy.pid").read_text())


def counted(edge: Edge, arm: str, model: str = "flight_delay") -> Row:
    return next(row for row in edge.counters(model) if row.arm == arm)


def xxh32(data: bytes) -> int:
    """Return xxHash32 with seed 0, written from its specification."""
    p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    mask = 0xFFFFFFFF

    def rotate(value: int, by: int) -> int:
        return (value << by | (value & mask) >> (32 - by)) & mask

    size, at = len(data), 0
    lanes = [(p1 + p2) & mask, p2, 0, -p1 & mask]
    while at + 16 <= size:
        for i, word in enumerate(struct.unpack_from("<4I", data, at)):
            lanes[i] = rotate((lanes[i] + word * p2) & mask, 13) * p1 & mask
        at += 16
    state = sum(rotate(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) if at else p5
    state = (state + size) & mask
    while at + 4 <= size:
        state = rotate((state + struct.unpack_from("<I", data, at)[0] * p3) & mask, 17) * p4 & mask
        at += 4
    for byte in data[at:]:
        state = rotate((state + byte * p5) & mask, 11) * p1 & mask
    state = (state ^ state >> 15) * p2 & mask
    state = (state ^ state >> 13) * p3 & mask
    return state ^ state >> 16


def bucket(model: str, unit: str) -> int:
    return xxh32(f"{model}/{unit}".encode()) % 10_000
