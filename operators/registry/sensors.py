"""Wait for a version or an alias in MLflow's registry."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import aclosing, closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue, conf
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from operators.core.errors import ConfigurationError, RejectedError, ServiceError, ServiceRefusedError
from operators.registry.triggers import ModelVersionTrigger

if TYPE_CHECKING:
    from operators.registry.client import Registry
    from operators.registry.lookup import Wanted


class RegistrySensor(BaseSensorOperator):
    """Base of the sensors that wait for a version.

    What the registry holds at the first check is kept for the run, so neither a retry nor a restart forgets it.

    :param model: name of the registered model (templated)
    :param tags: tags that the version must have (templated)
    :param mlflow_conn_id: Airflow connection of type ``mlflow``; `MlflowHook` says what happens without one
        (templated)
    :param deferrable: wait in the triggerer, without a worker slot. Default: ``[operators] default_deferrable``
    :returns: ``model``, ``version``, ``run_id``, ``uri``, ``tags``, ``aliases``
    """

    template_fields: Sequence[str] = ("model", "tags", "mlflow_conn_id")

    def __init__(
        self,
        *,
        model: str,
        tags: Mapping[str, str] | None = None,
        mlflow_conn_id: str | None = "mlflow_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.tags = tags or {}
        self.mlflow_conn_id = mlflow_conn_id
        self.deferrable = deferrable

    @abstractmethod
    def baseline(self, registry: Registry) -> str:
        """Return what the wait compares with: what is there at the first check, or what the DAG names."""

    @abstractmethod
    def wanted(self, baseline: str) -> dict[str, Any]:
        """Return the conditions of `Wanted` on the version, beside ``model`` and ``tags``.

        :param baseline: what `baseline` returned at the first check
        """

    def execute(self, context: Any) -> Any:
        """Check once; then wait here or in the triggerer."""
        if not self.deferrable:
            return super().execute(context)
        if (result := self.poke(context)).is_done:
            return result.xcom_value
        trigger = ModelVersionTrigger(
            wanted=self._wanted(context).model_dump(), poll_s=self.poke_interval, mlflow_conn_id=self.mlflow_conn_id
        )
        self.defer(trigger=trigger, method_name="resume", timeout=timedelta(seconds=self.timeout))

    def resume(self, context: Any, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the version that the trigger waited for."""
        self.log.info("version %s of %s meets the conditions", event["version"], self.model)
        return dict(event)

    def poke(self, context: Any) -> PokeReturnValue:
        """Check once. If MLflow does not answer, the wait goes on until the sensor's ``timeout``."""
        from operators.registry.aclient import AsyncRegistry
        from operators.registry.hook import MlflowHook
        from operators.registry.lookup import look

        async def once() -> dict[str, Any] | None:
            async with aclosing(AsyncRegistry(server)) as registry:
                return await look(registry, wanted)

        try:
            server = MlflowHook(self.mlflow_conn_id).server()
            wanted = self._wanted(context)
            version = asyncio.run(once())
        except ServiceError as error:
            self.log.warning("%s", error)
            version = None
        except (ConfigurationError, RejectedError, ServiceRefusedError) as error:
            raise AirflowFailException(str(error)) from error
        return PokeReturnValue(is_done=version is not None, xcom_value=version)

    def _wanted(self, context: Any) -> Wanted:
        from operators.registry.hook import MlflowHook
        from operators.registry.lookup import Wanted

        store = context["task_state_store"]
        baseline = store.get("baseline")
        if baseline is None:
            with closing(MlflowHook(self.mlflow_conn_id).get_conn()) as registry:
                baseline = self.baseline(registry)
            store.set("baseline", baseline, retention=NEVER_EXPIRE)
        return Wanted(model=self.model, tags=dict(self.tags), **self.wanted(str(baseline)))


class ModelVersionSensor(RegistrySensor):
    """Wait for a version that is newer than another.

    :param newer_than: number of the version to exceed, e.g. ``7``, or ``@champion`` for the version that an alias
        names when the wait begins; if the alias is not set, every version is newer. None: the newest version when the
        wait begins (templated)
    :returns: ``model``, ``version``, ``run_id``, ``uri``, ``tags``, ``aliases``
    :raises AirflowFailException: ``newer_than`` is neither a version nor an alias
    """

    template_fields: Sequence[str] = (*RegistrySensor.template_fields, "newer_than")

    def __init__(self, *, newer_than: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.newer_than = newer_than

    def baseline(self, registry: Registry) -> str:
        """Return the number to exceed."""
        if self.newer_than is None:
            versions = registry.versions(self.model)
            return versions[0].version if versions else "0"
        named = str(self.newer_than)
        if named.startswith("@"):
            holder = registry.alias(self.model, named[1:])
            return holder.version if holder else "0"
        if not named.isdigit():
            raise ConfigurationError(f"newer_than is {named!r}; write a version, e.g. 7, or an alias, e.g. @champion")
        return named

    def wanted(self, baseline: str) -> dict[str, Any]:
        """Wait for a higher number."""
        return {"above": int(baseline)}


class ModelAliasSensor(RegistrySensor):
    """Wait until an alias names a version.

    :param alias: name of the alias (templated)
    :param version: number of the version that the alias must name. None: any (templated)
    :param moved: whether the alias must name another version than when the wait began
    :returns: ``model``, ``version``, ``run_id``, ``uri``, ``tags``, ``aliases``
    """

    template_fields: Sequence[str] = (*RegistrySensor.template_fields, "alias", "version")

    def __init__(self, *, alias: str, version: str | None = None, moved: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alias = alias
        self.version = version
        self.moved = moved

    def baseline(self, registry: Registry) -> str:
        """Return the version that the alias names now; empty if it must not have moved, or names none."""
        holder = registry.alias(self.model, self.alias) if self.moved else None
        return holder.version if holder else ""

    def wanted(self, baseline: str) -> dict[str, Any]:
        """Wait for the alias to name the version, or another one than at the first check."""
        version = None if self.version is None else str(self.version)
        return {"alias": self.alias, "version": version, "unlike": baseline or None}
