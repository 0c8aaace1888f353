"""The Ray operators by themselves, as a DAG author uses them who wants none of the rest."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task
from pydantic import BaseModel

from operators import SubmitRayJobOperator

LINES = 100
_JOB = """python -u -c '
import sys, time
open(sys.argv[1], "a").write("ran\\n")
for number in range(int(sys.argv[2])):
    print("line", number)
    time.sleep(0.4)
print("::taxiway:: {\\"progress\\": 1}")
print("::taxiway:: {\\"result\\": {\\"lines\\": " + sys.argv[2] + "}}")
' """


class Counted(BaseModel):
    lines: int


def job(task_id: str, **more: Any) -> SubmitRayJobOperator:
    command = f"{_JOB} {{{{ params.folder }}}}/{task_id} {LINES}"
    return SubmitRayJobOperator(
        task_id=task_id,
        ray_conn_id=None,
        entrypoint=command,
        result_type=Counted,
        retries=2,
        retry_delay=timedelta(seconds=1),
        poll_s=1.0,
        **more,
    )


@task.ray(ray_conn_id=None, poll_s=1.0)
def doubled(values: list[int], *, run_id: str) -> dict[str, Any]:
    import ray

    ray.init(log_to_driver=False)
    double = ray.remote(num_cpus=0.1)(lambda value: 2 * value)
    return {"values": ray.get([double.remote(value) for value in values]), "run_id": run_id}


@dag(schedule=None, catchup=False, params={"folder": "/tmp"})
def ray_alone() -> None:
    job("deferred", deferrable=True)
    job("in_worker", deferrable=False)
    job("killed_by_hand", deferrable=True)
    doubled([1, 2, 3])


ray_alone()
