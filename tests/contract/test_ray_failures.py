"""What Ray tasks do when the dashboard fails in each way that it can."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred
from pydantic import BaseModel

from operators.compute import client, errors, job_wait
from operators.compute.address import RayAddress
from operators.compute.client import RayJobs
from operators.compute.operators import SubmitRayJobOperator
from operators.core import http
from operators.core.errors import ServiceError, ServiceRefusedError
from tests.support.ray_dashboard import Dashboard
from tests.support.tasks import Store, TaskInstance, context, run

RESULT = b'reading\n::taxiway:: {"result": {"rows": 3}}\n'


class Trained(BaseModel):
    rows: int


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    server = Dashboard("secret")
    connection = {"conn_type": "ray", "host": server.url, "password": "secret"}
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps(connection))
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    yield server
    if server.hang is not None:
        server.hang.set()
    server.close()


@pytest.fixture(params=[True, False], ids=["deferrable", "sync"])
def deferrable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def operator(**more: Any) -> SubmitRayJobOperator:
    given = {"entrypoint": "python x.py", "poll_s": 0.01, "deferrable": True, **more}
    return SubmitRayJobOperator(task_id="task", **given)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients wait for an answer for a fifth of a second."""
    for name in ("client", "async_client"):
        made = getattr(http, name)
        monkeypatch.setattr(client, name, lambda url, made=made, **more: made(url, **{**more, "timeout_s": 0.2}))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ServiceRefusedError), (401, ServiceRefusedError), (403, ServiceRefusedError), (404, ServiceRefusedError),
        (409, ServiceRefusedError), (500, ServiceError), (503, ServiceError),
    ],
)  # fmt: skip
def test_what_a_failing_dashboard_means_for_a_retry(dashboard: Dashboard, status: int, kind: type[Exception]) -> None:
    dashboard.failure = (status, "no")
    with pytest.raises(kind, match=f"with {status}: no"):
        RayJobs(RayAddress(dashboard.url, "secret")).submit("tw-1", "true")


@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_the_token_nothing_is_submitted_and_no_token_is_told(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    connection = {"conn_type": "ray", "host": dashboard.url, "password": token}
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps(connection))
    with pytest.raises(ServiceRefusedError, match=r"with 40[13]: (Unauthorized|Forbidden)") as raised:
        operator().execute(context())
    assert "wrong" not in str(raised.value)
    assert dashboard.submissions == 0


def test_a_token_that_is_revoked_while_the_job_runs_leaves_the_job_alone(
    dashboard: Dashboard, deferrable: bool
) -> None:
    dashboard.after_submit = lambda job_id: setattr(dashboard, "token", "another")
    with pytest.raises(errors.RayUnreachableError, match="with 403: Forbidden"):
        run(operator(deferrable=deferrable, unreachable_s=0.05), context())
    assert [job["status"] for job in dashboard.jobs.values()] == ["RUNNING"]


@pytest.mark.parametrize("status", [400, 409, 500])
def test_an_id_that_ray_has_already_is_the_job_of_this_task(dashboard: Dashboard, status: int) -> None:
    # Ray says it with 500; whatever another version says it with, the job is there.
    jobs = RayJobs(RayAddress(dashboard.url, "secret"))
    dashboard.failure = (status, "ValueError: Job with submission_id tw-1 already exists. Please use a different one.")
    assert jobs.submit("tw-1", "true") is False


def test_an_answer_that_was_lost_starts_no_second_job(dashboard: Dashboard) -> None:
    store, ti = Store(), TaskInstance()
    real = RayJobs.get
    with pytest.MonkeyPatch.context() as patch:

        def get_then_drop(self: RayJobs, job_id: str) -> Any:
            found = real(self, job_id)
            dashboard.drop_answers = True
            return found

        patch.setattr(RayJobs, "get", get_then_drop)
        with pytest.raises(ServiceError):
            operator().execute(context(ti, store))
    dashboard.drop_answers = False
    assert store.values["ray_job"]["epoch"] == 0
    dashboard.end(next(iter(dashboard.jobs)))
    assert run(operator(), context(ti, store)) == {"submission_id": next(iter(dashboard.jobs))}
    assert dashboard.submissions == 1


def test_a_dashboard_that_hangs_is_given_up_before_anything_is_submitted(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    dashboard.hang = threading.Event()
    with pytest.raises(ServiceError, match="did not answer: ReadTimeout"):
        operator().execute(context())
    assert dashboard.submissions == 0


def test_a_dashboard_that_hangs_while_the_job_runs_is_waited_for(
    dashboard: Dashboard, deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)

    def hang(job_id: str) -> None:
        held = dashboard.hang = threading.Event()
        dashboard.logs[job_id] = RESULT
        dashboard.end(job_id)

        def goes_on() -> None:
            dashboard.hang = None
            held.set()

        threading.Timer(0.5, goes_on).start()

    dashboard.after_submit = hang
    assert run(operator(deferrable=deferrable, result_type=Trained), context()) == {"rows": 3}
    assert dashboard.submissions == 1


def test_a_log_that_breaks_off_is_read_again(dashboard: Dashboard, deferrable: bool) -> None:
    dashboard.plan(log=RESULT)
    dashboard.cut_logs = 2
    assert run(operator(deferrable=deferrable, result_type=Trained, stream_logs=False), context()) == {"rows": 3}


def test_a_result_in_a_log_that_cannot_be_read_is_not_lost(dashboard: Dashboard, deferrable: bool) -> None:
    store, ti = Store(), TaskInstance()
    typed = {"deferrable": deferrable, "result_type": Trained, "stream_logs": False}
    dashboard.plan(log=RESULT)
    dashboard.cut_logs = 99
    with pytest.raises(errors.RayLogUnreadError, match="a retry reads it again"):
        run(operator(**typed), context(ti, store))
    dashboard.cut_logs = 0
    assert run(operator(**typed), context(ti, store)) == {"rows": 3}
    assert dashboard.submissions == 1


def test_a_job_without_a_result_needs_no_log(dashboard: Dashboard) -> None:
    dashboard.plan(log=b"reading\n", driver_node_id="ff" * 28)  # its node is gone
    assert run(operator(stream_logs=False), context()) == {"submission_id": next(iter(dashboard.jobs))}


def test_a_followed_log_that_says_nothing_is_opened_anew(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_wait, "_IDLE_S", 0.05)
    opened = dashboard.connections
    dashboard.after_submit = lambda job_id: threading.Timer(0.4, dashboard.end, (job_id,)).start()
    run(operator(), context())
    assert dashboard.connections - opened > 4


def test_a_followed_log_that_ends_is_not_opened_again_and_again(dashboard: Dashboard) -> None:
    dashboard.log_ends = True
    dashboard.after_submit = lambda job_id: threading.Timer(0.5, dashboard.end, (job_id,)).start()
    run(operator(poll_s=0.2), context())
    assert dashboard.log_reads <= 6


def test_a_job_that_ray_lost_is_submitted_again_by_the_next_try(dashboard: Dashboard, deferrable: bool) -> None:
    store, ti = Store(), TaskInstance()
    dashboard.after_submit = lambda job_id: dashboard.forget()
    with pytest.raises(errors.RayJobLostError):
        run(operator(deferrable=deferrable), context(ti, store))
    dashboard.after_submit = lambda job_id: None
    dashboard.plan()
    run(operator(deferrable=deferrable), context(ti, store))
    assert dashboard.submissions == 2


def test_a_lost_job_gets_its_whole_time_again(dashboard: Dashboard) -> None:
    store, ti = Store(), TaskInstance()
    late = operator(timeout=timedelta(seconds=0))
    with pytest.raises(TaskDeferred):
        late.execute(context(ti, store))
    dashboard.forget()
    dashboard.plan()
    run(operator(timeout=timedelta(hours=1)), context(ti, store))
    assert dashboard.submissions == 2


def test_a_cluster_that_is_away_for_too_long_leaves_the_job_alone(dashboard: Dashboard) -> None:
    dashboard.after_submit = lambda job_id: setattr(dashboard, "failure", (503, "restarting"))
    with pytest.raises(errors.RayUnreachableError, match="503: restarting"):
        run(operator(unreachable_s=0.05), context())
    assert next(iter(dashboard.jobs.values()))["status"] == "RUNNING"


def test_a_cluster_that_comes_back_is_waited_for(dashboard: Dashboard, deferrable: bool) -> None:
    def restart(job_id: str) -> None:
        dashboard.failure = (503, "restarting")
        dashboard.end(job_id)
        threading.Timer(0.1, lambda: setattr(dashboard, "failure", None)).start()

    dashboard.after_submit = restart
    run(operator(deferrable=deferrable), context())
