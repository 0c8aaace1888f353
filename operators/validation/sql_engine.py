"""Great Expectations' SQL engine, with few scans of the data. Imported on the worker only."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import sqlalchemy as sa
from great_expectations.core.id_dict import IDDict  # noqa: TID253 - a subclass needs its base; nothing that a DAG imports
from great_expectations.core.metric_function_types import MetricPartialFunctionTypeSuffixes  # noqa: TID253
from great_expectations.datasource.fluent import SQLDatasource  # noqa: TID253
from great_expectations.exceptions import MetricResolutionError  # noqa: TID253
from great_expectations.execution_engine import SqlAlchemyExecutionEngine  # noqa: TID253
from great_expectations.expectations.registry import get_metric_provider  # noqa: TID253

_PARTIAL = tuple(f".{suffix.value}" for suffix in MetricPartialFunctionTypeSuffixes)
_COUNT = ".unexpected_count"
# Metrics about the rows that break an expectation. They are not computed if no row does.
_SAMPLES = (".unexpected_values", ".unexpected_rows", ".unexpected_value_counts", ".unexpected_index_list")

_engines: dict[str, tuple[sa.Engine, str | None]] = {}


class FewScansExecutionEngine(SqlAlchemyExecutionEngine):
    """Build all expressions first, then compute all aggregates in one scan, then the rest, and samples last.

    Great Expectations itself computes whatever is ready, with one scan for each level, and samples before it knows whether there
    are any. It asks again for the metrics that a call did not resolve.
    """

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        self._unbroken: set[tuple[str, str, str]] = set()

    def resolve_metrics(
        self, metrics_to_resolve: Iterable[Any], metrics: Any = None, runtime_configuration: Any = None
    ) -> Any:
        """Resolve the metrics of the cheapest kind that is ready."""
        asked = list(metrics_to_resolve)
        if not asked:
            return metrics or {}
        ranks = {metric.id: self._rank(metric) for metric in asked}
        first = min(ranks.values())
        now = [metric for metric in asked if ranks[metric.id] == first]
        known: dict[Any, Any] = {
            metric.id: [] for metric in now if metric.metric_name.endswith(_SAMPLES) and _key(metric) in self._unbroken
        }
        resolved = {**known, **self._resolved([m for m in now if m.id not in known], metrics, runtime_configuration)}
        for metric in (m for m in now if m.metric_name.endswith(_COUNT) and m.id in resolved):
            resolved[metric.id] = resolved[metric.id] or 0  # the sum over no rows is NULL
            if not resolved[metric.id]:
                self._unbroken.add(_key(metric))
        return resolved

    def _resolved(self, wanted: list[Any], metrics: Any, runtime_configuration: Any) -> dict[Any, Any]:
        if not wanted:
            return {}
        try:
            return dict(super().resolve_metrics(wanted, metrics, runtime_configuration))
        except MetricResolutionError:
            if len(wanted) == 1:
                raise
            good = {}
            for metric in wanted:  # one that fails must not make the others fail, or be tried three times
                try:
                    good.update(super().resolve_metrics([metric], metrics, runtime_configuration))
                except MetricResolutionError:
                    continue
            if not good:
                raise
            return good

    def _rank(self, metric: Any) -> int:
        if metric.metric_name.endswith(_PARTIAL) or metric.metric_name.startswith("table.column"):
            return 0
        if metric.metric_name.endswith(_SAMPLES):
            return 4
        if get_metric_provider(metric.metric_name, self)[1] is not None:
            return 3
        # DuckDB counts distinct values three times as fast where they are the only aggregates of a query.
        return 2 if metric.metric_name == "column.distinct_values.count" else 1


def _key(metric: Any) -> tuple[str, str, str]:
    kwargs = {key: value for key, value in metric.metric_value_kwargs.items() if key != "result_format"}
    return metric.metric_name.rpartition(".")[0], metric.metric_domain_kwargs_id, IDDict(kwargs).to_id()


class EngineDatasource(SQLDatasource):
    """A data source for an engine that is open already, so that Great Expectations never sees a password."""

    type: Literal["taxiway_engine"] = "taxiway_engine"

    @property
    def execution_engine_type(self) -> Any:
        """Return the engine's class."""
        return FewScansExecutionEngine

    def get_engine(self) -> Any:
        """Return SQLAlchemy's engine."""
        return _engines[str(self.connection_string)][0]

    @property
    def schema_(self) -> str | None:
        """Return the schema of its tables."""
        return _engines[str(self.connection_string)][1]

    def get_execution_engine(self) -> Any:
        """Return an execution engine over it."""
        engine: Any = getattr(self, "_execution_engine", None)
        if engine is None:
            engine = self._execution_engine = FewScansExecutionEngine(engine=self.get_engine(), create_temp_table=False)
        return engine


@contextmanager
def data_source(context: Any, name: str, engine: sa.Engine, schema: str | None = None) -> Iterator[Any]:
    """Add a data source for an engine to a context, for the time of this block."""
    address = f"taxiway://{secrets.token_hex(8)}"
    _engines[address] = engine, schema
    try:
        yield context.data_sources.add_or_update_taxiway_engine(name, connection_string=address)
    finally:
        del _engines[address]
