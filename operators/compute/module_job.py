"""Taxiway's own jobs: ``python -m ray_jobs.<name> <key>``, with input and result as JSON in object storage."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from operators.compute.job_wait import Ending
from operators.compute.operators import SubmitRayJobOperator
from operators.core.errors import ConfigurationError
from operators.core.settings import storage_url
from operators.core.spec import ModelSpec


class RayModuleOperator(SubmitRayJobOperator):
    """Run ``python -m <module> <key>`` on the Ray cluster, and return the JSON that it writes.

    The job reads ``<key>/input.json`` and writes ``<key>/result.json`` below the storage root, so that no large data
    passes through Airflow.

    :param module: Python module below ``ray_jobs``
    :param spec: spec of the model; the job gets it, too
    :param payload: what else the job reads from ``input.json``, as JSON types (templated)
    :param timeout: longest run time of the job; then it is stopped
    :param kwargs: arguments of `SubmitRayJobOperator`
    :returns: the content of ``result.json``
    """

    template_fields: Sequence[str] = ("payload",)

    def __init__(
        self, *, module: str, spec: ModelSpec, payload: Mapping[str, Any], timeout: timedelta, **kwargs: Any
    ) -> None:
        kwargs = {"ray_conn_id": None, "deferrable": True, **kwargs}
        super().__init__(entrypoint=f"python -m {module}", timeout=timeout, **kwargs)
        self.module = module
        self.spec = spec
        self.payload = payload

    def job_arguments(self, context: Any, job_id: str) -> dict[str, Any]:
        """Write the job's input, and add the folder of its files to the command."""
        from operators.core.storage import Storage

        given = {**self.payload, "spec": self.spec.to_json()}
        Storage(storage_url()).put_bytes(f"jobs/{job_id}/input.json", json.dumps(given).encode())
        self.runtime_env = _runtime_env()
        return {**super().job_arguments(context, job_id), "entrypoint": f"{self.entrypoint} jobs/{job_id}"}

    def job_result(self, job_id: str, ending: Ending) -> Any:
        """Read what the job wrote."""
        from operators.core.storage import Storage

        return json.loads(Storage(storage_url()).get_bytes(f"jobs/{job_id}/result.json"))


def _runtime_env() -> dict[str, Any]:
    """Return the runtime_env that brings `ray_jobs` and `operators.core` to a cluster that does not have them."""
    text = os.environ.get("TAXIWAY_RAY_RUNTIME_ENV", "{}")
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"TAXIWAY_RAY_RUNTIME_ENV must be a JSON object: {error}") from None
    return dict(values)
