"""Wait for a Ray job and copy its log. Triggerer and worker use the same code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from operators.compute.client import AsyncRayJobs, RayJob
from operators.compute.logs import LogCopy
from operators.compute.policy import pause_s
from operators.core.errors import ServiceError, ServiceRefusedError
from operators.core.frozen import Frozen

# Ray's dashboard serves at most 100 requests of its state API at once, and a followed log is one of them.
FOLLOWED_AT_ONCE = 32
_IDLE_S = 60.0  # after so long without a new line the log is opened again: its connection may be dead
_TURN_S = 30.0  # how long a job's log is followed while others wait for their turn
_MOST_CAUGHT_UP_BYTES = 32 * 1024 * 1024  # read at the end of a job at most, to complete the copy
_LAST_LINES = 200
_SAY_AGAIN_S = 60.0
_EVENT_LINE_CHARS = 500
_REREAD_BYTES_PER_S = 1_000_000  # a log that is opened again is read from its beginning: so do it rarely if it is large
_LOG_READS = 3  # tries to read the log of a job that is over: its result is at the end
_MOST_UNKNOWN = 3  # a dashboard that has just come back does not know its jobs yet


class Ending(Frozen):
    """How a wait ended. It is small enough for a trigger's event.

    :param status: Ray's SUCCEEDED, FAILED or STOPPED; or TIMEOUT: the job was stopped at its deadline; UNKNOWN: Ray does not
        know the job any more; UNREACHABLE: Ray did not answer for too long
    :param reason: Ray's message, or the last error
    :param last_lines: the end of the job's log
    :param has_result: whether the job reported a result
    :param log_is_whole: whether the log was read to its end; if not, a result may be missing
    """

    status: str
    reason: str = ""
    error_type: str | None = None
    exit_code: int | None = None
    last_lines: tuple[str, ...] = ()
    has_result: bool = False
    result: Any = None
    log_is_whole: bool = True


@dataclass
class Watch:
    """Follows one job: its status, its log, its deadline.

    :param deadline: Unix time in seconds after which the job is stopped, or None
    :param poll_s: seconds between two checks of the job; the first checks come faster
    :param unreachable_s: seconds for which the cluster may be unreachable
    :param copy: the copy of the log
    :param follow: copy the log while the job runs; otherwise it is copied at the end
    :param say: writes one line to the task's log
    :param save: keeps the copy's offset from time to time, so that another process can go on from there
    """

    jobs: AsyncRayJobs
    submission_id: str
    deadline: float | None
    poll_s: float
    unreachable_s: float
    copy: LogCopy
    follow: bool
    say: Callable[[str], None]
    save: Callable[[int], Awaitable[None]] | None = None
    _follower: asyncio.Task[None] | None = None
    _answered_at: float = field(default_factory=time.monotonic)
    _said_at: float = 0.0
    _unknown: int = 0

    async def run(self) -> Ending:
        """Return once the job is over, was stopped at its deadline, or cannot be reached."""
        began = time.monotonic()
        try:
            while True:
                try:
                    ending = await self._look()
                except (ServiceError, ServiceRefusedError) as error:
                    ending = self._no_answer(error)
                if ending is not None:
                    return ending
                waited_s = time.monotonic() - began
                # Ray may have just come back: a job that it does not know gets the full pause to appear.
                await asyncio.sleep(self.poll_s if self._unknown else pause_s(waited_s, self.poll_s))
        finally:
            await self._stop_following()

    async def _look(self) -> Ending | None:
        """Check the job once. Return how the wait ends, or None if it goes on."""
        job = await self.jobs.get(self.submission_id)
        self._answered_at, self._said_at = time.monotonic(), 0.0
        self._unknown = 0 if job else self._unknown + 1
        if job is None:
            lost = self._unknown >= _MOST_UNKNOWN
            return Ending(status="UNKNOWN", reason="Ray does not know the job") if lost else None
        if job.is_over:
            return await self._ended(job)
        if self.deadline is not None and time.time() > self.deadline:
            await self.jobs.stop(self.submission_id)
            await self._stop_following()
            return Ending(status="TIMEOUT", last_lines=self._last_lines())
        if self.follow and job.driver_node_id and (self._follower is None or self._follower.done()):
            self._follower = asyncio.create_task(self._follow_log(job), name=f"log of {self.submission_id}")
        return None

    def _no_answer(self, error: Exception) -> Ending | None:
        now = time.monotonic()
        away_s = now - self._answered_at
        if away_s > self.unreachable_s:
            return Ending(status="UNREACHABLE", reason=str(error))
        if now - self._said_at > _SAY_AGAIN_S:
            self._said_at = now
            self.say(
                f"Ray has not answered for {away_s:.0f} s; the task waits up to {self.unreachable_s:.0f} s: {error}"
            )
        return None

    async def _ended(self, job: RayJob) -> Ending:
        await self._stop_following()
        log_is_whole = await self._complete_or_say(job)
        copy = self.copy
        return Ending(
            status=job.status,
            reason=job.message or "",
            error_type=job.error_type,
            exit_code=job.driver_exit_code,
            last_lines=self._last_lines(),
            has_result=copy.has_result,
            result=copy.result,
            log_is_whole=log_is_whole,
        )

    def _last_lines(self) -> tuple[str, ...]:
        return tuple(line[:_EVENT_LINE_CHARS] for line in self.copy.last_lines)

    async def _complete_or_say(self, job: RayJob) -> bool:
        for left in reversed(range(_LOG_READS)):
            try:
                await self._complete(job)
            except ServiceError as error:
                if not left:  # its node may be gone; how the job ended is still known
                    self.say(f"the end of the job's log could not be read: {error}")
                    return False
                await asyncio.sleep(self.poll_s)
            else:
                break
        return True

    async def _complete(self, job: RayJob) -> None:
        """Read what is missing in the copy. Of a very large log read only the end, where the result is."""
        if not job.driver_node_id:
            return
        copy = self.copy
        if copy.offset < _MOST_CAUGHT_UP_BYTES:
            copy.restart()
            async with self.jobs.log(job, follow=False) as chunks:
                async for chunk in chunks:
                    self._say_all(copy.feed(chunk))
                    if copy.position > _MOST_CAUGHT_UP_BYTES:
                        break
                else:
                    self._say_all(copy.close())
                    return
        self._say_all(copy.close())
        end = LogCopy()
        async with self.jobs.log(job, follow=False, last_lines=_LAST_LINES) as chunks:
            async for chunk in chunks:
                list(end.feed(chunk))
        list(end.close())
        self.say("[… the log is long: only its last lines follow. Ray's dashboard has the whole log]")
        self._say_all(end.last_lines)
        copy.last_lines = end.last_lines
        if end.has_result:
            copy.result, copy.has_result = end.result, True

    async def _follow_log(self, job: RayJob) -> None:
        turns = _turns()
        while True:
            async with turns:
                try:
                    gave_way = await self._one_turn(job, turns)
                except ServiceError:
                    return  # no line for long, or no dashboard: the wait opens the log again
            # A log that ended by itself would end again at once, so pause.
            await asyncio.sleep(0 if gave_way else self.poll_s)

    async def _one_turn(self, job: RayJob, turns: asyncio.Semaphore) -> bool:
        """Follow the log. Return True if the turn is over because others wait, False if the log ended."""
        copy = self.copy
        patience_s = copy.offset / _REREAD_BYTES_PER_S
        copy.restart()
        until = time.monotonic() + max(_TURN_S, patience_s)
        async with self.jobs.log(job, follow=True, idle_s=max(_IDLE_S, patience_s)) as chunks:
            async for chunk in chunks:
                for line in copy.feed(chunk):
                    self.say(line)
                if self.save:
                    await self.save(copy.offset)
                # A large log arrives without a pause: let the other waits have the loop.
                await asyncio.sleep(0)
                if time.monotonic() > until and turns.locked():
                    return True
        return False

    async def _stop_following(self) -> None:
        if self._follower is not None and not self._follower.done():
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower

    def _say_all(self, lines: Any) -> None:
        for line in lines:
            self.say(line)


_turns_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _turns() -> asyncio.Semaphore:
    """Return the turns that the waits of this event loop share."""
    return _turns_by_loop.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(FOLLOWED_AT_ONCE))
