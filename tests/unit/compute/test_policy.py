from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.compute import errors
from operators.compute.policy import Attempt, Move, brief, failure, next_move, pause_s, redirecting, submission_id

names = st.text(min_size=1, max_size=20)
KEPT = Attempt(epoch=0, max_tries=2)


@given(names, names, names, st.integers(-1, 1000), st.integers(0, 9))
def test_ids_are_the_same_again_and_fit_ray(dag: str, run: str, task: str, index: int, epoch: int) -> None:
    made = submission_id(dag, run, task, index, epoch)
    assert made == submission_id(dag, run, task, index, epoch)
    assert made != submission_id(dag, run, task, index, epoch + 1)
    assert made.isascii()
    assert " " not in made
    assert len(made) < 100


@pytest.mark.parametrize(
    ("kept", "status", "max_tries", "move"),
    [
        (None, None, 2, Move.SUBMIT),  # the first try
        (KEPT, None, 2, Move.SUBMIT),  # killed between remembering and submitting
        (KEPT, "PENDING", 2, Move.REATTACH),
        (KEPT, "RUNNING", 2, Move.REATTACH),
        (KEPT, "RUNNING", 4, Move.REATTACH),  # cleared while the job runs
        (KEPT, "SUCCEEDED", 2, Move.FINISH),  # killed between the job's end and the task's
        (KEPT, "SUCCEEDED", 4, Move.RENEW),  # cleared after a success: asked to do the work again
        (None, "SUCCEEDED", 2, Move.RENEW),  # the same, where success clears the task's state
        (None, "RUNNING", 2, Move.REATTACH),  # two processes run the same try
        (KEPT, "FAILED", 2, Move.RENEW),
        (KEPT, "STOPPED", 2, Move.RENEW),
    ],
)
def test_moves(kept: Attempt | None, status: str | None, max_tries: int, move: Move) -> None:
    assert next_move(kept, status, max_tries=max_tries) is move


@pytest.mark.parametrize(
    ("status", "error_type", "exit_code", "lines", "kind"),
    [
        ("STOPPED", None, None, [], errors.RayJobStoppedError),
        ("FAILED", "RUNTIME_ENV_SETUP_FAILURE", None, [], errors.RayRuntimeEnvError),
        ("FAILED", "JOB_SUPERVISOR_ACTOR_DIED", None, [], errors.RayNodeLostError),
        ("FAILED", "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", None, [], errors.RayCapacityError),
        ("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", 127, ["sh: 1: x: not found"], errors.RayEntrypointError),
        ("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", 2, ["python: can't open file 'x.py'"], errors.RayEntrypointError),
        ("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", 1, ["/usr/bin/python: No module named x"], errors.RayEntrypointError),
        ("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", 1, ["ModuleNotFoundError: No module named 'x'"], errors.RayJobFailedError),
        ("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", 1, ["ValueError: 3"], errors.RayJobFailedError),
        ("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", 3, [], errors.RayJobRejectedError),
        ("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", 137, ["Killed"], errors.RayJobKilledError),
        ("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", -9, [], errors.RayJobKilledError),
        ("FAILED", "JOB_ENTRYPOINT_COMMAND_ERROR", 1, ["ray.exceptions.OutOfMemoryError: Task"], errors.RayJobKilledError),
        ("FAILED", "SOMETHING_NEW", 1, [], errors.RayJobFailedError),
    ],
)  # fmt: skip
def test_what_a_failure_means(status: str, error_type: str, exit_code: int, lines: list[str], kind: type) -> None:
    assert failure(status, error_type, exit_code, lines) is kind


def test_every_error_type_of_ray_is_known() -> None:
    from ray.dashboard.modules.job.common import JobErrorType

    entrypoint_failed = {"JOB_ENTRYPOINT_COMMAND_ERROR"}  # the exit code says more
    for kind in {member.value for member in JobErrorType} - entrypoint_failed:
        assert failure("FAILED", kind, None, []) is not errors.RayJobFailedError, kind


def test_every_field_of_rays_runtime_env_is_known() -> None:
    from ray.runtime_env import RuntimeEnv

    from operators.compute.packages import KNOWN_FIELDS

    assert set(RuntimeEnv.known_fields) == KNOWN_FIELDS


@pytest.mark.parametrize(
    ("environ", "astray"),
    [
        ({}, 0),
        ({"RAY_ADDRESS": ""}, 0),
        ({"RAY_ADDRESS": "ray-head:6379"}, 0),
        ({"RAY_ADDRESS": "ray://ray-head:10001"}, 0),
        ({"RAY_API_SERVER_ADDRESS": "http://ray-head:8265"}, 0),
        ({"RAY_ADDRESS": "auto"}, 1),
        ({"RAY_ADDRESS": "http://other:8265"}, 1),
        ({"RAY_ADDRESS": "other:6379", "RAY_API_SERVER_ADDRESS": "http://third"}, 2),
    ],
)
def test_variables_that_redirect(environ: dict[str, str], astray: int) -> None:
    assert len(redirecting(environ, "http://ray-head:8265")) == astray
    assert redirecting({"RAY_ADDRESS": "127.0.0.1:6379"}, "http://localhost:8265") == []


def test_a_reason_is_short_and_without_the_log() -> None:
    assert (
        brief("failed with exit code 1, last available logs (truncated to 20,000 chars):\nx")
        == "failed with exit code 1"
    )
    long = brief("first\n" + "x" * 100_000 + "\nlast")
    assert len(long) < 2000
    assert long.startswith("first")
    assert long.endswith("last")


@given(st.floats(0, 1e6), st.floats(0.01, 100))
def test_a_pause_grows_with_the_wait_up_to_its_limit(waited_s: float, poll_s: float) -> None:
    pause = pause_s(waited_s, poll_s)
    assert 0 < pause <= poll_s
    assert pause == poll_s or pause <= max(0.25, waited_s / 5)
