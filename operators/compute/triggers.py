"""Wait for a Ray job without a worker slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.compute.client import AsyncRayJobs
from operators.core.errors import ServiceError

_MOST_MISSES = 60  # a dashboard that restarts is away for a minute or so


class RayJobTrigger(BaseTrigger):
    """Fire once the job is over, or no longer known to Ray.

    :param url: address of the Ray dashboard
    :param submission_id: the job
    :param deadline: Unix time in seconds after which the job is stopped
    :param poll_s: seconds between two looks
    """

    def __init__(self, *, url: str, submission_id: str, deadline: float, poll_s: float = 1.0) -> None:
        super().__init__()
        self.url = url
        self.submission_id = submission_id
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that make this trigger again."""
        kind = type(self)
        names = ("url", "submission_id", "deadline", "poll_s")
        return f"{kind.__module__}.{kind.__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the job is over, or stop it at its deadline."""
        jobs = AsyncRayJobs(self.url)
        misses = 0
        try:
            while misses < _MOST_MISSES:
                try:
                    status = await self._status(jobs)
                    misses = 0
                except ServiceError as error:
                    status, misses = None, misses + 1
                    self.log.warning("%s (miss %d of %d)", error, misses, _MOST_MISSES)
                if status is not None:
                    yield TriggerEvent({"status": status})
                    return
                await asyncio.sleep(self.poll_s)
            yield TriggerEvent({"status": "UNREACHABLE"})
        finally:
            await jobs.close()

    async def _status(self, jobs: AsyncRayJobs) -> str | None:
        """Return how the wait ends, or None to go on."""
        job = await jobs.get(self.submission_id)
        if job is None:
            return "UNKNOWN"
        if job.is_over:
            return job.status
        if time.time() > self.deadline:
            await jobs.stop(self.submission_id)
            return "TIMEOUT"
        return None

    async def on_kill(self) -> None:
        """Stop the job when a person ends the task. Not in `cleanup`, which also runs when a triggerer restarts."""
        jobs = AsyncRayJobs(self.url)
        try:
            await jobs.stop(self.submission_id)
        finally:
            await jobs.close()
