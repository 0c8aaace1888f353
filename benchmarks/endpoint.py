"""The cost of the edge: one model, asked through the edge and at Ray Serve directly, in turns in the same run.

Needs a running stack with a champion (`make demo` leaves one). Prints JSON: medians over the rounds, and their ratio.
The rival is flattered: Serve alone, asked directly, has no split, no sticky assignment, no fallback and no counters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

import aiohttp

from operators.cli.config import Stack
from operators.cli.environment import services
from operators.core.loader import INCLUDE, load_spec
from ray_jobs.inference import write_request

_VALUES = {"category": "AA", "number": 10.0, "integer": 5, "boolean": True}


async def round_of(url: str, body: bytes, *, clients: int, seconds: float) -> dict[str, float]:
    """Ask as fast as the answers come, from some clients with connections that they keep."""
    took_ms: list[float] = []
    end = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        while (began := time.perf_counter()) < end:
            async with session.post(url, data=body) as answered:
                await answered.read()
                assert answered.status == 200, await answered.text()
            took_ms.append((time.perf_counter() - began) * 1000)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    took_ms.sort()
    at = lambda q: took_ms[int(q * (len(took_ms) - 1))]  # noqa: E731
    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "requests_per_s": len(took_ms) / seconds}


async def compare(model: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Alternate between the two paths, so that a noisy neighbour meets both."""
    env = services(Stack.running())
    spec = load_spec(INCLUDE / "models" / f"{model}.yaml")
    row = {name: _VALUES[kind.rstrip("?")] for name, kind in spec.features.items()}
    body = json.dumps(write_request([row], spec.features)).encode()
    edge = f"{env['TAXIWAY_EDGE_URL']}/v2/models/{model}/infer"
    async with aiohttp.ClientSession() as session, session.post(edge, data=body) as answered:
        version = answered.headers["X-Taxiway-Version"]
    paths = {"serve": f"{env['TAXIWAY_SERVE_URL']}/{model}/{version}/v2/models/{model}/infer", "edge": edge}
    result: dict[str, Any] = {}
    for clients in (1, 16):
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
        for _ in range(rounds):
            for name, url in paths.items():
                seen[name].append(await round_of(url, body, clients=clients, seconds=seconds))
        middle = {n: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for n, rs in seen.items()}
        ratio = {key: round(middle["edge"][key] / middle["serve"][key], 3) for key in middle["edge"]}
        rounded = {n: {k: round(v, 3) for k, v in m.items()} for n, m in middle.items()}
        result[f"clients_{clients}"] = {**rounded, "edge_over_serve": ratio}
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="flight_delay")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(compare(given.model, given.rounds, given.seconds)), indent=2))
