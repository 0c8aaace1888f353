"""``@task.ray``: a plain Python function that runs on a Ray cluster."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from operators.compute.job_wait import Ending
from operators.compute.operators import SubmitRayJobOperator
from operators.core.errors import ConfigurationError


class RayDecoratedOperator(DecoratedOperator, SubmitRayJobOperator):
    """Run a Python function as a Ray job.

    The function and its arguments are pickled by Ray's cloudpickle, its closure and its own module's other functions
    included, and travel as one of Ray's packages; the cluster needs nothing of Taxiway. In the function ``ray.init()`` finds
    the cluster. What it returns is pickled, too: up to 32 KB through the job's log, more through ``storage``.

    :param python_callable: the function
    :param op_args: its positional arguments (templated)
    :param op_kwargs: its keyword arguments (templated). Names of Airflow's context, ``ds`` for example, are filled in
    :param storage: where large return values go, ``s3://bucket/prefix`` or ``file:///shared/path``; default:
        ``TAXIWAY_STORAGE_URL``. Worker and cluster both need to reach it (templated)
    :param gpus: GPUs of the function's process
    :param kwargs: whatever `SubmitRayJobOperator` takes, but for ``entrypoint`` and ``result_type``
    """

    custom_operator_name = "@task.ray"
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(field for field in SubmitRayJobOperator.template_fields if field != "entrypoint"),
        "storage",
    )
    template_fields_renderers: Mapping[str, str] = {
        **DecoratedOperator.template_fields_renderers,
        **SubmitRayJobOperator.template_fields_renderers,
    }

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        storage: str | None = None,
        gpus: float = 0,
        **kwargs: Any,
    ) -> None:
        if refused := {"entrypoint", "result_type"} & set(kwargs):
            raise ConfigurationError(f"@task.ray takes no {' and no '.join(sorted(refused))}: the function is both")
        kwargs.setdefault("entrypoint_num_gpus", gpus)
        super().__init__(
            python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, entrypoint="", gpus=gpus, **kwargs
        )
        self.storage = storage

    def job_arguments(self, context: Any, job_id: str) -> dict[str, Any]:
        """Upload the call, and name it as the job's command."""
        from operators.compute.packed_call import pack

        package, archive = pack(self.python_callable, list(self.op_args), self._call_kwargs(context))
        uri = f"gcs://_ray_pkg_{hashlib.sha256(archive).hexdigest()[:32]}.zip"
        self._jobs.upload(uri, archive)
        arguments = super().job_arguments(context, job_id)
        runtime_env = arguments["runtime_env"]
        runtime_env["py_modules"] = [*runtime_env.get("py_modules", []), uri]
        if storage := self.storage or os.environ.get("TAXIWAY_STORAGE_URL"):
            address = f"{storage.rstrip('/')}/calls/{job_id}/result.pkl"
            runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), "TAXIWAY_CALL_RESULT": address}
        return {**arguments, "entrypoint": f"python -m {package}"}

    @property
    def reports_result(self) -> bool:
        """Every function returns something."""
        return True

    def job_result(self, job_id: str, ending: Ending) -> Any:
        """Return what the function returned."""
        from operators.compute.errors import RayResultError
        from operators.compute.packed_call import unpack

        if not ending.has_result:
            raise RayResultError(f"Ray job {job_id} succeeded, but its log has no return value", submission_id=job_id)
        return unpack(ending.result, job_id)

    def _call_kwargs(self, context: Any) -> dict[str, Any]:
        wanted = inspect.signature(self.python_callable).parameters
        filled = {name: context[name] for name in wanted if name in KNOWN_CONTEXT_KEYS and name in context}
        return {**filled, **self.op_kwargs}


def ray_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Turn a function into a task that runs on Ray; used as ``@task.ray`` or ``@task.ray(gpus=1, …)``.

    :param python_callable: the function to decorate
    :param kwargs: see `RayDecoratedOperator`
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=RayDecoratedOperator, **kwargs
    )
