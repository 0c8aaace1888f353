"""A job that writes a gigabyte of log, and the wait that copies it. Prints JSON.

Beside it Ray's own ``get_job_logs``, which reads the whole log at once. Each runs in a process of its own, whose peak memory is
measured. Run as ``python -m benchmarks.ray_log [megabytes]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from operators.compute.cluster import local

_JOB = """python -c '
import sys
line = "x" * 99 + "\\n"
block = line * 10_000
for i in range(int(sys.argv[1])):
    sys.stdout.write(block)
print("::taxiway:: {\\"result\\": \\"end\\"}")
' """


def main(megabytes: int) -> dict[str, Any]:
    folder = local.folder_for("bench-log")
    try:
        cluster = local.start(folder, num_cpus=2)
        env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": cluster.token_path}

        def apart(part: str) -> Any:
            command = [
                sys.executable,
                "-m",
                "benchmarks.ray_log",
                part,
                cluster.address,
                cluster.token_path,
                str(megabytes),
            ]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=False)
            return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.stderr[-500:]}

        return {"log_mb": megabytes, "ours": apart("ours"), "ray_client": apart("ray_client")}
    finally:
        local.stop(folder)


def ours(address: str, token_path: str, megabytes: int) -> dict[str, Any]:
    from operators.compute.operators import SubmitRayJobOperator
    from tests.support.tasks import context, run

    operator = SubmitRayJobOperator(
        task_id="log",
        ray_conn_id=None,
        address=address,
        token_path=token_path,
        entrypoint=f"{_JOB} {megabytes}",
        deferrable=False,
        poll_s=1.0,
    )
    copied = []
    operator.log.info = lambda form, *args: copied.append(len(form % args))  # type: ignore[method-assign]
    before, cpu, began = peak_mb(), time.process_time(), time.monotonic()
    late: list[float] = []
    real = operator._wait

    async def probed(*args: Any) -> Any:
        async def probe() -> None:
            while True:
                due = time.monotonic() + 0.05
                await asyncio.sleep(0.05)
                late.append(time.monotonic() - due)

        task = asyncio.create_task(probe())
        try:
            return await real(*args)
        finally:
            task.cancel()

    operator._wait = probed  # type: ignore[method-assign]
    assert run(operator, context()) == "end"
    late.sort()
    return {
        "took_s": round(time.monotonic() - began, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "more_memory_mb": peak_mb() - before,
        "lines_copied": len(copied),
        "bytes_copied": sum(copied),
        "loop_late_p99_ms": round(late[int(len(late) * 0.99)] * 1000, 1),
        "loop_late_max_ms": round(late[-1] * 1000, 1),
    }


def ray_client(address: str, *_: Any) -> dict[str, Any]:
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)
    (job,) = client.list_jobs()
    before, began = peak_mb(), time.monotonic()
    size = len(client.get_job_logs(job.submission_id))
    return {"read_s": round(time.monotonic() - began, 1), "bytes": size, "more_memory_mb": peak_mb() - before}


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    if len(sys.argv) > 2:
        part, address, token_path, size = sys.argv[1:]
        print(json.dumps({"ours": ours, "ray_client": ray_client}[part](address, str(Path(token_path)), int(size))))
    else:
        print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000), indent=1))
