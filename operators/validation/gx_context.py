"""Run an expectation suite: on DuckDB where Great Expectations' SQL gives the same answer as pandas, on pandas otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.core.duck import name_sql
from operators.validation.data import ROW, Data
from operators.validation.database import Database
from operators.validation.dialect import duckdb_engine
from operators.validation.sql_or_pandas import (
    SQL_ONLY,
    SUMS,
    columns_of,
    columns_without_nulls,
    condition_columns,
    patterns_of,
    text_that_differs,
    why_pandas,
)
from operators.validation.suites import import_gx

_NUMBER = "taxiway_number"

log = logging.getLogger(__name__)

_SITE = {
    "class_name": "SiteBuilder",
    "show_how_to_buttons": False,
    "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
}


@dataclass(frozen=True)
class Outcome:
    """Great Expectations' result for one table.

    :param result: an `ExpectationSuiteValidationResult`, with the results in the order of the expectations
    :param on_pandas: number of the expectation → why pandas checked it
    """

    result: Any
    rows: int
    on_pandas: Mapping[int, str]


class Engine:
    """A context of Great Expectations in memory. Only `write_docs` writes files.

    :param context: another context to use
    """

    def __init__(self, context: Any = None) -> None:
        gx = import_gx()
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self._pages: list[tuple[Any, Any]] = []
        if context is not None:
            self._context = context
            return
        self._context = gx.get_context(mode="ephemeral")
        self._context.enable_analytics(False)
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False)

    @property
    def context(self) -> Any:
        """Great Expectations' context, for callers that make their expectations with it."""
        return self._context

    def check(
        self,
        data: Data,
        expectations: Sequence[Any],
        *,
        suite_name: str,
        result_format: Any = "SUMMARY",
        parameters: Mapping[str, Any] | None = None,
        on_pandas: bool = False,
    ) -> Outcome:
        """Check a table.

        :param expectations: Great Expectations' own objects
        :param parameters: values for ``{"$PARAMETER": …}`` in the expectations
        :param on_pandas: use DuckDB for nothing
        """
        numbered = [_numbered(e, number) for number, e in enumerate(expectations)]
        rows = data.rows()
        wanted = dict.fromkeys(range(len(numbered)), "the caller asked for pandas")
        reasons = wanted if on_pandas else self._on_pandas_because(data, numbered, rows)
        on_sql = [e for n, e in enumerate(numbered) if n not in reasons]
        results: dict[int, Any] = {}
        first = None
        if on_sql:
            first = self._on_duckdb(data, on_sql, suite_name, result_format, parameters)
            results = {r.expectation_config.meta[_NUMBER]: r for r in first.results}
            reasons |= {n: "SQL could not answer" for n, r in results.items() if _raised(r)}
        if reasons:
            left = [numbered[n] for n in reasons]
            second = self._on_pandas(data, left, suite_name, result_format, parameters)
            results |= {r.expectation_config.meta[_NUMBER]: r for r in second.results}
            first = first or second
        for number, why in reasons.items():
            log.info("%s: checked by pandas: %s", expectations[number].expectation_type, why)
        return Outcome(self._merged(first, suite_name, numbered, results), rows, reasons)

    def keep_page(self, outcome: Outcome, expectations: Sequence[Any]) -> None:
        """Add a page for the outcome to the Data Docs."""
        self._pages.append((outcome.result, [e.copy(update={"id": None}) for e in expectations]))

    def write_docs(self, folder: Path) -> None:
        """Write the Data Docs with the pages of `keep_page`."""
        from datetime import UTC, datetime

        from great_expectations import ExpectationSuite
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types.resource_identifiers import (
            ExpectationSuiteIdentifier,
            ValidationResultIdentifier,
        )

        for site in self._context.get_site_names():
            self._context.delete_data_docs_site(site)
        backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
        self._context.add_data_docs_site("taxiway", {**_SITE, "store_backend": backend})
        run = RunIdentifier(run_time=datetime.now(UTC))
        for result, expectations in self._pages:
            name = result.suite_name
            self._context.suites.add_or_update(ExpectationSuite(name=name, expectations=expectations))
            result.meta |= {"run_id": run, "validation_time": run.run_time}
            suite = ExpectationSuiteIdentifier(name=name)
            page = ValidationResultIdentifier(suite, run_id=run, batch_identifier=result.batch_id)
            self._context.validation_results_store.store_validation_results(result, page, suite)
        self._context.build_data_docs()

    def _on_pandas_because(self, data: Data, expectations: Sequence[Any], rows: int) -> dict[int, str]:
        """Return which expectations pandas must check, and why. One scan answers what depends on the data."""
        reasons: dict[int, str] = {}
        doubts: list[tuple[int, str, str]] = []
        for number, expectation in enumerate(expectations):
            kwargs, type_name = _arguments(expectation), expectation.expectation_type
            why = why_pandas(type_name, kwargs, data.kinds)
            if not why and not rows and type_name not in SQL_ONLY:
                why = "there are no rows"
            if unknown := [p for p in patterns_of(kwargs) if not self._compiles(data, p)]:
                why = why or f"DuckDB does not know the regular expression {unknown[0]!r}"
            if why:
                reasons[number] = why
            else:
                doubts += [(number, sql, reason) for sql, reason in _doubts(data, type_name, kwargs)]
        if doubts:
            asked = ", ".join(f"coalesce({sql}, false)" for _, sql, _ in doubts)
            answers = data.db.rows(f"SELECT {asked} FROM {name_sql(data.name)}")[0]  # noqa: S608 - names are quoted
            reasons |= {number: why for (number, _, why), yes in zip(doubts, answers, strict=True) if yes}
        return reasons

    @staticmethod
    def _compiles(data: Data, pattern: str) -> bool:
        import duckdb

        try:
            data.db.rows("SELECT regexp_matches('', ?)", [pattern])
        except duckdb.Error:
            return False
        return True

    def check_sql(
        self,
        database: Database,
        expectations: Sequence[Any],
        *,
        suite_name: str,
        result_format: Any = "SUMMARY",
        parameters: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Check a table or a query in its database; nothing is copied."""
        numbered = [_numbered(e, number) for number, e in enumerate(expectations)]
        result = self._on_database(database, numbered, suite_name, result_format, parameters)
        results = {r.expectation_config.meta[_NUMBER]: r for r in result.results}
        return Outcome(self._merged(result, suite_name, numbered, results), database.count(), {})

    def _on_duckdb(self, data: Data, expectations: Any, name: str, result_format: Any, parameters: Any) -> Any:
        here = Database(duckdb_engine(data.db), table=data.name)
        return self._on_database(here, expectations, name, result_format, parameters)

    def _on_database(self, where: Database, expectations: Any, name: str, result_format: Any, parameters: Any) -> Any:
        from operators.validation.sql_engine import data_source

        with data_source(self._context, name, where.engine, where.schema) as source:
            if where.query:
                asset = source.add_query_asset(name, query=where.query)
            else:
                asset = source.add_table_asset(name, table_name=where.table)
            batch = asset.add_batch_definition_whole_table("all rows")
            return check_batch(batch, expectations, name, result_format, parameters)

    def _on_pandas(self, data: Data, expectations: Any, name: str, result_format: Any, parameters: Any) -> Any:
        frame = data.frame(_columns(data, expectations))
        source = self._context.data_sources.add_or_update_pandas(f"{name} (pandas)")
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all rows")
        return check_batch(batch, expectations, name, result_format, parameters, {"dataframe": frame})

    def _merged(self, result: Any, name: str, expectations: Sequence[Any], results: Mapping[int, Any]) -> Any:
        """Return one result for the suite, made of the results of DuckDB and pandas."""
        from great_expectations.validator.validator import calc_validation_statistics

        result.results = [results[number] for number in range(len(expectations))]
        for one in result.results:
            del one.expectation_config.meta[_NUMBER]
        statistics = calc_validation_statistics(result.results)
        result.statistics = {key: value for key, value in statistics._asdict().items() if key != "success"}
        result.success, result.suite_name = statistics.success, name
        return result


def _doubts(data: Data, type_name: str, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield conditions on the data under which SQL and pandas differ, as SQL aggregates, each with the reason."""
    names = [name_sql(c) for c in columns_of(kwargs) if c in data.types]
    full = [name_sql(c) for c in columns_without_nulls(type_name, kwargs) if c in data.types]
    if full:
        nulls = " OR ".join(f"count({name}) < count(*)" for name in full)
        yield nulls, "there are NULLs: in pandas NULL equals NULL, in SQL it equals nothing"
    if type_name in SUMS:
        yield f"count({names[0]}) = 0", "there are no values: their sum is 0 in pandas and NULL in SQL"
    for pattern in patterns_of(kwargs) if names else ():
        if differs := text_that_differs(pattern, names[0]):
            yield (
                f"bool_or({differs})",
                f"on this column's text {pattern!r} may mean something else to DuckDB than to Python",
            )


def check_batch(
    batch: Any,
    expectations: Sequence[Any],
    name: str,
    result_format: Any,
    parameters: Any,
    batch_parameters: Any = None,
) -> Any:
    """Run expectations on a batch definition, and return Great Expectations' result.

    Without a ValidationDefinition, because that stores its result at once and fails if there is a NumPy bool in it.
    """
    from great_expectations import ExpectationSuite
    from great_expectations.validator.v1_validator import Validator

    validator = Validator(batch, result_format=result_format, batch_parameters=batch_parameters)
    suite = ExpectationSuite(name=name, expectations=[e.copy(update={"id": None}) for e in expectations])
    with _configurations_kept():
        result = validator.validate_expectation_suite(suite, parameters)
    for one in result.results:
        one.success = bool(one.success)
    result.success = bool(result.success)
    return result


@contextmanager
def _configurations_kept() -> Iterator[None]:
    """Let Great Expectations make each configuration once. It makes it a hundred times, which takes 0.2 s for a suite."""
    from great_expectations.expectations.expectation import Expectation

    made: dict[int, tuple[Any, Any]] = {}
    original = Expectation.configuration

    def kept(self: Any) -> Any:
        if id(self) not in made:
            made[id(self)] = self, original.fget(self)  # holding the expectation keeps its id from being used again
        again = copy(made[id(self)][1])
        again._kwargs = dict(again._kwargs)
        return again

    Expectation.configuration = property(kept)
    try:
        yield
    finally:
        Expectation.configuration = original


def _numbered(expectation: Any, number: int) -> Any:
    """Return a copy that belongs to no suite, with its number: Great Expectations does not keep the order of the results."""
    return expectation.copy(update={"id": None, "meta": {**(expectation.meta or {}), _NUMBER: number}})


def _arguments(expectation: Any) -> dict[str, Any]:
    """Return the arguments, with the condition on rows as a dict."""
    kwargs = dict(expectation.configuration.kwargs)
    condition: Any = getattr(expectation, "row_condition", None)
    return {**kwargs, "row_condition": condition.dict() if hasattr(condition, "dict") else condition}


def _columns(data: Data, expectations: Sequence[Any]) -> list[str] | None:
    """Return the columns that some expectations read; None: all."""
    names: dict[str, None] = {}
    for expectation in expectations:
        kwargs = _arguments(expectation)
        read, under = columns_of(kwargs), condition_columns(kwargs.get("row_condition"))
        if under is None or not read:
            return list(data.types) if ROW in data.types else None
        names.update(dict.fromkeys((*read, *under)))
    if ROW in data.types:
        names[ROW] = None
    return [name for name in names if name in data.types]


def _raised(result: Any) -> bool:
    info = result.exception_info or {}
    return any(c.get("raised_exception") for c in (info, *info.values()) if isinstance(c, Mapping))
