"""A thousand deferred Ray jobs in Airflow's own triggerer, against a fake Ray dashboard in a process of its own. Prints JSON.

The triggers run in Airflow's `TriggerRunner`, in the process that its `TriggerRunnerSupervisor` forks: the supervisor here has
no database and hands out the triggers itself. How late a timer of the event loop fires, and the memory of the process, are
measured by one more trigger in the same loop. In the same run, as the reference, a trigger that polls as often with Ray's own
blocking client.

Run as ``python -m benchmarks.triggerer_1000 [jobs]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.compute.triggers import RayJobTrigger

POLL_S = 5.0
SETTLE_S = 10.0  # in which the first wait, and then all of them, begin
WATCHED_S = 20.0
DELAYS_MS = (0, 20)  # for an answer: the fake's own millisecond, and what a busy dashboard takes
_TICK_S = 0.02


def main(count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for delay_ms in DELAYS_MS:
        with dashboard(count, delay_ms) as url:
            found[f"answers_in_{delay_ms}_ms"] = {kind: apart(kind, url, count) for kind in ("ours", "ray_client")}
    return {"jobs": count, "poll_s": POLL_S, "watched_s": WATCHED_S, **found}


@contextmanager
def dashboard(count: int, delay_ms: int) -> Iterator[str]:
    """Yield the address of a dashboard with so many running jobs, and so slow."""
    command = [sys.executable, "-m", "tests.support.ray_dashboard", str(count), str(delay_ms)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(timeout=20)


def apart(kind: str, url: str, count: int) -> Any:
    """Run one triggerer in a process of its own, with an Airflow home of its own."""
    with tempfile.TemporaryDirectory() as home:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AIRFLOW_"))}
        env = kept | {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_RAY_DEFAULT": json.dumps({"conn_type": "ray", "host": url}),
        }
        command = [sys.executable, "-m", "benchmarks.triggerer_1000", kind, url, str(count)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return json.loads(lines[-1]) if lines else {"failed": done.stderr[-2000:]}


def triggerer(kind: str, url: str, count: int) -> dict[str, Any]:
    """Run the triggers in Airflow's triggerer until the probe has measured; return what it says."""
    from airflow.executors.workloads import RunTrigger
    from airflow.jobs.triggerer_job_runner import TriggerRunnerSupervisor
    from airflow.models.trigger import Trigger

    def workload(number: int, trigger: BaseTrigger) -> RunTrigger:
        path, kwargs = trigger.serialize()
        return RunTrigger(id=number, classpath=path, encrypted_kwargs=Trigger.encrypt_kwargs(kwargs))

    class Supervisor(TriggerRunnerSupervisor):
        """Airflow's, without a database."""

        def load_triggers(self) -> None:
            """Give the probe and one wait, whose imports all share, and the others once the probe is ready."""
            if not given:
                given.extend([1, 2])
                self.creating_triggers.extend([workload(1, Probe(jobs=count - 1)), workload(2, wait(kind, url, 0))])
            elif said and len(given) == 2:
                given.extend(range(3, count + 2))
                self.creating_triggers.extend(workload(number, wait(kind, url, number - 2)) for number in given[2:])

        def heartbeat(self) -> None:
            """There is no row to write."""

        def clean_unused(self) -> None:
            """There are no rows to delete."""

        def metric_tags(self) -> dict[str, str]:
            return {"hostname": "localhost"}

        def on_trigger_event(self, trigger_id: int, event: TriggerEvent) -> None:
            """Keep what the probe says; the others wait."""
            (said if trigger_id == 1 else ended).append(event.payload)
            self.stop = len(said) == 2

        def on_trigger_failure(self, trigger_id: int, exc: list[str] | None) -> None:
            failed.append((trigger_id, exc))

    given: list[int] = []
    said: list[Any] = []
    ended: list[Any] = []
    failed: list[Any] = []
    supervisor = Supervisor.start(job=None, capacity=count + 1)
    try:
        supervisor.run()
    finally:
        supervisor.kill(escalation_delay=5, force=True)
    return {**said[-1], "waits": len(supervisor.running_triggers) - 1, "ended": len(ended), "failed": failed[:3]}


def wait(kind: str, url: str, number: int) -> BaseTrigger:
    if kind == "ours":
        return RayJobTrigger(submission_id=f"job-{number}", ray_conn_id="ray_default", poll_s=POLL_S)
    return RayClientTrigger(address=url, submission_id=f"job-{number}", poll_s=POLL_S)


class Probe(BaseTrigger):
    """Say how late this loop's timers are and what a wait costs, once all waits have begun and were watched for a while."""

    def __init__(self, *, jobs: int) -> None:
        super().__init__()
        self.jobs = jobs

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "benchmarks.triggerer_1000.Probe", {"jobs": self.jobs}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(SETTLE_S)
        before, tasks = resident_bytes(), len(asyncio.all_tasks())
        yield TriggerEvent("ready")
        while len(asyncio.all_tasks()) <= tasks + 4:  # the loop of the triggerer has some that come and go
            await asyncio.sleep(_TICK_S)
        beginning = await lateness(SETTLE_S)
        cpu, began = time.process_time(), time.monotonic()
        waiting = await lateness(WATCHED_S)
        took = time.monotonic() - began
        yield TriggerEvent(
            {
                "while_all_begin": beginning,
                "while_all_wait": waiting,
                "cpu_share": round((time.process_time() - cpu) / took, 3),
                "memory_per_further_job_kb": round((resident_bytes() - before) / 1024 / self.jobs, 1),
                "memory_mb": resident_bytes() // 1024**2,
            }
        )


async def lateness(seconds: float) -> dict[str, float]:
    late: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        due = time.monotonic() + _TICK_S
        await asyncio.sleep(_TICK_S)
        late.append((time.monotonic() - due) * 1000)
    late.sort()
    places = {"p50": len(late) // 2, "p99": int(len(late) * 0.99), "max": len(late) - 1}
    return {f"loop_late_{name}_ms": round(late[place], 1) for name, place in places.items()} | {"ticks": len(late)}


def resident_bytes() -> int:
    """Return the memory of this process. What it shares with its supervisor counts: it becomes its own page by page."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class RayClientTrigger(BaseTrigger):
    """What is often written: a loop around Ray's own client, whose calls block."""

    def __init__(self, *, address: str, submission_id: str, poll_s: float) -> None:
        super().__init__()
        self.address = address
        self.submission_id = submission_id
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("address", "submission_id", "poll_s")
        return "benchmarks.triggerer_1000.RayClientTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(self.address)
        while client.get_job_status(self.submission_id).value in ("PENDING", "RUNNING"):
            await asyncio.sleep(self.poll_s)
        yield TriggerEvent({"status": "over"})


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(triggerer(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    else:
        print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000), indent=1))
