"""Callers in a process of their own: aiohttp on uvloop, open loop. Each request leaves a line: what came of it, and when.

Open loop: requests are sent at their times, whatever became of those before. A caller is content only with a right answer:
200, the model's own number for this request, from the version that the edge names.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.core.spec import PredictionSpec

_TIMEOUT_S = 20.0
_DISTANCES = range(100, 3000, 50)
_UNITS = 100_000
_ROW = {"category": "XX", "number": 1.0, "integer": 1, "boolean": True}


def row(spec: PredictionSpec, distance: float) -> dict[str, Any]:
    """Return one row of a request."""
    return {name: _ROW[kind.rstrip("?")] for name, kind in spec.features.items()} | {"distance": float(distance)}


def bodies(spec: PredictionSpec) -> dict[str, float]:
    """Return requests as JSON, each with its right answer."""
    from ray_jobs.serve.protocol import write_request

    return {json.dumps(write_request([row(spec, d)], spec.features)): d / 10_000 for d in _DISTANCES}


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    :param sent: unix seconds
    :param problem: empty: the answer was right
    :param target: which of the addresses
    """

    sent: float
    seconds: float
    target: int
    arm: str
    version: str
    problem: str

    @property
    def ended(self) -> float:
        """When the caller knew, in unix seconds."""
        return self.sent + self.seconds


class Load:
    """A process that sends requests until it is stopped.

    :param targets: addresses up to ``/infer``; requests take turns
    :param rate: requests a second over all targets
    :param spec: says what a request looks like
    :param timeout_s: a caller that waits for longer gives up
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        rate: float,
        spec: PredictionSpec,
        folder: Path,
        name: str,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._path = folder / f"{name}.csv"
        asked = folder / f"{name}.json"
        asked.write_text(
            json.dumps({"targets": list(targets), "rate": rate, "timeout_s": timeout_s, "bodies": bodies(spec)})
        )
        command = [sys.executable, "-m", "benchmarks.faults.load", str(asked), str(self._path)]
        self._process = subprocess.Popen(command)

    def answers(self, since: float = 0.0) -> Iterator[Answer]:
        """Yield what is known by now of requests that were sent since a time."""
        if not self._path.exists():
            return
        with self._path.open(newline="") as file:
            for found in csv.reader(file):
                if len(found) == 6 and float(found[0]) >= since:
                    yield Answer(float(found[0]), float(found[1]), int(found[2]), *found[3:])

    def stop(self) -> list[Answer]:
        """Send no more, wait for what is under way, and return everything in the order of sending."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(_TIMEOUT_S + 10)
        return sorted(self.answers(), key=lambda answer: answer.sent)


class _Sender:
    def __init__(self, asked: dict[str, Any], out: Any) -> None:
        self._targets, self._rate = asked["targets"], asked["rate"]
        self._bodies = [(body.encode(), right) for body, right in asked["bodies"].items()]
        self._timeout_s = asked["timeout_s"]
        self._rows = csv.writer(out)
        self._parent = os.getppid()
        self.stopping = False

    async def run(self) -> None:
        import aiohttp

        pending: set[asyncio.Task[None]] = set()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout_s), connector=connector
        ) as http:
            began, index = time.monotonic(), 0
            while not self.stopping and os.getppid() == self._parent:  # whoever started it may have been killed
                task = asyncio.create_task(self._send(http, index))
                pending.add(task)
                task.add_done_callback(pending.discard)
                index += 1
                await asyncio.sleep(max(0.0, began + index / self._rate - time.monotonic()))
            if pending:
                await asyncio.wait(pending)

    async def _send(self, http: Any, index: int) -> None:
        import aiohttp

        body, right = random.choice(self._bodies)
        target = index % len(self._targets)
        headers = {"Content-Type": "application/json", "X-Taxiway-Unit": f"unit-{random.randrange(_UNITS)}"}
        sent, began, arm, version = time.time(), time.perf_counter(), "", ""
        try:
            async with http.post(self._targets[target], data=body, headers=headers) as response:
                said = await response.read()
                version = response.headers.get("X-Taxiway-Version", "")
                arm = response.headers.get("X-Taxiway-Arm", "")
            problem = wrong(response.status, said, version, right)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"[:120]
        seconds = time.perf_counter() - began
        self._rows.writerow([f"{sent:.6f}", f"{seconds:.6f}", target, arm, version, problem])


def wrong(status: int, said: bytes, version: str, right: float) -> str:
    """Return what is wrong with an answer; nothing, if it is right.

    :param version: the one that the edge names; empty: it was not asked
    """
    if status != 200:
        return f"{status}: {said[:100].decode(errors='replace')}"
    with suppress(ValueError, LookupError, TypeError):
        answer = json.loads(said)
        (value,) = answer["outputs"][0]["data"]
        if version in ("", answer["model_version"]) and abs(value - right) < 1e-9:
            return ""
    return f"wrong answer: {said[:100].decode(errors='replace')}"


def main(asked: str, path: str) -> None:
    """Send until SIGTERM."""
    import uvloop

    with open(path, "w", newline="", buffering=1 << 13) as out:
        sender = _Sender(json.loads(Path(asked).read_text()), out)
        signal.signal(signal.SIGTERM, lambda *_: setattr(sender, "stopping", True))
        uvloop.run(sender.run())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("asked")
    parser.add_argument("path")
    given = parser.parse_args()
    main(given.asked, given.path)
