"""The callers of a drill: they send real rows at a steady rate, each as a caller of its own."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

RATE_PER_S = 20.0
_TIMEOUT_S = 10.0
_MOST_S = 300.0  # the load ends, even if the drill hangs
_SHOWN = 5
_CANARYS = ("canary", "fallback")  # arms of requests that the edge sent to the canary


@dataclass
class Tally:
    """What the callers of the copy got.

    :param canary: when each request was sent that went to the canary, unix seconds
    :param stable: the same, for stable
    """

    sent: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    fallbacks: int = 0
    canary: list[float] = field(default_factory=list)
    stable: list[float] = field(default_factory=list)


def single_rows(body: bytes) -> list[bytes]:
    """Split a request of many rows.

    :param body: an Open Inference V2 request
    :returns: requests of one row each
    """
    inputs: Sequence[Mapping[str, Any]] = json.loads(body)["inputs"]
    rows = inputs[0]["shape"][0]
    return [
        json.dumps({"inputs": [{**tensor, "shape": [1], "data": [tensor["data"][row]]} for tensor in inputs]}).encode()
        for row in range(rows)
    ]


class Load:
    """Sends requests whatever the answers do (open loop), from ``async with`` to its end.

    :param url: the model's endpoint at the edge, up to ``/infer``
    :param bodies: requests; starts over at the end
    :param token: for an edge that asks its callers for one
    """

    def __init__(
        self, url: str, bodies: Sequence[bytes], *, token: str | None = None, rate_per_s: float = RATE_PER_S
    ) -> None:
        self.tally = Tally()
        self._url = url
        self._bodies = bodies
        self._rate_per_s = rate_per_s
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._units = uuid.uuid4().hex[:8]  # callers that no earlier drill has used

    async def __aenter__(self) -> Self:
        # No second try of a connection: a caller might not make one.
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, limits=httpx.Limits(max_connections=None))
        self._sending: set[asyncio.Task[None]] = set()
        self._loop = asyncio.create_task(self._send_all())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop.cancel()
        with suppress(asyncio.CancelledError):
            await self._loop
        if self._sending:
            await asyncio.wait(self._sending, timeout=_TIMEOUT_S)
        await self._http.aclose()

    async def _send_all(self) -> None:
        began, n = time.monotonic(), 0
        while time.monotonic() - began < _MOST_S:
            task = asyncio.create_task(self._send(n))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            n += 1
            await asyncio.sleep(max(0.0, began + n / self._rate_per_s - time.monotonic()))

    async def _send(self, n: int) -> None:
        tally, at = self.tally, time.time()
        headers = {**self._headers, "X-Taxiway-Unit": f"{self._units}-{n}"}
        tally.sent += 1
        try:
            answer = await self._http.post(self._url, content=self._bodies[n % len(self._bodies)], headers=headers)
            problem = "" if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:200]}"
            arm = answer.headers.get("X-Taxiway-Arm", "")
        except httpx.HTTPError as error:
            problem, arm = f"{type(error).__name__}: {error}", ""
        if problem:
            tally.failed += 1
            if len(tally.failures) < _SHOWN:
                tally.failures.append(problem)
        elif arm == "stable":
            tally.stable.append(at)
        if arm in _CANARYS:
            tally.canary.append(at)
            tally.fallbacks += arm == "fallback"
