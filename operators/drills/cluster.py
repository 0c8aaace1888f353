"""What a drill does on the cluster: `ray_jobs.drill`, started as a Ray job under ids of our choice.

The processes that a drill kills are on some node of the cluster, not where Airflow runs.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Literal

from operators.compute.hook import RayHook
from operators.core.errors import ServiceError
from operators.core.ledger_entry import json_digest
from operators.core.settings import storage_url
from operators.core.storage import Storage
from operators.drills.record import Drill

Deed = Literal["log_faulty", "kill_agent", "kill_replicas"]
_DEEDS: tuple[Deed, ...] = ("log_faulty", "kill_agent", "kill_replicas")
_POLL_S = 0.25
_JOB_S = 180.0


class Cluster:
    """The faults of one drill on the cluster, each caused once."""

    def __init__(self, drill: Drill) -> None:
        self._id = json_digest(drill.drill_id)[:16]
        self._jobs = RayHook(None).get_conn()
        self._storage = Storage(storage_url())

    def start(self, deed: Deed, **given: Any) -> None:
        """Start the job; if it has started already, this changes nothing."""
        key = self._key(deed)
        self._storage.put_bytes(f"{key}/input.json", json.dumps({"do": deed, **given}).encode())
        # Brings `ray_jobs` to a cluster that does not have it.
        runtime_env = json.loads(os.environ.get("TAXIWAY_RAY_RUNTIME_ENV", "{}"))
        self._jobs.submit(self._job(deed), f"python -m ray_jobs.drill {key}", runtime_env=runtime_env)

    def struck_at(self, deed: Deed) -> float | None:
        """Return when the first process was killed, in unix seconds; None: not yet.

        :raises ServiceError: the job has ended without killing one
        """
        key = f"{self._key(deed)}/fault.json"
        over = self._over(deed)
        if not self._storage.exists(key):
            if over:
                raise ServiceError(f"{deed} has killed nothing: {over}")
            return None
        return float(json.loads(self._storage.get_bytes(key))["at"])

    def result(self, deed: Deed) -> dict[str, Any]:
        """Wait for the end of a job, and return its result.

        :raises ServiceError: it failed, or takes too long
        """
        key, end = f"{self._key(deed)}/result.json", time.monotonic() + _JOB_S
        while time.monotonic() < end:
            over = self._over(deed)
            if self._storage.exists(key):
                return dict(json.loads(self._storage.get_bytes(key)))
            if over:
                raise ServiceError(f"{deed} failed: {over}")
            time.sleep(_POLL_S)
        raise ServiceError(f"{deed} has not ended within {_JOB_S:.0f} s; see job {self._job(deed)} in Ray's dashboard")

    def stop(self) -> None:
        """Stop the jobs that are under way."""
        for deed in _DEEDS:
            self._jobs.stop(self._job(deed))

    def _over(self, deed: Deed) -> str:
        """Return how a job has ended, in words; empty: it is under way."""
        job = self._jobs.get(self._job(deed))
        if job is None:
            return f"Ray has lost job {self._job(deed)}"
        return f"job {job.submission_id} {job.status}: {job.message or ''}" if job.is_over else ""

    def _job(self, deed: Deed) -> str:
        return f"tw-drill-{deed.replace('_', '-')}-{self._id}"

    def _key(self, deed: Deed) -> str:
        return f"jobs/{self._job(deed)}"
