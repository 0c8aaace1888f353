"""Run one of Taxiway's Ray jobs as an Airflow task: durable, deferred, with a typed result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from operators.compute.client import RayJob, RayJobs
from operators.compute.policy import FINAL_EXIT_CODE, submission_id
from operators.compute.triggers import RayJobTrigger
from operators.core.errors import ConfigurationError, ServiceError, ServiceRefusedError
from operators.core.settings import setting, storage_url
from operators.core.spec import ModelSpec

_EPOCH = "ray_job_epoch"
_LOG_LINES = 60


class RayJobOperator(BaseOperator):
    """Run ``python -m <module> <key>`` on the Ray cluster and return the JSON that it writes.

    The job reads ``<key>/input.json`` and writes ``<key>/result.json`` below the storage root, so that nothing of size
    travels through Airflow. The job's id is a function of the task and an epoch that is saved before submitting: a retry
    finds the running job instead of starting a second one. A job that failed gets a new epoch.

    :param module: Python module below ``ray_jobs``
    :param spec: the model's spec, which the job gets too
    :param payload: what else the job reads from ``input.json`` (templated)
    :param timeout: how long the job may run; it is stopped then
    :param gpus: GPUs for the job's driver; workers ask for their own
    :raises AirflowFailException: the job failed for a reason that a retry cannot mend
    """

    template_fields: Sequence[str] = ("payload",)

    def __init__(
        self,
        *,
        module: str,
        spec: ModelSpec,
        payload: Mapping[str, Any],
        timeout: timedelta,
        gpus: float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.module = module
        self.spec = spec
        self.payload = payload
        self.timeout = timeout
        self.gpus = gpus

    def execute(self, context: Any) -> Any:
        """Submit, or find, the job and wait for it."""
        ti, store = context["ti"], context["task_state_store"]
        epoch = int(store.get(_EPOCH, 0))
        jobs = _jobs()
        job_id = submission_id(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, epoch)
        known = jobs.get(job_id)
        if known is not None and known.status in ("FAILED", "STOPPED"):
            epoch += 1
            job_id = submission_id(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, epoch)
        store.set(_EPOCH, epoch, retention=NEVER_EXPIRE)
        if known is not None and known.status == "SUCCEEDED":
            return self._finish(context, jobs, known)
        self._submit(jobs, job_id)
        trigger = RayJobTrigger(
            url=setting("TAXIWAY_RAY_URL", "address of the Ray dashboard"),
            submission_id=job_id,
            deadline=time.time() + self.timeout.total_seconds(),
        )
        self.defer(trigger=trigger, method_name="resume", kwargs={"job_id": job_id})

    def resume(self, context: Any, event: Mapping[str, str], job_id: str) -> Any:
        """Read how the job ended."""
        jobs = _jobs()
        if event["status"] == "TIMEOUT":
            raise AirflowFailException(f"Ray job {job_id} ran longer than {self.timeout} and was stopped")
        job = jobs.get(job_id)
        if job is None:
            raise ServiceError(f"Ray no longer knows job {job_id} ({event['status']}); a retry submits it again")
        return self._finish(context, jobs, job)

    def _submit(self, jobs: RayJobs, job_id: str) -> None:
        from operators.core.storage import Storage

        storage = Storage.from_url(storage_url())
        storage.put_bytes(
            f"jobs/{job_id}/input.json", json.dumps({**self.payload, "spec": self.spec.to_json()}).encode()
        )
        try:
            fresh = jobs.submit(
                job_id,
                f"python -m {self.module} jobs/{job_id}",
                runtime_env=_runtime_env(),
                metadata={"dag_id": self.dag_id, "task_id": self.task_id},
                gpus=self.gpus,
            )
        except ServiceRefusedError as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("%s Ray job %s", "submitted" if fresh else "reattached to", job_id)

    def _finish(self, context: Any, jobs: RayJobs, job: RayJob) -> Any:
        try:
            lines = jobs.logs(job.submission_id).splitlines()
        except (ServiceError, ServiceRefusedError) as error:  # the driver's node may be gone; the result need not be
            lines = [f"(no log: {error})"]
        for line in lines[-_LOG_LINES:]:
            self.log.info("ray | %s", line)
        if job.status != "SUCCEEDED":
            tail = "\n".join(lines[-8:])
            said = f"Ray job {job.submission_id} ended {job.status}:\n{tail}"
            raise AirflowFailException(said) if job.driver_exit_code == FINAL_EXIT_CODE else ServiceError(said)
        from operators.core.storage import Storage

        result = json.loads(Storage.from_url(storage_url()).get_bytes(f"jobs/{job.submission_id}/result.json"))
        store = context["task_state_store"]
        # A task that is cleared after its success was asked to do the work again.
        store.set(_EPOCH, int(store.get(_EPOCH, 0)) + 1, retention=NEVER_EXPIRE)
        return result


def _jobs() -> RayJobs:
    return RayJobs(setting("TAXIWAY_RAY_URL", "address of the Ray dashboard"))


def _runtime_env() -> dict[str, Any]:
    """Return the runtime_env that brings `ray_jobs` and `operators.core` to a cluster that does not have them."""
    text = os.environ.get("TAXIWAY_RAY_RUNTIME_ENV", "{}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"TAXIWAY_RAY_RUNTIME_ENV is not JSON: {error}") from None
    return dict(found)
