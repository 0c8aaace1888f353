"""Wait for a Ray job without a worker slot."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from airflow.triggers.base import TriggerEvent

from operators.compute.client_pool import SharedRayJobs, shared
from operators.compute.hook import RayHook
from operators.compute.job_wait import Ending, Watch
from operators.compute.logs import LogCopy
from operators.core.errors import TaxiwayError
from operators.triggers import KeptTrigger

_OFFSET_KEY = "ray_log_offset"
_SAVE_EVERY_S = 3.0


@dataclass(kw_only=True, eq=False, repr=False)
class RayJobTrigger(KeptTrigger):
    """Wait for a Ray job, copy its log into the task's log, and fire how the job ended.

    After a restart of the triggerer the copy goes on where it stopped. The restart does not stop the job; a person
    who ends the task does.

    :param submission_id: id of the job
    :param ray_conn_id: Airflow connection of type ``ray``, as in `RayHook`. The trigger keeps no secret
    :param address: address of the dashboard in place of the connection's, as in `RayHook`
    :param token_path: file with the token, as in `RayHook`
    :param deadline: Unix time in seconds at which the job is stopped. None: never
    :param poll_s: seconds between two checks of the job; the first checks come faster
    :param unreachable_s: seconds for which the cluster may be unreachable before the wait ends
    :param stream_logs: copy the log while the job runs. False copies it at the end
    """

    submission_id: str
    ray_conn_id: str | None = None
    address: str | None = None
    token_path: str | None = None
    deadline: float | None = None
    poll_s: float = 2.0
    unreachable_s: float = 600.0
    stream_logs: bool = True

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the job until it is over, then fire its `Ending` as JSON types."""
        # After a restart a triggerer starts all its waits at once; spread them.
        await asyncio.sleep(random.random() * min(self.poll_s, 1.0))  # noqa: S311 - no secret depends on it
        try:
            async with shared(await self._hook.aresolve()) as jobs:
                ending = await self._wait(jobs)
        except TaxiwayError as error:  # an exception would reach the task without its message
            ending = Ending(status="UNREACHABLE", reason=str(error))
        yield TriggerEvent(ending.model_dump(mode="json"))

    async def on_kill(self) -> None:
        """Stop the job when a person ends the task. Not in `cleanup`, which also runs when a triggerer restarts."""
        async with shared(await self._hook.aresolve()) as jobs:
            await jobs.stop(self.submission_id)

    @property
    def _hook(self) -> RayHook:
        return RayHook(self.ray_conn_id, address=self.address, token_path=self.token_path)

    async def _wait(self, jobs: SharedRayJobs) -> Ending:
        offset = await _Offset(self.task_instance, self.log).load()
        watch = Watch(
            jobs=jobs,
            submission_id=self.submission_id,
            deadline=self.deadline,
            poll_s=self.poll_s,
            unreachable_s=self.unreachable_s,
            copy=LogCopy(offset=offset.value),
            follow=self.stream_logs,
            say=lambda line: self.log.info("ray | %s", line),
            save=offset.save,
        )
        return await watch.run()


class _Offset:
    """How far the log has been copied. It is kept as an XCom of the task, the only store that a trigger may write."""

    def __init__(self, task_instance: Any, log: Any) -> None:
        self.value = 0
        self._ti = task_instance
        self._log = log
        self._saved_at = time.monotonic()

    async def load(self) -> _Offset:
        """Read what an earlier triggerer kept."""
        from airflow.sdk.execution_time.comms import GetXCom

        answer = await self._ask(GetXCom)
        value = getattr(answer, "value", None)
        self.value = value if isinstance(value, int) else 0
        return self

    async def save(self, offset: int) -> None:
        """Keep the offset, at most once in three seconds."""
        now = time.monotonic()
        if offset == self.value or now - self._saved_at < _SAVE_EVERY_S:
            return
        from airflow.sdk.execution_time.comms import SetXCom

        self.value, self._saved_at = offset, now
        await self._ask(SetXCom, value=offset)

    async def _ask(self, message: Any, **more: Any) -> Any:
        if self._ti is None:
            return None
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        ti = self._ti
        try:
            return await SUPERVISOR_COMMS.asend(
                message(
                    key=_OFFSET_KEY,
                    dag_id=ti.dag_id,
                    run_id=ti.run_id,
                    task_id=ti.task_id,
                    map_index=ti.map_index,
                    **more,
                )
            )
        except Exception as error:  # noqa: BLE001 - then some lines are copied twice after a restart, no worse
            self._log.warning(
                "how far the log was copied could not be saved; after a restart some lines appear twice: %s", error
            )
            return None
