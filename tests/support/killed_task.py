"""One try of a Ray task in a process of its own, which kills itself with SIGKILL at a chosen point.

``python -m tests.support.killed_task <state file> <job's file> <deferrable: 0 or 1> [point] [seconds]``
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from operators.compute.client import AsyncRayJobs, RayJobs
from operators.compute.operators import SubmitRayJobOperator
from tests.support.tasks import Store, TaskInstance, context, run

POINTS = ("before_remember", "after_remember", "after_submit", "while_waiting", "at_the_end", "after_the_end")
# Ends after some seconds, or once there is a file `<job's file>.end`.
JOB = """python -c '
import os, sys, time
open(sys.argv[1], "a").write("job\\n")
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end and not os.path.exists(sys.argv[1] + ".end"):
    time.sleep(0.1)
print("::taxiway:: {\\"result\\": 42}")
' """


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Put the mine where the try shall end."""
    real_set, real_submit, real_get = Store.set, RayJobs.submit, AsyncRayJobs.get

    def remember(self: Store, *args: Any, **kwargs: Any) -> None:
        if point == "before_remember":
            die()
        real_set(self, *args, **kwargs)
        if point == "after_remember":
            die()

    def submit(self: RayJobs, *args: Any, **kwargs: Any) -> bool:
        found = real_submit(self, *args, **kwargs)
        if point == "after_submit":
            die()
        return found

    async def look(self: AsyncRayJobs, job_id: str) -> Any:
        found = await real_get(self, job_id)
        if found and (
            (point == "while_waiting" and found.status == "RUNNING") or (point == "at_the_end" and found.is_over)
        ):
            die()
        return found

    Store.set, RayJobs.submit, AsyncRayJobs.get = remember, submit, look  # type: ignore[method-assign, assignment]
    if point == "after_the_end":
        SubmitRayJobOperator.job_result = die  # type: ignore[method-assign, assignment]


def main(state: str, file: str, deferrable: str, point: str = "", seconds: str = "1") -> None:
    if point:
        arm(point)
    operator = SubmitRayJobOperator(
        task_id="killed",
        ray_conn_id=None,
        entrypoint=f"{JOB} {file} {seconds}",
        deferrable=deferrable == "1",
        poll_s=0.2,
    )
    print("result", run(operator, context(TaskInstance(run_id=file), Store(Path(state)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
