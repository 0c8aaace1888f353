"""A thousand waits for Ray jobs in one event loop, as in a triggerer. Prints JSON.

The jobs are real jobs of a real cluster that cannot start, because they ask for a GPU that is not there. Beside it, the same
thousand waits by Ray's own blocking client, as a trigger that polls with it would do.

Run as ``python -m benchmarks.ray_waits [jobs]``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from operators.compute.address import RayAddress
from operators.compute.client import RayJobs
from operators.compute.cluster import local
from operators.compute.triggers import RayJobTrigger

WATCHED_S = 30.0
POLL_S = 5.0


def main(count: int) -> dict[str, Any]:
    folder = local.folder_for("bench-waits")
    try:
        cluster = local.start(folder, num_cpus=2, num_gpus=0)
        address = RayAddress(cluster.address, Path(cluster.token_path).read_text())
        jobs = RayJobs(address)
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: jobs.submit(f"wait-{n}", "true", gpus=1), range(count)))
        submitted_s = time.monotonic() - began
        ours = asyncio.run(watched([trigger(cluster, n).run() for n in range(count)]))
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"] = "token", cluster.token_path
        blocking = asyncio.run(watched([blocking_wait(cluster.address, n) for n in range(count)]))
        return {
            "jobs": count,
            "submitted_s": round(submitted_s, 1),
            "poll_s": POLL_S,
            "ours": ours,
            "ray_client": blocking,
        }
    finally:
        local.stop(folder)


def trigger(cluster: local.LocalCluster, number: int) -> RayJobTrigger:
    return RayJobTrigger(
        submission_id=f"wait-{number}",
        address=cluster.address,
        token_path=cluster.token_path,
        poll_s=POLL_S,
    )


async def blocking_wait(address: str, number: int) -> Any:
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)
    while client.get_job_status(f"wait-{number}") == "PENDING":
        await asyncio.sleep(POLL_S)
    yield None


async def watched(waits: list[Any]) -> dict[str, Any]:
    """Run the waits for a while; say how late a timer of the same loop fires, and what they cost."""
    late: list[float] = []

    async def probe() -> None:
        while True:
            due = time.monotonic() + 0.05
            await asyncio.sleep(0.05)
            late.append(time.monotonic() - due)

    cpu = time.process_time()
    tasks = [asyncio.create_task(anext(wait)) for wait in waits] + [asyncio.create_task(probe())]
    began = time.monotonic()
    await asyncio.sleep(WATCHED_S)
    took = time.monotonic() - began
    ended = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    late.sort()
    return {
        "ended": ended,
        "cpu_share": round((time.process_time() - cpu) / took, 3),
        "loop_late_p50_ms": round(late[len(late) // 2] * 1000, 1),
        "loop_late_p99_ms": round(late[int(len(late) * 0.99)] * 1000, 1),
        "loop_late_max_ms": round(late[-1] * 1000, 1),
        "probes": len(late),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "connections": len(list(Path("/proc/self/fd").iterdir())),
    }


if __name__ == "__main__":
    logging.getLogger("httpx").setLevel(logging.WARNING)
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000), indent=1))
