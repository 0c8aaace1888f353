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
    """Run a Python function as a Ray job; the operator behind ``@task.ray``.

    The function, its arguments, its closure and the other functions of its module are pickled by Ray's cloudpickle
    and uploaded as a package, so the cluster needs nothing of Taxiway. In the function, ``ray.init()`` connects to
    the cluster. The return value is pickled, too: up to 32 KB travel through the job's log, more through ``storage``.

    :param python_callable: the function
    :param op_args: positional arguments of the function (templated)
    :param op_kwargs: keyword arguments of the function. Parameters that are named as in Airflow's context, e.g.
        ``ds``, are filled in (templated)
    :param storage: where large return values are kept: ``s3://bucket/prefix`` or ``file:///shared/path``. Worker and
        cluster must both reach it. Default: ``TAXIWAY_STORAGE_URL`` (templated)
    :param gpus: GPUs that the function's process reserves
    :param kwargs: arguments of `SubmitRayJobOperator`, except ``entrypoint`` and ``result_type``
    :returns: what the function returned
    :raises ConfigurationError: ``entrypoint`` or ``result_type`` is given
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
            raise ConfigurationError(
                f"@task.ray takes no {' and no '.join(sorted(refused))}: the function is both command and result"
            )
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
        """Return True: the return value of the function is the result, None included."""
        return True

    def job_result(self, job_id: str, ending: Ending) -> Any:
        """Return what the function returned."""
        from operators.compute.errors import RayResultError
        from operators.compute.packed_call import unpack

        if not ending.has_result:
            raise RayResultError(
                f"Ray job {job_id} succeeded, but its log has no return value; clear the task to run it again",
                submission_id=job_id,
            )
        return unpack(ending.result, job_id)

    def _call_kwargs(self, context: Any) -> dict[str, Any]:
        wanted = inspect.signature(self.python_callable).parameters
        filled = {name: context[name] for name in wanted if name in KNOWN_CONTEXT_KEYS and name in context}
        return {**filled, **self.op_kwargs}


def ray_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Turn a function into a task that runs on Ray: ``@task.ray``, or with arguments ``@task.ray(gpus=1, …)``.

    :param python_callable: the function to decorate
    :param kwargs: ``op_args``, ``op_kwargs``, ``storage``, ``gpus``, and the arguments of `SubmitRayJobOperator`
        except ``entrypoint`` and ``result_type``
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=RayDecoratedOperator, **kwargs
    )
