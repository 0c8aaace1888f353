"""Great Expectations: run suites in memory, keep the results as Data Docs and as a short table."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from operators.core.dataset import Dataset, Snapshot, fetch
from operators.core.errors import ConfigurationError, RejectedError
from operators.core.storage import Storage
from operators.validation.policy import (
    Expectation,
    Finding,
    ValidationReport,
    column_findings,
    finding,
    runnable,
    verdict,
)
from operators.validation.suites import Suites, hint, import_gx

DATASET = "dataset"
_RESULT_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 20}
_SITE = {
    "class_name": "SiteBuilder",
    "show_how_to_buttons": False,
    "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
}


def validate(
    frozen: Snapshot,
    suites: Suites,
    *,
    storage: Storage,
    prefix: str,
    build: Callable[[Mapping[str, Path]], Dataset],
    parameters: Mapping[str, float] | None = None,
) -> ValidationReport:
    """Check the raw tables; if they are good, build the dataset and check that too.

    Suites may use ``{$PARAMETER: "window_hours * 3 * 0.9"}``; ``window_hours`` and ``window_days`` are always there.
    The report is kept as ``<prefix>/report.json`` and ``report.txt``, Data Docs as ``<prefix>/docs/``, also when it is bad.

    :param build: makes the dataset from the downloaded tables
    :param parameters: more values for the suites
    :returns: the report. `require_passed` raises if the data is refused
    :raises ConfigurationError: the suites name a table that the snapshot does not have
    """
    _require_known_tables(suites, frozen)
    values = {"window_hours": frozen.window.hours, "window_days": frozen.window.hours / 24, **(parameters or {})}
    with tempfile.TemporaryDirectory(prefix="taxiway-validation-") as name:
        folder = Path(name)
        run = _Run(folder / "docs", values)
        paths = fetch(frozen, storage, folder / "tables")
        found: list[Finding] = []
        for table, expectations in suites.tables.items():
            if table != DATASET:
                found += run.check(
                    table, expectations, paths[table], frozen.tables[table].columns, frozen.tables[table].gaps
                )
        dataset = None
        if verdict(found, complete=True):
            try:
                dataset = build(paths)
            except (ConfigurationError, RejectedError) as error:
                found.append(_unbuilt(error))
        if dataset is not None and DATASET in suites.tables:
            path = storage.download(dataset.key, folder / "dataset.parquet")
            found += run.check(DATASET, suites.tables[DATASET], path, dataset.columns, {})
        run.write_docs()
        storage.upload_all(folder / "docs", f"{prefix}/docs", keep=_worth_keeping)
    passed = verdict(found, complete=dataset is not None)
    report = ValidationReport(
        passed=passed,
        findings=tuple(found),
        dataset=dataset if passed else None,
        docs_url=storage.url(f"{prefix}/docs/index.html"),
    )
    storage.put_bytes(f"{prefix}/report.json", report.model_dump_json(indent=1).encode())
    storage.put_bytes(f"{prefix}/report.txt", (report.text() + "\n").encode())
    return report


def require_passed(report: ValidationReport) -> Dataset:
    """Return the dataset of a good report.

    :raises RejectedError: the data is refused; the message has the table
    """
    if not report.passed or report.dataset is None:
        raise RejectedError(f"{report.text()}\nData Docs: {report.docs_url}")
    return report.dataset


def _require_known_tables(suites: Suites, frozen: Snapshot) -> None:
    for table in suites.tables:
        if table != DATASET and table not in frozen.tables:
            raise ConfigurationError(
                f"{suites.path}: there is no table {table!r}; {hint(table, [*frozen.tables, DATASET])}"
            )


def _unbuilt(error: Exception) -> Finding:
    return Finding(
        table=DATASET,
        column=None,
        expectation="the model's query runs on the tables",
        severity="critical",
        ok=False,
        detail=" ".join(str(error).split())[:300],
    )


def _worth_keeping(name: str) -> bool:
    """Leave out 3.5 MB of tutorial animations and fonts that every site would carry."""
    return not name.endswith((".gif", ".otf", "iterative-dev-loop.png"))


class _Run:
    """One context in memory. It lives as long as one validation and leaves nothing but the Data Docs."""

    def __init__(self, docs: Path, parameters: Mapping[str, float]) -> None:
        gx = import_gx()
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self._parameters = dict(parameters)
        self._context = gx.get_context(mode="ephemeral")
        self._context.enable_analytics(False)
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
        for site in self._context.get_site_names():
            self._context.delete_data_docs_site(site)
        backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}
        self._context.add_data_docs_site("taxiway", {**_SITE, "store_backend": backend})
        self._source = self._context.data_sources.add_pandas("snapshot")

    def check(
        self,
        table: str,
        expectations: tuple[Expectation, ...],
        path: Path,
        columns: Mapping[str, str],
        gaps: Mapping[str, tuple[str, ...]],
    ) -> list[Finding]:
        """Check one table."""
        found = column_findings(table, expectations, list(columns), gaps)
        explained = {f.column for f in found}
        run = runnable(expectations, columns)
        rows, results = self._results(table, run, [f.column for f in found if f.column not in columns], path)
        for expectation, result in zip(run, results, strict=True):
            if expectation.is_column_list and explained and not result["success"]:
                continue  # said in better words by column_findings
            kind = columns.get(expectation.columns[0]) if len(expectation.columns) == 1 else None
            found.append(finding(table, expectation, result, rows, kind))
        return found

    def _results(
        self, table: str, expectations: list[Expectation], missing: list[str | None], path: Path
    ) -> tuple[int, list[dict[str, Any]]]:
        import pandas as pd
        from great_expectations import ExpectationSuite, ValidationDefinition
        from great_expectations.expectations import ExpectColumnToExist
        from great_expectations.expectations.registry import get_expectation_impl

        frame = pd.read_parquet(path)
        # Not suite.add_expectation_configuration: it keeps one expectation of a type and column and drops the others.
        checks = [
            get_expectation_impl(e.type)(**e.kwargs, severity=e.severity, meta={"number": number, "notes": e.notes})
            for number, e in enumerate(expectations)
        ]
        # So that Data Docs show the missing columns too.
        checks += [ExpectColumnToExist(column=column, meta={"number": -1}) for column in missing]
        suite = ExpectationSuite(name=table, expectations=checks)
        batch = self._source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("window")
        definition = ValidationDefinition(name=table, data=batch, suite=self._context.suites.add(suite))
        outcome = self._context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": frame},
            expectation_parameters=self._parameters,
            result_format=_RESULT_FORMAT,
        )
        by_number = {}
        for result in outcome.results:  # Great Expectations orders them by column
            plain = result.to_json_dict()
            by_number[plain["expectation_config"]["meta"]["number"]] = plain
        return len(frame), [by_number[number] for number in range(len(expectations))]

    def write_docs(self) -> None:
        """Write the static site."""
        self._context.build_data_docs()
