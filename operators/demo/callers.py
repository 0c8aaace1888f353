"""The callers of the demo: a thread that sends real flights to the edge in the order of their times."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TIMEOUT_S = 10.0


@dataclass
class CallerTally:
    """What the callers got so far."""

    sent: int = 0
    failed: int = 0
    answered: Counter[str] = field(default_factory=Counter)  # by version
    fallbacks: int = 0  # answered by stable after the canary had failed
    failures: list[str] = field(default_factory=list)  # the first few, in words

    def copy(self) -> CallerTally:
        """Return the counts of this moment, which later answers do not change."""
        return CallerTally(self.sent, self.failed, Counter(self.answered), self.fallbacks, list(self.failures))

    def since(self, earlier: CallerTally) -> dict[str, Any]:
        """Return the increase since an earlier tally, for the report."""
        return {
            "sent": self.sent - earlier.sent,
            "answered_by_version": dict(sorted((self.answered - earlier.answered).items())),
            "answered_by_fallback": self.fallbacks - earlier.fallbacks,
            "failed": self.failed - earlier.failed,
        }


class Traffic:
    """Sends requests at a steady rate, however long the answers take (open loop).

    :param url: the endpoint, up to ``/infer``
    :param requests: (unit, body) in the order of the flights; after the last comes the first again
    :param rate: requests per second
    """

    def __init__(self, url: str, requests: Sequence[tuple[str, Mapping[str, Any]]], *, rate: float) -> None:
        self._url = url
        self._requests = [(unit, json.dumps(body).encode()) for unit, body in requests]
        self._rate = rate
        self._stop = threading.Event()
        self._tally = CallerTally()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic", daemon=True)

    def start(self) -> None:
        """Start the thread that sends."""
        self._thread.start()

    def stop(self) -> CallerTally:
        """Stop sending, wait for the answers that have not come yet, and return the final tally."""
        self._stop.set()
        self._thread.join(timeout=_TIMEOUT_S + 5)
        return self.tally()

    def tally(self) -> CallerTally:
        """Return the counts so far."""
        with self._lock:
            return self._tally.copy()

    async def _run(self) -> None:
        import aiohttp

        pending: set[asyncio.Task[None]] = set()
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            began, index = time.monotonic(), 0
            while not self._stop.is_set():
                unit, body = self._requests[index % len(self._requests)]
                task = asyncio.create_task(self._send(session, unit, body))
                pending.add(task)
                task.add_done_callback(pending.discard)
                index += 1
                await asyncio.sleep(max(0.0, began + index / self._rate - time.monotonic()))
            if pending:
                await asyncio.wait(pending, timeout=_TIMEOUT_S)

    async def _send(self, session: Any, unit: str, body: bytes) -> None:
        import aiohttp

        headers = {"Content-Type": "application/json", "X-Taxiway-Unit": unit}
        with self._lock:
            self._tally.sent += 1
        try:
            async with session.post(self._url, data=body, headers=headers) as response:
                version = response.headers.get("X-Taxiway-Version", "")
                arm = response.headers.get("X-Taxiway-Arm", "")
                text = await response.text()
                problem = None if response.status == 200 else f"{response.status} of {arm} {version}: {text[:200]}"
                if problem is None and (answered := json.loads(text))["model_version"] != version:
                    problem = f"version {answered['model_version']} answered, the edge says {version}"
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            problem, version, arm = f"{type(error).__name__}: {error}", "", ""
        with self._lock:
            if problem is not None:
                self._tally.failed += 1
                if len(self._tally.failures) < 20:
                    self._tally.failures.append(problem)
                return
            self._tally.answered[version] += 1
            self._tally.fallbacks += arm == "fallback"
