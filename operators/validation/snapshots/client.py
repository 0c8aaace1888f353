"""Validate a snapshot: check its tables, build the dataset from what passed, check that, and keep a report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from operators.core.dataset import Dataset, Snapshot, fetch
from operators.core.duck import content, open_duckdb
from operators.core.errors import ConfigurationError, RejectedError
from operators.core.explain_error import suggestion
from operators.core.storage import Storage
from operators.validation.data import open_files
from operators.validation.examination import Examination, Examined
from operators.validation.gx_context import Engine
from operators.validation.interruptible import InterruptibleDuckDB
from operators.validation.policy import Finding
from operators.validation.report import Quarantined, ValidationReport, verdict
from operators.validation.suites import Suites
from operators.validation.validation import keep_docs

DATASET = "dataset"
_RESULT_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 20}


def validate(
    frozen: Snapshot,
    suites: Suites,
    *,
    storage: Storage,
    prefix: str,
    build: Callable[[Mapping[str, Path]], Dataset],
    parameters: Mapping[str, float] | None = None,
) -> ValidationReport:
    """Check the raw tables. If they are good, build the dataset and check it, too.

    Suites may use ``{$PARAMETER: "window_hours * 3 * 0.9"}``; ``window_hours`` and ``window_days`` are always there.
    The report is kept as ``<prefix>/report.json`` and ``report.txt``, the Data Docs as ``<prefix>/docs/``, also if the data
    is refused.
    Where a suite allows it, bad rows are set aside as ``<prefix>/quarantine/<table>.parquet``, and the dataset is built
    without them.

    :param build: makes the dataset from the tables, given as local files
    :param parameters: more values for the suites
    :returns: the report. `require_passed` raises if the data is refused
    :raises ConfigurationError: the suites name a table that the snapshot does not have
    """
    _require_known_tables(suites, frozen)
    values = {"window_hours": frozen.window.hours, "window_days": frozen.window.hours / 24, **(parameters or {})}
    with tempfile.TemporaryDirectory(prefix="taxiway-validation-") as name:
        folder = Path(name)
        run = _Run(folder, suites, storage, prefix, values)
        paths = fetch(frozen, storage, folder / "tables")
        for table in (t for t in suites.tables if t != DATASET):
            paths[table] = run.check(table, paths[table], frozen.tables[table].gaps)
        dataset = None
        if verdict(run.findings, complete=True):
            try:
                dataset = build(paths)
            except (ConfigurationError, RejectedError) as error:
                run.findings.append(_unbuilt(error))
        if dataset is not None and DATASET in suites.tables:
            dataset = run.check_dataset(dataset)
        docs_url = keep_docs(run.engine, storage, prefix)
    passed = verdict(run.findings, complete=dataset is not None)
    report = ValidationReport(
        passed=passed,
        findings=tuple(run.findings),
        dataset=dataset if passed else None,
        docs_url=docs_url,
        quarantined=run.quarantined,
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
                f"{suites.path}: the snapshot has no table {table!r}; {suggestion(table, [*frozen.tables, DATASET])}"
            )


def _unbuilt(error: Exception) -> Finding:
    return Finding(
        table=DATASET,
        column=None,
        expectation="the query that builds the dataset runs on the tables",
        severity="critical",
        ok=False,
        detail=" ".join(str(error).split())[:300],
    )


class _Run:
    """One validation: its findings so far, and the rows that were set aside."""

    def __init__(
        self, folder: Path, suites: Suites, storage: Storage, prefix: str, parameters: Mapping[str, float]
    ) -> None:
        self.engine = Engine()
        self.findings: list[Finding] = []
        self.quarantined: dict[str, Quarantined] = {}
        self._folder, self._suites, self._storage, self._prefix = folder, suites, storage, prefix
        self._parameters = parameters

    def check(self, table: str, path: Path, gaps: Mapping[str, tuple[str, ...]]) -> Path:
        """Check one table. Return the file to build the dataset from: the table, or its good rows."""
        folder = self._folder / "split" / table
        folder.mkdir(parents=True)
        with open_duckdb(folder, path.parent) as db:
            data = open_files(InterruptibleDuckDB(db), table, [path])
            examination = Examination(self.engine, folder, self._parameters, _RESULT_FORMAT)
            examined = examination.run(table, data, self._suites.tables[table], gaps=gaps)
        self.findings += examined.findings
        return self._keep(table, examined) or path

    def check_dataset(self, dataset: Dataset) -> Dataset:
        """Check the dataset. Return it, or the dataset of its good rows."""
        path = self._storage.download(dataset.key, self._folder / "dataset.parquet")
        good = self.check(DATASET, path, {})
        if good == path:
            return dataset
        with open_duckdb(self._folder) as db:
            columns, rows, digest = content(db, good)
        key = f"{dataset.key.rsplit('/', 2)[0]}/{digest}/dataset.parquet"
        self._storage.upload(good, key, if_absent=True)
        return Dataset(key=key, uri=self._storage.url(key), digest=digest, rows=rows, columns=columns)

    def _keep(self, table: str, examined: Examined) -> Path | None:
        """Upload the rows that were set aside, and return the file of the others; None if none was set aside."""
        if examined.split is None:
            return None
        key = f"{self._prefix}/quarantine/{table}.parquet"
        self._storage.upload(examined.split.bad, key)
        self.quarantined[table] = Quarantined(
            uri=self._storage.url(key), rows=examined.split.rows, of_rows=examined.outcome.rows
        )
        return examined.split.good
