"""What a task adds to a Ray job: the time before the job's first line, and that after its last. Prints JSON.

The same job, in turns, on one local cluster: by `SubmitRayJobOperator` in a worker (``sync``) and deferred, its trigger run
in an event loop as a triggerer does (``deferrable``; what Airflow's scheduler adds is not in it); by the command
``ray job submit``, whose start is that of its process; and by Ray's own client in a process that has it imported already.

Run as ``python -m benchmarks.ray_job_overhead [rounds]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operators.compute.cluster import local
from operators.compute.operators import SubmitRayJobOperator
from tests.support.tasks import TaskInstance, context, run

JOB = """python -u -c '
import sys, time
open(sys.argv[1] + ".first", "w").write(repr(time.time()))
print("::taxiway:: {\\"result\\": 1}")
time.sleep(1.5)
open(sys.argv[1] + ".last", "w").write(repr(time.time()))
' """


def main(rounds: int) -> dict[str, Any]:
    folder = local.folder_for("bench-overhead")
    try:
        cluster = local.start(folder, num_cpus=2)
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": cluster.token_path}
        with tempfile.TemporaryDirectory() as where:
            ways = ways_at(cluster)
            for name, way in ways.items():  # imports, first workers
                timed(way, Path(where) / f"{name}-warm")
            found = [
                {name: timed(way, Path(where) / f"{name}-{number}") for name, way in ways.items()}
                for number in range(rounds)
            ]
    finally:
        local.stop(folder)
    return {"rounds": rounds, "poll_s": 2.0} | {name: summary([row[name] for row in found]) for name in ways}


def ways_at(cluster: local.LocalCluster) -> dict[str, Callable[[str], None]]:
    def operator(path: str, *, deferrable: bool) -> None:
        where = {"ray_conn_id": None, "address": cluster.address, "token_path": cluster.token_path}
        task = SubmitRayJobOperator(task_id="t", entrypoint=JOB + path, deferrable=deferrable, **where)
        assert run(task, context(TaskInstance(run_id=path))) == 1

    def command(path: str) -> None:
        ray = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "job",
            "submit",
            "--address",
            cluster.address,
            "--",
            "sh",
            "-c",
        ]
        subprocess.run([*ray, JOB + path], check=True, capture_output=True, timeout=120)

    def client(path: str) -> None:
        from ray.job_submission import JobSubmissionClient

        found = JobSubmissionClient(cluster.address)
        job_id = found.submit_job(entrypoint=JOB + path)

        async def follow() -> None:
            async for _ in found.tail_job_logs(job_id):
                pass

        asyncio.run(follow())
        assert found.get_job_status(job_id) == "SUCCEEDED"

    return {
        "sync": lambda path: operator(path, deferrable=False),
        "deferrable": lambda path: operator(path, deferrable=True),
        "ray_job_submit": command,
        "ray_client": client,
    }


def timed(way: Callable[[str], None], path: Path) -> tuple[float, float]:
    """Return the seconds before the job's first line, and those after its last."""
    began = time.time()
    way(str(path))
    ended = time.time()
    first, last = (float(path.with_name(path.name + end).read_text()) for end in (".first", ".last"))
    return first - began, ended - last


def summary(rows: list[tuple[float, float]]) -> dict[str, Any]:
    parts = zip(("start_to_running_s", "end_to_end_s"), zip(*rows, strict=True), strict=True)
    return {
        name: {"median": round(statistics.median(times), 2), "min": round(min(times), 2), "max": round(max(times), 2)}
        for name, times in parts
    }


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the tasks' logs go where errors go
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7), indent=1), file=out)
