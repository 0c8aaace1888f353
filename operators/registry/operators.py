"""Register, alias, tag and compare versions in MLflow's registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperator, conf
from airflow.sdk.exceptions import AirflowFailException

from operators.core.errors import ConfigurationError, RejectedError, ServiceRefusedError
from operators.core.spec import ModelSpec
from operators.registry.assets import CHALLENGER, model_asset
from operators.registry.links import ModelVersionLink
from operators.registry.policy import Direction, compare, displaces, event_extra, links

if TYPE_CHECKING:
    from operators.registry.client import ModelVersion, Registry

_DEFAULT_CONNECTION = "mlflow_default"


class RegistryOperator(BaseOperator):
    """Base of the operators that talk to MLflow's registry.

    :param model: name of the registered model (templated)
    :param mlflow_conn_id: Airflow connection of type ``mlflow``; `MlflowHook` says what happens without one
        (templated)
    """

    template_fields: Sequence[str] = ("model", "mlflow_conn_id")
    operator_extra_links = (ModelVersionLink(),)
    ui_color = "#e8f2fb"

    def __init__(self, *, model: str, mlflow_conn_id: str | None = _DEFAULT_CONNECTION, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.mlflow_conn_id = mlflow_conn_id
        self.version_url = ""

    def execute(self, context: Any) -> Any:
        """Connect, then call `work`. An error that a retry cannot mend fails the task at once, without retries."""
        from operators.registry.hook import MlflowHook

        try:
            with closing(MlflowHook(self.mlflow_conn_id).get_conn()) as registry:
                return self.work(registry, context)
        except (ConfigurationError, RejectedError, ServiceRefusedError) as error:
            raise AirflowFailException(str(error)) from error

    @abstractmethod
    def work(self, registry: Registry, context: Any) -> Any:
        """Do what the subclass is for.

        :returns: the task's XCom
        """

    def show(self, registry: Registry, version: ModelVersion) -> None:
        """Link the version to the task instance."""
        self.version_url = registry.server.page(version.model, version.version)


class RegisterModelOperator(RegistryOperator):
    """Register a logged model as a version, record where it comes from, set aliases, and emit its asset event.

    A version is registered once for each ``key``, however often the task runs. Its tags are ``taxiway.data_digest``,
    ``.code_commit``, ``.dag_id``, ``.dag_run``, ``.dag_run_url``, ``.validation``, ``.validation_checks``,
    ``.validation_warnings`` and ``.validation_url``; what is not known is ``unknown``.

    The event of each outlet has ``model``, ``version``, ``run_id``, ``uri``, ``metrics`` (of the run, at most 50),
    ``aliases`` and ``data_digest``.

    :param model_uri: the logged model: ``models:/<id>`` or ``runs:/<run>/<name>``; a version of another registered
        model: ``models:/<model>/<version>`` or ``models:/<model>@<alias>``; or the address of the artifacts
        (templated)
    :param run_id: id of the MLflow run that produced the model (templated)
    :param aliases: aliases to set. An alias stays where it is if its version was trained on a newer window
        (templated)
    :param tags: tags of the version; they override the tags above (templated)
    :param data_digest: digest of the training data. Default: the run's tag ``taxiway.data_digest`` (templated)
    :param code_commit: commit of the training code. Default: the run's tag ``mlflow.source.git.commit`` (templated)
    :param validation: report of the data's validation, a dict with ``passed``, ``checks``, ``failures`` and
        ``docs_url`` (templated)
    :param key: text for which the version is registered once. Default: the run's id and ``model_uri`` (templated)
    :param emit: whether the asset of the model is an outlet. With a templated ``model`` it is not; then give your own
        ``outlets``
    :param outlets: more assets that get the event
    :returns: ``model``, ``version``, ``run_id``, ``uri``, ``aliases``
    :raises AirflowFailException: MLflow refuses it; a retry cannot help
    """

    template_fields: Sequence[str] = (
        *RegistryOperator.template_fields,
        "model_uri",
        "run_id",
        "aliases",
        "tags",
        "data_digest",
        "code_commit",
        "validation",
        "key",
    )
    template_fields_renderers: Mapping[str, str] = {"tags": "json", "validation": "json"}

    def __init__(
        self,
        *,
        model: str,
        model_uri: str,
        run_id: str = "",
        aliases: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        data_digest: str | None = None,
        code_commit: str | None = None,
        validation: Any = None,
        key: str | None = None,
        emit: bool = True,
        outlets: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        own = [model_asset(model)] if emit and "{{" not in model else []
        super().__init__(model=model, outlets=[*outlets, *own], **kwargs)
        self.model_uri = model_uri
        self.run_id = run_id
        self.aliases = aliases
        self.tags = tags or {}
        self.data_digest = data_digest
        self.code_commit = code_commit
        self.validation = validation
        self.key = key

    def work(self, registry: Registry, context: Any) -> dict[str, Any]:
        """Register the version once, set its aliases, and emit the event."""
        metrics, run_tags = registry.run(self.run_id) if self.run_id else ({}, {})
        tags = {**self._links(context, run_tags), **self.tags}
        key = self.key or f"{self.run_id}/{self.model_uri}"
        version = registry.register(self.model, self.model_uri, self.run_id, key=key, tags=tags)
        moved = tuple(alias for alias in self.aliases if self._point(registry, alias, version))
        self.show(registry, version)
        fields = {"model": self.model, "version": version.version, "run_id": version.run_id, "uri": version.uri}
        self._emit(context, event_extra(fields, metrics=metrics, aliases=moved, tags=version.tags))
        self.log.info("version %s of %s; aliases: %s", version.version, self.model, ", ".join(moved) or "none")
        return {**fields, "aliases": list(moved)}

    def _links(self, context: Any, run_tags: Mapping[str, str]) -> dict[str, str]:
        ti = context["ti"]
        base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
        return links(
            data_digest=self.data_digest or run_tags.get("taxiway.data_digest"),
            code_commit=self.code_commit or run_tags.get("mlflow.source.git.commit"),
            dag_id=ti.dag_id,
            dag_run=ti.run_id,
            dag_run_url=f"{base}/dags/{ti.dag_id}/runs/{quote(ti.run_id)}" if base else None,
            validation=self.validation,
        )

    def _point(self, registry: Registry, alias: str, version: ModelVersion) -> bool:
        """Move an alias, unless the version that has it was trained on a newer window."""
        holder = registry.alias(self.model, alias)
        if holder is not None and not displaces(holder.tags, version.tags):
            self.log.info("%s stays with version %s, which was trained on a newer window", alias, holder.version)
            return False
        registry.set_alias(self.model, alias, version.version)
        return True

    def _emit(self, context: Any, extra: dict[str, Any]) -> None:
        from airflow.sdk.lineage import get_hook_lineage_collector

        from operators.registry.hook import MlflowHook

        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = extra
        asset = model_asset(self.model)
        get_hook_lineage_collector().add_output_asset(
            context=MlflowHook(self.mlflow_conn_id), name=asset.name, uri=asset.uri, group=asset.group
        )


class RegisterOperator(RegisterModelOperator):
    """Register what the training job of a spec returned, and set the alias ``challenger``.

    :param spec: spec of the model; it is kept as a tag of the version
    :param trained: what the training job returned: ``model_uri`` and ``run_id`` (templated)
    :returns: as `RegisterModelOperator`
    """

    template_fields: Sequence[str] = (*RegisterModelOperator.template_fields, "trained")

    def __init__(self, *, spec: ModelSpec, trained: Any, **kwargs: Any) -> None:
        super().__init__(model=spec.name, model_uri="", aliases=[CHALLENGER], mlflow_conn_id=None, **kwargs)
        self.spec = spec
        self.trained = trained

    def work(self, registry: Registry, context: Any) -> dict[str, Any]:
        """Register once for each training run."""
        self.model_uri, self.run_id = self.trained["model_uri"], self.trained["run_id"]
        self.tags = {**self.tags, "taxiway.spec": self.spec.to_json()}
        return super().work(registry, context)


class SetAliasOperator(RegistryOperator):
    """Point an alias at a version. To do it again changes nothing.

    :param alias: name of the alias (templated)
    :param version: number of the version, e.g. ``7``, or ``@challenger`` for the version that another alias names
        (templated)
    :returns: ``version`` and ``previous``, the version before (None if the alias is new)
    :raises AirflowFailException: there is no such version
    """

    template_fields: Sequence[str] = (*RegistryOperator.template_fields, "alias", "version")

    def __init__(self, *, alias: str, version: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alias = alias
        self.version = version

    def work(self, registry: Registry, context: Any) -> dict[str, Any]:
        """Move the alias, and remember which version had it."""
        version = registry.find(self.model, str(self.version))
        holder = registry.alias(self.model, self.alias)
        registry.set_alias(self.model, self.alias, version.version)
        self.show(registry, version)
        return {"version": version.version, "previous": holder.version if holder else None}


class DeleteAliasOperator(RegistryOperator):
    """Remove an alias. If there is no such alias, the task succeeds.

    :param alias: name of the alias (templated)
    :returns: whether the alias existed
    """

    template_fields: Sequence[str] = (*RegistryOperator.template_fields, "alias")

    def __init__(self, *, alias: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alias = alias

    def work(self, registry: Registry, context: Any) -> bool:
        """Remove the alias, if it exists."""
        return registry.drop_alias(self.model, self.alias)


class TagVersionOperator(RegistryOperator):
    """Set or remove tags of a version.

    :param version: number of the version, e.g. ``7``, or ``@champion`` for the version that an alias names
        (templated)
    :param tags: tags to set. The value None removes the tag (templated)
    :returns: ``version``
    :raises AirflowFailException: there is no such version
    """

    template_fields: Sequence[str] = (*RegistryOperator.template_fields, "version", "tags")

    def __init__(self, *, version: str, tags: Mapping[str, str | None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.tags = tags

    def work(self, registry: Registry, context: Any) -> dict[str, str]:
        """Set and remove the tags of the version."""
        version = registry.find(self.model, str(self.version))
        for key, value in self.tags.items():
            if value is None:
                registry.untag(self.model, version.version, key)
            else:
                registry.tag(self.model, version.version, key, str(value))
        self.show(registry, version)
        return {"version": version.version}


class CompareVersionsOperator(RegistryOperator):
    """Compare the metrics of two versions' runs, and log a table.

    :param metrics: which way each metric is better: ``{"log_loss": "lower", "roc_auc": "higher"}`` (templated)
    :param baseline: number or alias of the version to compare with, e.g. ``6`` or ``@champion``. An alias may be
        unset yet (templated)
    :param candidate: number or alias of the new version, e.g. ``7`` or ``@challenger`` (templated)
    :param tolerances: by metric, the difference that still counts as the same, in the metric's unit. Default 0
        (templated)
    :param fail_if_worse: fail the task if a metric is worse or, where there is a baseline, missing in one of the two
    :returns: ``model``, ``baseline``, ``candidate`` and ``rows``: a list with ``metric``, ``direction``,
        ``baseline``, ``candidate``, ``difference`` (candidate minus baseline) and ``verdict`` (better, same, worse,
        unknown)
    :raises AirflowFailException: a metric is worse, or there is no candidate
    """

    template_fields: Sequence[str] = (
        *RegistryOperator.template_fields,
        "metrics",
        "baseline",
        "candidate",
        "tolerances",
    )

    def __init__(
        self,
        *,
        metrics: Mapping[str, Direction],
        baseline: str = "@champion",
        candidate: str = "@challenger",
        tolerances: Mapping[str, float] | None = None,
        fail_if_worse: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metrics = metrics
        self.baseline = baseline
        self.candidate = candidate
        self.tolerances = tolerances or {}
        self.fail_if_worse = fail_if_worse

    def work(self, registry: Registry, context: Any) -> dict[str, Any]:
        """Compare, log the table, and fail if a metric is worse and that is not allowed."""
        candidate = registry.find(self.model, str(self.candidate))
        baseline = self._baseline(registry)
        comparison = compare(
            self.model,
            baseline=baseline.version if baseline else None,
            candidate=candidate.version,
            before=registry.run(baseline.run_id)[0] if baseline else {},
            after=registry.run(candidate.run_id)[0],
            directions=self.metrics,
            tolerances={metric: float(value) for metric, value in self.tolerances.items()},
        )
        self.show(registry, candidate)
        for line in comparison.text().splitlines():
            self.log.info("%s", line)
        if self.fail_if_worse and comparison.bad:
            bad = ", ".join(f"{row.metric} is {row.verdict}" for row in comparison.bad)
            raise RejectedError(
                f"version {candidate.version} of {self.model} is not as good as version {comparison.baseline}: {bad}"
            )
        return comparison.model_dump(mode="json")

    def _baseline(self, registry: Registry) -> ModelVersion | None:
        """Return the baseline. An alias may not be set yet: then there is none. A number must exist."""
        named = str(self.baseline)
        return registry.alias(self.model, named[1:]) if named.startswith("@") else registry.find(self.model, named)
