"""The edge with a real HAProxy, in front of small real HTTP servers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from operators.core.errors import ConfigurationError, ServiceError
from ray_jobs.edge import LATENCY_BOUNDS_MS, Counters, Edge, EdgeConfig, Route

CANARY_TIMEOUT_S = 2.0
INFER = "/v2/models/flight_delay/infer"


class Versions(ThreadingHTTPServer):
    """What Ray Serve is to the edge. ``behaviour[version]`` is a status, or close, cut, hang or stream."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        self.behaviour: dict[str, int | str] = {}
        self.asked: dict[str, list[str]] = defaultdict(list)
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
        if behaviour == "forget":
            behaviour = 404
            del self.server.behaviour[version]
        if behaviour == "hang":
            time.sleep(CANARY_TIMEOUT_S + 0.2)
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = json.dumps({"version": version, "path": self.path, "bytes": len(body), "headers": headers})
        self.send_response(behaviour if isinstance(behaviour, int) else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if behaviour == "cut":
            self.wfile.write(answer[:5].encode())
            return self._break_off()
        self.wfile.write(answer.encode())

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pid_of(edge: Edge) -> int:
    return int((Path(edge.config.state_dir) / "haproxy.pid").read_text())


@pytest.fixture
def versions() -> Iterator[Versions]:
    server = Versions()
    yield server
    server.close()


@pytest.fixture
def config(versions: Versions, tmp_path: Path) -> EdgeConfig:
    return EdgeConfig(
        bind=f"127.0.0.1:{free_port()}",
        upstream=f"127.0.0.1:{versions.server_port}",
        # Longer than the 107 bytes of a Unix socket's path.
        state_dir=tmp_path / ("long" * 30),
        stable_timeout_s=5,
    )


@pytest.fixture
def edge(config: EdgeConfig) -> Iterator[Edge]:
    edge = Edge(config)
    edge.start()
    yield edge
    edge.stop()


@pytest.fixture
def call(edge: Edge) -> Caller:
    edge.set_route(Route("flight_delay", "3", "4", 0))
    return Caller(edge)


def counted(edge: Edge, arm: str, model: str = "flight_delay") -> Counters:
    return next(counters for counters in edge.counters(model) if counters.arm == arm)


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


class TestPaths:
    def test_a_models_path_goes_to_its_version(self, call: Caller) -> None:
        answer = call(path=f"{INFER}?trace=1", X_Request_Id="r-1", X_Taxiway_Route="flight_delay:9:9:0")
        assert answer.json["path"] == "/flight_delay/3/v2/models/flight_delay/infer?trace=1"
        assert (answer.version, answer.arm, answer.request_id) == ("3", "stable", "r-1")
        assert answer.json["headers"]["x-request-id"] == "r-1"
        assert "x-taxiway-route" not in answer.json["headers"]
        for path in ("/v2/models/flight_delay", "/v2/models/flight_delay/ready"):
            assert call("GET", path).json["path"] == f"/flight_delay/3{path}"

    def test_a_request_without_an_id_is_given_one(self, call: Caller) -> None:
        answer = call()
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.request_id)
        assert answer.json["headers"]["x-request-id"] == answer.request_id

    def test_what_the_edge_answers_itself(self, edge: Edge, call: Caller) -> None:
        edge.set_route(Route("empty", None, None, 0))
        assert call("GET", "/v2/health/live").json == {"live": True}
        assert call("GET", "/v2/health/ready").json == {"ready": True}
        assert call("GET", "/v2").json == {"name": "taxiway", "version": "0.1.0", "extensions": []}
        for method, path, status in (
            ("GET", "/v2/models/nobody/infer", 404),
            ("GET", '/v2/models/"%22/infer', 404),
            ("GET", "/v2/models", 404),
            ("GET", "/flight_delay/4/v2/models/flight_delay", 404),
            ("GET", "/v2/models/flight_delay/../../flight_delay/4", 404),
            ("GET", "/v2/models/flight_delay/%2e%2E/x", 404),
            ("GET", "/v2/models/empty/ready", 503),
            ("DELETE", "/v2", 405),
        ):
            answer = call(method, path)
            assert answer.status == status, path
            assert answer.json["error"]
        assert edge.counters("nobody") == []
        assert counted(edge, "edge", "empty").failures == 1


class TestAssignment:
    def test_the_canary_has_exactly_the_buckets_below_its_weight(self, edge: Edge, call: Caller) -> None:
        """So it is sticky, and whoever is in at one weight is in at every greater one."""
        units = [f"unit-{i}" for i in range(200)]
        for weight_bp in (0, 1_000, 5_000, 10_000):
            edge.set_route(Route("flight_delay", "3", "4", weight_bp))
            # A canary that this machine stalls is answered for by stable; the unit was in it all the same.
            inside = {unit for unit in units if call(X_Taxiway_Unit=unit).arm in ("canary", "fallback")}
            assert inside == {unit for unit in units if bucket("flight_delay", unit) < weight_bp}

    def test_the_hash_is_even_and_differs_by_model(self) -> None:
        assert xxh32(b"") == 0x02CC5D05
        assert xxh32(b"Nobody inspects the spammish repetition") == 0xE2293B2F
        count = 20_000
        buckets = [bucket("flight_delay", str(unit)) for unit in range(count)]
        for weight_bp in (1, 100, 1_000, 5_000):
            share = weight_bp / 10_000
            inside = sum(b < weight_bp for b in buckets)
            assert abs(inside - count * share) < 4 * (count * share * (1 - share)) ** 0.5 + 1
        both = sum(b < 5_000 and bucket("other", str(unit)) < 5_000 for unit, b in enumerate(buckets))
        assert abs(both - count / 4) < 4 * (count * 3 / 16) ** 0.5

    def test_the_unit_is_the_header_then_the_body_then_the_request_id(self, edge: Edge, call: Caller) -> None:
        edge.set_route(Route("flight_delay", "3", "4", 5_000))
        inside = next(str(i) for i in range(99) if bucket("flight_delay", str(i)) < 5_000)
        outside = next(str(i) for i in range(99) if bucket("flight_delay", str(i)) >= 5_000)

        def body(unit: Any) -> bytes:
            return json.dumps({"inputs": [{"data": [1] * 20_000}], "parameters": {"unit": unit}}).encode()

        for unit, arm, other in ((inside, "canary", outside), (outside, "stable", inside)):
            assert call(X_Taxiway_Unit=unit, body=body(other), X_Request_Id=other).arm == arm
            assert call(body=body(unit), X_Request_Id=other).arm == arm
            assert call(body=body(int(unit)), X_Request_Id=other).arm == arm
            assert call(X_Request_Id=unit).arm == arm
            assert call("GET", "/v2/models/flight_delay", X_Taxiway_Unit=unit).arm == arm


class TestFallback:
    @pytest.mark.parametrize("behaviour", [500, 501, 503, 599, "close", "cut", "hang"])
    def test_a_canary_that_fails_costs_no_caller_anything(
        self, edge: Edge, call: Caller, versions: Versions, behaviour: int | str
    ) -> None:
        edge.set_route(Route("flight_delay", "3", "4", 10_000))
        # The first answer leaves a pooled connection, on which a silent end is hardest to notice.
        assert call().arm == "canary"
        versions.behaviour["4"] = behaviour
        count = 2 if behaviour == "hang" else 20
        for _ in range(count):
            answer = call(body=b"x" * 5_000)
            assert (answer.status, answer.version, answer.arm) == (200, "3", "fallback")
            assert answer.json["bytes"] == 5_000
            assert versions.asked[answer.request_id] == ["4", "3"]
        canary = counted(edge, "canary")
        assert (canary.version, canary.requests, canary.failures) == ("4", count + 1, count)
        assert sum(n for _, n in canary.latency_ms_buckets) == count + 1
        if behaviour == "hang":
            assert sum(n for bound, n in canary.latency_ms_buckets if bound > CANARY_TIMEOUT_S * 1000) == count
        assert (counted(edge, "fallback").requests, counted(edge, "fallback").failures) == (count, 0)
        assert (counted(edge, "edge").requests, counted(edge, "edge").failures) == (count + 1, 0)

    def test_a_hang_is_counted_although_the_caller_has_left(self, edge: Edge, call: Caller, versions: Versions) -> None:
        edge.set_route(Route("flight_delay", "3", "4", 10_000))
        versions.behaviour["4"] = "hang"
        with pytest.raises(TimeoutError):
            Caller(edge, timeout_s=CANARY_TIMEOUT_S / 3)()
        time.sleep(CANARY_TIMEOUT_S)
        assert counted(edge, "canary").failures == 1

    def test_a_4xx_of_the_canary_is_an_answer(self, edge: Edge, call: Caller, versions: Versions) -> None:
        edge.set_route(Route("flight_delay", "3", "4", 10_000))
        versions.behaviour["4"] = 422
        answer = call()
        assert (answer.status, answer.version, answer.arm) == (422, "4", "canary")
        assert counted(edge, "canary").failures == 0

    def test_a_canary_that_serve_no_longer_knows_costs_nothing(
        self, edge: Edge, call: Caller, versions: Versions
    ) -> None:
        edge.set_route(Route("flight_delay", "3", "4", 10_000))
        versions.behaviour["4"] = 404
        answer = call()
        assert (answer.status, answer.version, answer.arm) == (200, "3", "fallback")
        assert counted(edge, "canary").failures == 1

    def test_bodies_up_to_the_limit_fall_back_and_larger_ones_go_to_stable(
        self, edge: Edge, call: Caller, versions: Versions
    ) -> None:
        edge.set_route(Route("flight_delay", "3", "4", 10_000))
        limit = edge.config.fallback_body_bytes
        assert call(body=b"x" * limit).arm == "canary"
        versions.behaviour["4"] = 500
        large_headers = {"X_Large": "y" * 31_000}  # with these, the same body is no longer whole in the buffer
        for body, headers, arm in (
            (b"x" * limit, {}, "fallback"),
            (b"x" * limit, large_headers, "stable"),
            (b"x" * (limit + 1), {}, "stable"),
            (b"x" * 1_048_576, {}, "stable"),
            (iter([b"x" * 70_000] * 3), {}, "stable"),  # chunked
        ):
            answer = call(body=body, **headers)
            assert (answer.status, answer.arm, answer.version) == (200, arm, "3")
            assert answer.json["bytes"] == (len(body) if isinstance(body, bytes) else 210_000)
        assert counted(edge, "bypass").requests == 4
        assert not any(counters.arm == "stable" for counters in edge.counters("flight_delay"))


class TestStable:
    @pytest.mark.parametrize(("behaviour", "status"), [(500, 500), (503, 503), ("close", 502), ("cut", 502)])
    def test_a_failure_is_answered_and_counted(
        self, edge: Edge, call: Caller, versions: Versions, behaviour: int | str, status: int
    ) -> None:
        assert call().status == 200
        versions.behaviour["3"] = behaviour
        for _ in range(3):
            assert call().status == status
        for arm in ("stable", "edge"):
            assert (counted(edge, arm).requests, counted(edge, arm).failures) == (4, 3)

    @pytest.mark.parametrize(
        ("weight_bp", "arm", "answered"), [(0, "stable", "stable"), (10_000, "canary", "fallback")]
    )
    def test_an_upstream_that_restarts_costs_nothing(
        self, edge: Edge, call: Caller, versions: Versions, weight_bp: int, arm: str, answered: str
    ) -> None:
        edge.set_route(Route("flight_delay", "3", "4", weight_bp))
        assert call().status == 200
        versions.close()
        reborn: list[Versions] = []
        timer = threading.Timer(0.4, lambda: reborn.append(Versions(versions.server_port)))
        timer.start()
        try:
            answer = Caller(edge)()
            assert (answer.status, answer.arm) == (200, answered)
            assert (counted(edge, arm).requests, counted(edge, arm).failures) == (2, 1)
            assert counted(edge, "edge").failures == 0
        finally:
            timer.join()
            reborn[0].close()

    def test_a_proxy_that_was_replaced_costs_nothing(self, edge: Edge, call: Caller, versions: Versions) -> None:
        assert call().status == 200
        versions.behaviour["3"] = "forget"
        answer = call()
        assert (answer.status, answer.version, answer.arm) == (200, "3", "stable")
        assert counted(edge, "edge").failures == 0

    def test_a_proxy_that_comes_back_without_routes_costs_a_second(
        self, edge: Edge, call: Caller, versions: Versions
    ) -> None:
        assert call().status == 200
        versions.behaviour["3"] = 404
        timer = threading.Timer(0.4, lambda: versions.behaviour.pop("3"))
        timer.start()
        answer = call()
        timer.join()
        assert (answer.status, answer.version, answer.arm) == (200, "3", "stable")
        assert counted(edge, "edge").failures == 0

    def test_ready_follows_the_upstream(self, edge: Edge, versions: Versions) -> None:
        assert edge.ready()
        versions.close()
        deadline = time.monotonic() + 5
        while edge.ready():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        answer = Caller(edge)("GET", "/v2/health/ready")
        assert (answer.status, answer.json["ready"]) == (503, False)
        assert Caller(edge)("GET", "/v2/health/live").status == 200


class TestRoutes:
    def test_an_update_under_traffic_is_one_step(self, edge: Edge, versions: Versions) -> None:
        """Both canaries fail, so each request shows which stable its own route had."""
        routes = [Route("flight_delay", "1", "2", 5_000), Route("flight_delay", "3", "4", 5_000)]
        edge.set_route(routes[0])
        versions.behaviour |= {"2": 500, "4": 500}
        answers: list[Answer] = []
        failures: list[BaseException] = []
        done = threading.Event()

        def call_on() -> None:
            caller = Caller(edge)
            try:
                while not done.is_set():
                    answers.append(caller())
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=call_on) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(200):
            edge.set_route(routes[i % 2])
            time.sleep(0.002)
        done.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert {answer.status for answer in answers} == {200}
        asked = {tuple(versions.asked[answer.request_id]) for answer in answers}
        assert asked == {("1",), ("3",), ("2", "1"), ("4", "3")}

    def test_routes_are_kept_counters_are_not_reset_and_models_are_removed(self, edge: Edge, call: Caller) -> None:
        call()
        for weight_bp in (10, 20):
            assert edge.set_route(Route("flight_delay", "3", "4", weight_bp)).weight_bp == weight_bp
        edge.set_route(Route("other", "1", None, 0))
        assert edge.routes() == {
            "flight_delay": Route("flight_delay", "3", "4", 20),
            "other": Route("other", "1", None, 0),
        }
        edge.remove("other")
        edge.remove("other")
        assert set(edge.routes()) == {"flight_delay"}
        assert call(path="/v2/models/other").status == 404
        edge.remove("flight_delay")
        assert edge.routes() == {}
        assert counted(edge, "stable").requests == 1

    @pytest.mark.parametrize(
        "route",
        [
            ("Bad", "1", None, 0),
            ("a\nb", "1", None, 0),
            ("a b", "1", None, 0),
            ("a" * 64, "1", None, 0),
            ("m", "v1", None, 0),
            ("m", "1\n", None, 0),
            ("m", 1, None, 0),
            ("m", "1", "2", 10_001),
            ("m", "1", "2", -1),
            ("m", "1", "2", 0.5),
            ("m", "1", "2", True),
            ("m", "1", None, 1),
            ("m", None, "2", 0),
        ],
    )
    def test_a_route_that_is_not_valid_is_refused(self, route: tuple[Any, Any, Any, Any]) -> None:
        with pytest.raises(ConfigurationError):
            Route(*route)


class TestProcess:
    def test_a_restart_keeps_the_routes(self, edge: Edge, call: Caller) -> None:
        routes = edge.routes()
        edge.stop()
        edge.stop()
        with pytest.raises(ServiceError, match="does not answer"):
            edge.routes()
        assert not edge.ready()
        edge.start()
        assert edge.routes() == routes
        os.kill(pid_of(edge), signal.SIGKILL)
        deadline = time.monotonic() + 5
        while edge.ready():
            assert time.monotonic() < deadline
        with pytest.raises(ServiceError):
            edge.set_route(Route("late", "1", None, 0))
        edge.start()
        assert Caller(edge)().version == "3"
        assert set(edge.routes()) == {"flight_delay", "late"}

    def test_a_second_edge_attaches(self, edge: Edge, call: Caller, config: EdgeConfig) -> None:
        pid = pid_of(edge)
        # As if the agent had died between the disk and the socket.
        (config.state_dir / "routes.map").write_text("flight_delay 7:none:0\n")
        second = Edge(config)
        second.start()
        second.start()
        assert pid_of(second) == pid
        assert call().version == "7"
        with pytest.raises(ConfigurationError, match="other settings"):
            Edge(replace(config, stable_timeout_s=1.0)).start()

    def test_two_edges_stand_side_by_side(
        self, edge: Edge, call: Caller, config: EdgeConfig, versions: Versions, tmp_path: Path
    ) -> None:
        edge.set_route(Route("flight_delay", "3", "4", 10_000))
        versions.behaviour["4"] = 500
        other = Edge(replace(config, bind=f"127.0.0.1:{free_port()}", state_dir=tmp_path / "other"))
        other.start()
        try:
            other.set_route(Route("flight_delay", "5", "6", 10_000))
            caller = Caller(other)
            for _ in range(5):
                assert (call().version, caller().version) == ("3", "6")
        finally:
            other.stop()
        assert call().version == "3"

    def test_a_port_that_is_taken_is_reported(self, edge: Edge, config: EdgeConfig, tmp_path: Path) -> None:
        other = Edge(replace(config, state_dir=tmp_path / "other"))
        with pytest.raises(ServiceError, match=f"{config.bind}.*in use"):
            other.start()
        other.stop()
        assert edge.ready()

    def test_settings_that_are_not_valid_are_refused(self, config: EdgeConfig) -> None:
        for change in ({"bind": "8200"}, {"upstream": "a b:1"}, {"stable_timeout_s": 0}, {"fallback_body_bytes": 1}):
            with pytest.raises(ConfigurationError):
                replace(config, **change)

    def test_the_files_are_private(self, edge: Edge, config: EdgeConfig) -> None:
        assert config.state_dir.stat().st_mode & 0o777 == 0o700
        assert (config.state_dir / "admin.sock").stat().st_mode & 0o777 == 0o600


def test_the_config_counts_by_the_bounds_that_are_reported(config: EdgeConfig) -> None:
    text = config.template.read_text()
    for scope, index in (("edge", 0), ("arm", 1)):
        found = re.findall(rf"sc-inc-gpc\((\d+),{index}\) if {{ var\(txn\.{scope}_us\) -m int (\d*):(\d*) }}", text)
        edges_us = [round(bound * 1000) for bound in LATENCY_BOUNDS_MS[:-1]]
        lows, highs = ["", *map(str, edges_us)], [*(str(bound - 1) for bound in edges_us), ""]
        assert found == [(str(i + 2), *pair) for i, pair in enumerate(zip(lows, highs, strict=True))]
