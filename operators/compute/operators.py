"""Ray jobs as Airflow tasks: submitted once, waited for without a worker slot, with log, progress and a typed result."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any

from airflow.sdk import BaseOperator, conf
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from operators.compute.client import RayJobs
from operators.compute.client_pool import shared
from operators.compute.errors import (
    RayJobError,
    RayJobLostError,
    RayJobTimeoutError,
    RayLogUnreadError,
    RayResultError,
    RayUnreachableError,
)
from operators.compute.hook import DEFAULT_CONN_ID, RayHook
from operators.compute.job_wait import Ending, Watch
from operators.compute.links import RayJobLink
from operators.compute.logs import LogCopy
from operators.compute.policy import Attempt, Move, brief, failure, next_move, submission_id
from operators.compute.retries import JOB_RETRIES
from operators.compute.triggers import RayJobTrigger
from operators.core.errors import ConfigurationError
from operators.core.explain_error import explain

GPU_POOL = "ray_gpu"
_STATE_KEY = "ray_job"
_MOST_EPOCHS = 1000


class SubmitRayJobOperator(BaseOperator):
    """Run a command as a job on a Ray cluster, and return what it reports.

    A job is submitted once, whatever is killed: its id follows from the task and is saved before the job is
    submitted, so the next try finds the running job. A job that failed gets a new id. Clearing the task or marking it
    failed stops the job, also while the task is deferred; a restart of the triggerer does not.

    The job reports its result and its progress in its log; see `operators.compute.reports`.

    :param entrypoint: the shell command (templated)
    :param ray_conn_id: Airflow connection of type ``ray``. None uses the cluster of ``TAXIWAY_RAY_URL``
    :param address: address of the dashboard, in place of the connection's; for a cluster that the DAG creates
        (templated)
    :param token_path: file with the token of that cluster (templated)
    :param runtime_env: Ray's runtime environment. Local folders in it are packed and uploaded (templated)
    :param working_dir: folder, or URI of a package, in which the command starts (templated)
    :param env: environment variables of the job. Anybody who can open Ray's dashboard can read them (templated)
    :param metadata: texts that Ray's dashboard shows beside ``dag_id``, ``run_id`` and ``task_id`` (templated)
    :param entrypoint_num_cpus: CPU cores that the command's own process reserves
    :param entrypoint_num_gpus: GPUs that the command's own process reserves
    :param entrypoint_memory_bytes: memory that the command's own process reserves
    :param entrypoint_resources: Ray's custom resources that the command's own process reserves
    :param gpus: GPUs that the whole job uses, workers included. The task takes as many slots of the pool ``ray_gpu``,
        rounded up, also while it is deferred. ``pool`` overrides it
    :param timeout: longest run time of the job, counted from its submission over all tries; then the job is stopped.
        If ``execution_timeout`` is shorter, it applies
    :param result_type: pydantic model that the reported result must match. The task returns it as plain JSON types
    :param deferrable: wait in the triggerer, without a worker slot. Default: ``[operators] default_deferrable``
    :param poll_s: seconds between two checks of the job; the first checks come faster
    :param unreachable_s: seconds for which the cluster may be unreachable before the try fails
    :param stream_logs: copy the job's log into the task's log while the job runs. False copies it at the end
    :returns: the reported result, or ``{"submission_id": …}`` if the job reports none
    :raises RayJobError: the job did not succeed; the subclass says why. The default ``retry_policy`` is
        `JOB_RETRIES`: it retries where another try can help, and fails the task at once where it cannot
    """

    template_fields: Sequence[str] = (
        "entrypoint", "address", "token_path", "runtime_env", "working_dir", "env", "metadata",
    )  # fmt: skip
    template_fields_renderers: Mapping[str, str] = {"entrypoint": "bash", "runtime_env": "json", "env": "json"}
    operator_extra_links = (RayJobLink(),)

    def __init__(
        self,
        *,
        entrypoint: str,
        ray_conn_id: str | None = DEFAULT_CONN_ID,
        address: str | None = None,
        token_path: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        working_dir: str | None = None,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        entrypoint_num_cpus: float = 0,
        entrypoint_num_gpus: float = 0,
        entrypoint_memory_bytes: int = 0,
        entrypoint_resources: Mapping[str, float] | None = None,
        gpus: float = 0,
        timeout: timedelta | None = None,
        result_type: type[Any] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_s: float = 2.0,
        unreachable_s: float = 600.0,
        stream_logs: bool = True,
        **kwargs: Any,
    ) -> None:
        defaults = kwargs.get("default_args") or {}
        if gpus and "pool" not in kwargs and "pool" not in defaults:
            kwargs |= {"pool": GPU_POOL, "pool_slots": math.ceil(gpus)}
        if "retry_policy" not in defaults:
            kwargs.setdefault("retry_policy", JOB_RETRIES)
        super().__init__(**kwargs)
        self.entrypoint = entrypoint
        self.ray_conn_id = ray_conn_id
        self.address = address
        self.token_path = token_path
        self.runtime_env = runtime_env
        self.working_dir = working_dir
        self.env = env
        self.metadata = metadata
        self.entrypoint_num_cpus = entrypoint_num_cpus
        self.entrypoint_num_gpus = entrypoint_num_gpus
        self.entrypoint_memory_bytes = entrypoint_memory_bytes
        self.entrypoint_resources = entrypoint_resources
        self.gpus = gpus
        self.timeout = timeout
        self.result_type = result_type
        self.deferrable = deferrable
        self.poll_s = poll_s
        self.unreachable_s = unreachable_s
        self.stream_logs = stream_logs
        self._running: str | None = None

    def execute(self, context: Any) -> Any:
        """Submit the job, or find the one that an earlier try submitted, and wait for it."""
        return self._start(context)

    def _start(self, context: Any) -> Any:
        job_id, attempt, move, cleared = self._choose(context)
        self._running = job_id
        fresh = move is Move.SUBMIT and self._jobs.submit(job_id, **self.job_arguments(context, job_id))
        self.log.info("%s Ray job %s", "submitted" if fresh else "reattached to", job_id)
        page = self._jobs.address.job_page(job_id)
        context["ti"].xcom_push(key=RayJobLink.key, value=page)
        self.log.info("its page: %s", page)
        if self.deferrable:
            self.defer(
                trigger=RayJobTrigger(
                    submission_id=job_id,
                    ray_conn_id=self.ray_conn_id,
                    address=self.address,
                    token_path=self.token_path,
                    deadline=attempt.deadline,
                    poll_s=self.poll_s,
                    unreachable_s=self.unreachable_s,
                    stream_logs=self.stream_logs,
                ),
                method_name="resume",
                kwargs={"job_id": job_id, "cleared": cleared},
            )
        return self._finish(context, job_id, asyncio.run(self._wait(job_id, attempt)), cleared=cleared)

    def resume(self, context: Any, event: Mapping[str, Any], job_id: str, cleared: bool = False) -> Any:
        """Read how the job ended."""
        return self._finish(context, job_id, Ending.model_validate(event), cleared=cleared)

    def on_kill(self) -> None:
        """Stop the job that this try waits for."""
        if self._running:
            self.log.info("stopping Ray job %s", self._running)
            self._jobs.stop(self._running)

    def job_arguments(self, context: Any, job_id: str) -> dict[str, Any]:
        """Return what `RayJobs.submit` gets beside the id. Called once for each job, before it is submitted."""
        from operators.compute.packages import upload_local

        runtime_env: dict[str, Any] = dict(self.runtime_env or {})
        if self.working_dir:
            runtime_env["working_dir"] = self.working_dir
        if self.env:
            runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), **self.env}
        ti = context["ti"]
        return {
            "entrypoint": self.entrypoint,
            "runtime_env": upload_local(runtime_env, self._jobs),
            "metadata": {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, **(self.metadata or {})},
            "cpus": self.entrypoint_num_cpus,
            "gpus": self.entrypoint_num_gpus,
            "memory_bytes": self.entrypoint_memory_bytes,
            "resources": self.entrypoint_resources,
        }

    def job_result(self, job_id: str, ending: Ending) -> Any:
        """Return the task's result of a job that succeeded.

        :raises RayResultError: it is missing, or does not fit ``result_type``
        """
        if not ending.has_result:
            if self.result_type is None:
                return {"submission_id": job_id}
            raise RayResultError(
                f"Ray job {job_id} succeeded, but its log has no result for {self.result_type.__name__}; "
                "call ray_jobs.progress.result in its driver, or print the line that operators.compute.reports describes",
                submission_id=job_id,
            )
        if self.result_type is None:
            return ending.result
        from pydantic import ValidationError

        try:
            return self.result_type.model_validate(ending.result).model_dump(mode="json")
        except ValidationError as error:
            raise RayResultError(
                f"Ray job {job_id} succeeded, but its result does not fit {self.result_type.__name__}: "
                f"{explain(error, self.result_type)}",
                submission_id=job_id,
            ) from None

    @property
    def reports_result(self) -> bool:
        """Whether the job must report a result in its log."""
        return self.result_type is not None

    @cached_property
    def _jobs(self) -> RayJobs:
        jobs: RayJobs = RayHook(self.ray_conn_id, address=self.address, token_path=self.token_path).get_conn()
        return jobs

    def _choose(self, context: Any) -> tuple[str, Attempt, Move, bool]:
        """Return the job of this try, what to do with it, and whether the task was cleared while the job ran.

        The job's id is saved before anything is done.
        """
        ti, store = context["ti"], context["task_state_store"]
        first = _remembered(store)
        for epoch in range(first.epoch if first else 0, _MOST_EPOCHS):
            job_id = submission_id(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, epoch)
            job = self._jobs.get(job_id)
            # Read again after asking Ray: another process of this try saves a job's id before it submits the job.
            attempt = _remembered(store)
            if attempt is not None and attempt.epoch != epoch:
                attempt = None
            move = next_move(attempt, job.status if job else None, max_tries=ti.max_tries)
            if move is not Move.RENEW:
                break
        else:
            raise ConfigurationError(
                f"this task has had {_MOST_EPOCHS} jobs in this DAG run, which is the limit; start a new DAG run"
            )
        cleared = move is Move.REATTACH and attempt is not None and attempt.max_tries != ti.max_tries
        if attempt is None or attempt.max_tries != ti.max_tries or move is Move.SUBMIT:
            # A job that Ray lost is submitted again, and its time starts again.
            deadline = attempt.deadline if attempt and move is not Move.SUBMIT else self._deadline()
            attempt = Attempt(epoch=epoch, deadline=deadline, max_tries=ti.max_tries)
            store.set(_STATE_KEY, attempt.model_dump(), retention=NEVER_EXPIRE)
        return job_id, attempt, move, cleared

    @property
    def _limit(self) -> timedelta | None:
        return min((limit for limit in (self.timeout, self.execution_timeout) if limit is not None), default=None)

    def _deadline(self) -> float | None:
        return None if self._limit is None else time.time() + self._limit.total_seconds()

    async def _wait(self, job_id: str, attempt: Attempt) -> Ending:
        async with shared(self._jobs.address) as jobs:
            watch = Watch(
                jobs=jobs,
                submission_id=job_id,
                deadline=attempt.deadline,
                poll_s=self.poll_s,
                unreachable_s=self.unreachable_s,
                copy=LogCopy(),
                follow=self.stream_logs,
                say=lambda line: self.log.info("ray | %s", line),
            )
            return await watch.run()

    def _finish(self, context: Any, job_id: str, ending: Ending, *, cleared: bool) -> Any:
        if ending.status == "SUCCEEDED":
            if self.reports_result and not ending.has_result and not ending.log_is_whole:
                raise RayLogUnreadError(
                    f"Ray job {job_id} succeeded, but the end of its log, where the result is, could not be read; a retry "
                    "reads it again",
                    submission_id=job_id,
                )
            return self.job_result(job_id, ending)
        if ending.status == "STOPPED" and cleared:
            # Clearing stops the job. That takes Ray some seconds, so this try still saw it running.
            self.log.info("Ray job %s was stopped because the task was cleared; a new one is submitted", job_id)
            return self._start(context)
        raise self._error(job_id, ending)

    def _error(self, job_id: str, ending: Ending) -> RayJobError:
        tail = "\n".join(ending.last_lines[-10:])
        kind: type[RayJobError]
        if ending.status == "TIMEOUT":
            kind, outcome = RayJobTimeoutError, f"ran longer than {self._limit} and was stopped"
        elif ending.status == "UNKNOWN":
            kind, outcome = RayJobLostError, "is no longer known to Ray; a retry submits it again"
        elif ending.status == "UNREACHABLE":
            kind, outcome = RayUnreachableError, "may still run, but Ray did not answer for too long; a retry finds it"
        else:
            kind = failure(ending.status, ending.error_type, ending.exit_code, ending.last_lines)
            outcome = f"ended {ending.status}"
        reason = brief(ending.reason)
        return kind(
            f"Ray job {job_id} {outcome}{reason and f': {reason}'}" + (f"\n{tail}" if tail else ""),
            submission_id=job_id,
            error_type=ending.error_type,
        )


def _remembered(store: Any) -> Attempt | None:
    kept = store.get(_STATE_KEY)
    return Attempt.model_validate(kept) if kept else None
