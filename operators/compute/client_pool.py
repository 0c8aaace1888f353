"""One client for all waits for a cluster in one event loop: one pool of connections, and one request for many jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from weakref import WeakKeyDictionary

from operators.compute.address import RayAddress
from operators.compute.client import AsyncRayJobs, RayJob

# A thousand requests for single jobs keep Ray's dashboard busy for seconds. One request for the list takes far less.
FEW = 16
_AT_ONCE = 8  # with a thousand requests in its queue the pool of connections spends its time on the queue
_FRESH_S = 1.0
_SHARE = 5  # a list is used five times as long as it took to get: the dashboard spends a sixth of its time on us


class SharedRayJobs(AsyncRayJobs):
    """Asks for jobs one by one while there are few, and for the list of all when there are many."""

    def __init__(self, address: RayAddress) -> None:
        super().__init__(address)
        self.users = 0
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._known: dict[str, RayJob] = {}
        self._fresh_until = 0.0
        self._loading: asyncio.Task[None] | None = None

    async def get(self, submission_id: str) -> RayJob | None:
        """Return a job, perhaps as it was a few seconds ago, or None if Ray does not know it."""
        if self.users > FEW:
            if time.monotonic() > self._fresh_until:
                if self._loading is None:
                    self._loading = asyncio.create_task(self._load())
                await asyncio.shield(self._loading)
            if job := self._known.get(submission_id):
                return job
        async with self._gate:
            return await super().get(submission_id)

    @asynccontextmanager
    async def log(
        self, job: RayJob, *, follow: bool, last_lines: int = -1, idle_s: float = 60.0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a job's log. A log that is not followed waits for its turn: a thousand jobs may end at once."""
        opened = super().log(job, follow=follow, last_lines=last_lines, idle_s=idle_s)
        async with nullcontext() if follow else self._gate, opened as chunks:
            yield chunks

    async def _load(self) -> None:
        began = time.monotonic()
        try:
            self._known = await self.all()
        finally:
            self._loading = None
        ended = time.monotonic()
        self._fresh_until = ended + max(_FRESH_S, _SHARE * (ended - began))


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[RayAddress, SharedRayJobs]] = WeakKeyDictionary()


@asynccontextmanager
async def shared(address: RayAddress) -> AsyncIterator[SharedRayJobs]:
    """Return the client that all waits for a cluster share. The last wait to end closes the connections."""
    mine = _by_loop.setdefault(asyncio.get_running_loop(), {})
    if address not in mine:
        mine[address] = SharedRayJobs(address)
    jobs = mine[address]
    jobs.users += 1
    try:
        yield jobs
    finally:
        jobs.users -= 1
        if not jobs.users:
            del mine[address]
            await jobs.close()
