"""Decisions about Ray jobs, without I/O: ids, attempts, the meaning of a failure, variables that redirect a client."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from urllib.parse import urlsplit

from operators.compute import errors
from operators.core.frozen import Frozen

FINAL_EXIT_CODE = 3  # a job ends with it to say that another try cannot help
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})

_NOT_FOUND_EXIT_CODES = frozenset({126, 127})  # a shell's: not executable, not found
_SIGKILL_EXIT_CODES = frozenset({-9, 137})
_NOT_STARTED = re.compile(r"can't open file|^\S*python\S*: (No module named|Error while finding module)", re.MULTILINE)
_OUT_OF_MEMORY = re.compile(r"ray\.exceptions\.(OutOfMemoryError|NodeDiedError|WorkerCrashedError)")
_BY_ERROR_TYPE: Mapping[str, type[errors.RayJobError]] = {
    "RUNTIME_ENV_SETUP_FAILURE": errors.RayRuntimeEnvError,
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": errors.RayCapacityError,
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": errors.RayNodeLostError,
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": errors.RayNodeLostError,
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE": errors.RayNodeLostError,
    "JOB_SUPERVISOR_ACTOR_DIED": errors.RayNodeLostError,
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": errors.RayEntrypointError,
}
_SHORTEST_PAUSE_S = 0.25
_REASON_CHARS = 600
_REDIRECTING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def submission_id(dag_id: str, run_id: str, task_id: str, map_index: int, epoch: int) -> str:
    """Return the id of one attempt's job: readable, and unique for the five parts.

    :param epoch: 0 for the first job of a task, one more after each job that failed
    """
    parts = [dag_id, run_id, task_id, str(map_index), str(epoch)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{dag_id}-{task_id}").strip("-")[:60]
    return f"tw-{readable}-{digest}"


class Attempt(Frozen):
    """What is saved about a task's job before the job is submitted.

    :param epoch: see `submission_id`
    :param deadline: Unix time in seconds at which the job is stopped, or None
    :param max_tries: Airflow's ``max_tries`` of the task at that time: it grows when the task is cleared
    """

    epoch: int
    deadline: float | None = None
    max_tries: int = 0


class Move(Enum):
    """What a task does with its job."""

    SUBMIT = "submit"
    REATTACH = "reattach"
    FINISH = "finish"
    RENEW = "renew"  # the job is over and does not count: look at the next epoch


def next_move(remembered: Attempt | None, status: str | None, *, max_tries: int) -> Move:
    """Decide what to do about the job of the current epoch.

    The id of a job is saved before the job is submitted. So a job that is over, and whose id is not saved, was submitted
    before the task was cleared.

    :param status: Ray's status of the job, or None where Ray does not know it
    :param max_tries: Airflow's ``max_tries`` of the task now
    """
    if status is None:
        return Move.SUBMIT
    if status not in TERMINAL:
        return Move.REATTACH
    cleared = remembered is None or remembered.max_tries != max_tries
    if status == "SUCCEEDED" and not cleared:
        return Move.FINISH
    return Move.RENEW


def failure(
    status: str, error_type: str | None, exit_code: int | None, last_lines: Sequence[str]
) -> type[errors.RayJobError]:
    """Return the exception for a job that ended FAILED or STOPPED.

    :param error_type: Ray's ``JobErrorType``
    :param exit_code: of the job's driver; negative for a signal
    :param last_lines: the end of the job's log
    """
    if status == "STOPPED":
        return errors.RayJobStoppedError
    if known := _BY_ERROR_TYPE.get(error_type or ""):
        return known
    text = "\n".join(last_lines)
    if exit_code == FINAL_EXIT_CODE:
        return errors.RayJobRejectedError
    if exit_code in _NOT_FOUND_EXIT_CODES or (exit_code in (1, 2) and _NOT_STARTED.search(text)):
        return errors.RayEntrypointError
    if exit_code in _SIGKILL_EXIT_CODES or _OUT_OF_MEMORY.search(text):
        return errors.RayJobKilledError
    return errors.RayJobFailedError


def pause_s(waited_s: float, poll_s: float) -> float:
    """Return the seconds until the next check of a job. The first pauses are short, because a new job may start or end soon.

    :param waited_s: how long the wait has taken
    :param poll_s: the longest pause
    """
    return min(poll_s, max(_SHORTEST_PAUSE_S, waited_s / 5))


def brief(reason: str) -> str:
    """Return Ray's message about a failed job without the log in it; of a long text only the beginning and the end."""
    text = reason.partition(", last available logs")[0].strip()
    return text if len(text) <= 2 * _REASON_CHARS else f"{text[:_REASON_CHARS]}\n[…]\n{text[-_REASON_CHARS:]}"


def redirecting(environ: Mapping[str, str], url: str) -> list[str]:
    """Return the variables that would send Ray's own clients to another cluster than ``url``, as ``NAME=value``.

    In Ray's clients these variables override the address of the call. A variable that names the same host is harmless;
    ports are not compared, because those of the dashboard and of the cluster differ.
    """
    return [
        f"{name}={environ[name]}" for name in _REDIRECTING if environ.get(name) and _host(environ[name]) != _host(url)
    ]


def _host(address: str) -> str:
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    return "localhost" if host in _LOOPBACK else host
