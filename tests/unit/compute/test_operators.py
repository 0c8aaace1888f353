from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred
from pydantic import BaseModel

from operators.compute import errors
from operators.compute.address import RayAddress
from operators.compute.client import RayJobs
from operators.compute.operators import GPU_POOL, SubmitRayJobOperator
from operators.compute.retries import JOB_RETRIES
from operators.compute.triggers import RayJobTrigger
from operators.core.errors import ConfigurationError, ServiceError, ServiceRefusedError
from tests.support.ray_dashboard import Dashboard
from tests.support.tasks import Store, TaskInstance, context, restored, run


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    server = Dashboard("secret")
    monkeypatch.setenv(
        "AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", "host": server.url, "password": "secret"})
    )
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


@pytest.fixture(params=[True, False], ids=["deferrable", "sync"])
def deferrable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def operator(**more: Any) -> SubmitRayJobOperator:
    return SubmitRayJobOperator(
        task_id="task", **{"entrypoint": "python x.py", "poll_s": 0.01, "deferrable": True, **more}
    )


def jobs_at(dashboard: Dashboard, token: str = "secret") -> RayJobs:
    return RayJobs(RayAddress(dashboard.url, token))


class Trained(BaseModel):
    rows: int


def test_result_is_typed_and_the_log_is_copied(
    dashboard: Dashboard, deferrable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    given = context()
    dashboard.plan(log=b'reading\n::taxiway:: {"progress": 1}\n::taxiway:: {"result": {"rows": "3", "more": 1}}\n')
    assert run(operator(result_type=Trained, deferrable=deferrable), given) == {"rows": 3}
    (job_id,) = dashboard.jobs
    assert given["ti"].xcoms["_link_RayJobLink"] == f"{dashboard.url}/#/jobs/{job_id}"
    assert dashboard.jobs[job_id]["metadata"] == {"dag_id": "dag", "run_id": "run", "task_id": "task"}
    assert dashboard.tokens == {"Bearer secret"}
    shown = capsys.readouterr()
    assert "ray | reading" in shown.out + shown.err
    assert "ray | progress: 100%" in shown.out + shown.err
    assert "secret" not in shown.out + shown.err


@pytest.mark.parametrize("log", [b"no result\n", b'::taxiway:: {"result": {"rows": "many"}}\n'])
def test_a_result_that_is_missing_or_wrong_is_final(dashboard: Dashboard, log: bytes) -> None:
    dashboard.plan(log=log)
    with pytest.raises(errors.RayResultError, match="Trained"):
        run(operator(result_type=Trained), context())


def test_a_failed_job_fails_the_task_with_its_last_lines(dashboard: Dashboard, deferrable: bool) -> None:
    dashboard.plan(
        "FAILED", log=b"one\nValueError: three\n", driver_exit_code=1, error_type="JOB_ENTRYPOINT_COMMAND_ERROR"
    )
    with pytest.raises(errors.RayJobFailedError, match="ValueError: three") as raised:
        run(operator(deferrable=deferrable), context())
    assert raised.value.error_type == "JOB_ENTRYPOINT_COMMAND_ERROR"
    assert raised.value.submission_id in dashboard.jobs


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (errors.RayNodeLostError("x"), "retry"),
        (errors.RayJobKilledError("x"), "retry"),
        (errors.RayUnreachableError("x"), "retry"),
        (ServiceError("x"), "retry"),
        (errors.RayEntrypointError("x"), "fail"),
        (errors.RayRuntimeEnvError("x"), "fail"),
        (errors.RayJobRejectedError("x"), "fail"),
        (ConfigurationError("x"), "fail"),
        (ServiceRefusedError("x"), "fail"),
        (errors.RayJobFailedError("x"), "default"),
        (errors.RayJobTimeoutError("x"), "default"),
    ],
)
def test_which_failures_are_tried_again(error: Exception, action: str) -> None:
    again = type(JOB_RETRIES).deserialize(json.loads(json.dumps(JOB_RETRIES.serialize())))
    for policy in (JOB_RETRIES, again):
        assert policy.evaluate(error, 1, 2).action.value == action
    assert operator().retry_policy is JOB_RETRIES
    assert operator(retry_policy=None).retry_policy is None


def test_a_try_after_a_failed_job_submits_a_new_one_and_a_try_after_success_does_not(dashboard: Dashboard) -> None:
    store, ti = Store(), TaskInstance()
    dashboard.plan("FAILED", driver_exit_code=1)
    with pytest.raises(errors.RayJobFailedError):
        run(operator(), context(ti, store))
    dashboard.plan()
    second = run(operator(), context(ti, store))
    assert run(operator(), context(ti, store)) == second  # killed after the job's end
    assert dashboard.submissions == 2
    dashboard.plan()
    ti.max_tries += 1  # cleared by a person
    assert run(operator(), context(ti, store)) != second
    store.clear()
    dashboard.plan()
    run(operator(), context(ti, store))
    assert dashboard.submissions == 4


def test_a_clear_that_has_not_yet_stopped_the_job_ends_in_a_new_one(dashboard: Dashboard, deferrable: bool) -> None:
    store, ti = Store(), TaskInstance()
    dashboard.plan("STOPPED")  # as the clear's on_kill does, while the next try already waits
    with pytest.raises(TaskDeferred):
        operator().execute(context(ti, store))
    ti.max_tries += 1
    dashboard.plan(log=b'::taxiway:: {"result": 7}\n')
    assert run(operator(deferrable=deferrable), context(ti, store)) == 7
    assert dashboard.submissions == 2


def test_two_processes_of_one_try_share_a_job(dashboard: Dashboard) -> None:
    store = Store()
    dashboard.plan()
    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(run, operator(deferrable=False), context(TaskInstance(), store)) for _ in range(2)]
    assert tries[0].result() == tries[1].result()
    assert dashboard.submissions == 1


def test_the_deadline_counts_from_the_first_try(dashboard: Dashboard, deferrable: bool) -> None:
    store, ti = Store(), TaskInstance()
    late = {"deferrable": deferrable, "timeout": timedelta(seconds=0)}
    with pytest.raises(errors.RayJobTimeoutError):
        run(operator(**late), context(ti, store))
    (job,) = dashboard.jobs.values()
    assert job["status"] == "STOPPED"
    first = store.values["ray_job"]["deadline"]
    job["status"] = "RUNNING"
    with pytest.raises(errors.RayJobTimeoutError):
        run(operator(**{**late, "timeout": timedelta(hours=1)}), context(ti, store))
    assert store.values["ray_job"]["deadline"] == first
    assert dashboard.submissions == 1


def test_execution_timeout_limits_a_deferred_job_too(dashboard: Dashboard) -> None:
    with pytest.raises(errors.RayJobTimeoutError):
        run(operator(execution_timeout=timedelta(seconds=0), timeout=timedelta(hours=1)), context())
    assert next(iter(dashboard.jobs.values()))["status"] == "STOPPED"


def test_on_kill_stops_the_job_in_the_worker_and_in_the_triggerer(dashboard: Dashboard) -> None:
    jobs_at(dashboard).submit("tw-1", "true")
    trigger = restored(RayJobTrigger(submission_id="tw-1", ray_conn_id="ray_default"))
    asyncio.run(trigger.cleanup())
    assert dashboard.jobs["tw-1"]["status"] == "RUNNING"
    asyncio.run(trigger.on_kill())
    assert dashboard.jobs["tw-1"]["status"] == "STOPPED"
    ended = operator()
    ended.on_kill()  # before anything was submitted
    with pytest.raises(TaskDeferred):
        ended.execute(context())
    ended.on_kill()
    assert {job["status"] for job in dashboard.jobs.values()} == {"STOPPED"}


def test_waits_share_their_connections(dashboard: Dashboard) -> None:
    jobs = jobs_at(dashboard)
    for number in range(200):
        jobs.submit(f"tw-{number}", "true")
    before = dashboard.connections

    async def wait_all() -> list[Any]:
        async def one(number: int) -> Any:
            trigger = RayJobTrigger(
                submission_id=f"tw-{number}", ray_conn_id="ray_default", poll_s=0.2, stream_logs=False
            )
            return (await anext(aiter(trigger.run()))).payload["status"]

        waits = [asyncio.create_task(one(number)) for number in range(200)]
        await asyncio.sleep(0.3)
        for number in range(200):
            dashboard.end(f"tw-{number}")
        return await asyncio.gather(*waits)

    assert asyncio.run(asyncio.wait_for(wait_all(), 60)) == ["SUCCEEDED"] * 200
    assert dashboard.connections - before <= 16
    assert 1 <= dashboard.lists < 50  # a list for all, not a look for each of the 200


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_a_variable_that_redirects_is_refused(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://elsewhere:8265")
    with pytest.raises(
        ConfigurationError, match=f"{name}=http://elsewhere:8265 would send Ray's clients to another cluster"
    ):
        operator().execute(context())
    assert dashboard.submissions == 0


@pytest.mark.parametrize(
    ("runtime_env", "said"),
    [
        ({"env_varz": {}}, "did you mean 'env_vars'?"),
        ({"working_dir": "/nowhere/at/all"}, "/nowhere/at/all does not exist"),
        ({"working_dir": __file__}, "use a folder, a .zip or a .whl"),
    ],
)
def test_a_wrong_runtime_env_is_refused_before_it_is_sent(dashboard: Dashboard, runtime_env: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said.replace("?", r"\?")):
        operator(runtime_env=runtime_env).execute(context())
    assert dashboard.submissions == 0


def test_local_folders_are_packed_and_uploaded_once(dashboard: Dashboard, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.py").write_text("print(1)")
    for run_id in ("a", "b"):
        dashboard.plan()
        given = context(TaskInstance(run_id=run_id))
        more = {
            "working_dir": str(tmp_path / "code"),
            "runtime_env": {"py_modules": [str(tmp_path / "code"), "s3://b/x.zip"]},
        }
        run(operator(**more, env={"A": "1"}), given)
    assert len(dashboard.packages) == 2 - 1  # Ray names a package by its content alone
    for job in dashboard.jobs.values():
        assert job["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")
        assert job["runtime_env"]["py_modules"][1] == "s3://b/x.zip"
        assert job["runtime_env"]["env_vars"] == {"A": "1"}


def test_gpus_take_slots_of_the_pool() -> None:
    assert (operator(gpus=2.5).pool, operator(gpus=2.5).pool_slots) == (GPU_POOL, 3)
    assert operator(gpus=2, pool="mine").pool == "mine"
    assert operator(gpus=2, default_args={"pool": "theirs"}).pool != GPU_POOL
    assert operator().pool != GPU_POOL
    shipped = json.loads((Path(__file__).resolve().parents[3] / "include" / "pools.json").read_text())
    assert shipped[GPU_POOL]["include_deferred"] is True


def test_tokens_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert "secret" not in repr(RayAddress("http://x", token="secret"))
