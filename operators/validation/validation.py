"""Validate files, a data frame, or a table in a database: the work behind `ValidateOperator`. No Airflow."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from operators.core.duck import open_duckdb
from operators.core.errors import ConfigurationError
from operators.core.explain_error import explain
from operators.core.storage import Storage
from operators.validation.data import Data, convert_csv, open_files, open_frame
from operators.validation.database import Database, export
from operators.validation.examination import Examination, Examined, check_suite
from operators.validation.gx_context import Engine, Outcome
from operators.validation.interruptible import InterruptibleDuckDB
from operators.validation.policy import FailOn, QuarantineLimit, Suite
from operators.validation.report import Quarantined, TableReport
from operators.validation.sources import FileFormat, local_files
from operators.validation.suites import described, implementations, import_gx, load_suites

SAMPLES = 20
_SHORT = ("unexpected_list", "unexpected_index_list", "partial_unexpected_list", "partial_unexpected_index_list")


@dataclass(frozen=True)
class Checks:
    """A suite, and how to check it.

    :param objects: Great Expectations' own objects of the suite, in its order
    """

    name: str
    suite: Suite
    objects: tuple[Any, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    result_format: Any = "SUMMARY"
    fail_on: FailOn = "critical"


def expected(
    default_name: str,
    *,
    suite: tuple[Path, str] | None,
    objects: Any,
    quarantine: Mapping[str, Any] | None,
) -> tuple[str, Suite, tuple[Any, ...]]:
    """Return the name of a suite, the suite, and Great Expectations' own objects of it.

    :param suite: YAML file, and the name of one of its suites
    :param objects: in place of ``suite``: Great Expectations' own expectation, list of expectations, or suite
    :param quarantine: fields of `QuarantineLimit`, in place of those in the file
    :raises ConfigurationError: one of them is wrong
    """
    if suite:
        name, wanted = load_suites(suite[0]).only(suite[1])
        made = implementations(wanted.expectations)
    else:
        import_gx()
        name, made = getattr(objects, "name", None) or default_name, _listed(objects)
        wanted = Suite(expectations=described(made))
    if quarantine is not None:
        try:
            wanted = wanted.model_copy(update={"quarantine": QuarantineLimit.model_validate(dict(quarantine))})
        except ValidationError as error:
            raise ConfigurationError(f"quarantine: {explain(error, QuarantineLimit)}") from None
    return name, wanted, tuple(made)


def _listed(objects: Any) -> list[Any]:
    from great_expectations.expectations.expectation import Expectation

    listed = getattr(objects, "expectations", None) or (objects if isinstance(objects, list | tuple) else [objects])
    if not listed or not all(isinstance(one, Expectation) for one in listed):
        raise ConfigurationError(
            f"the expectations are a {type(objects).__name__}; give an expectation of Great Expectations, a list, or a suite"
        )
    return list(listed)


@dataclass(frozen=True)
class Validated:
    """The result of a validation.

    :param described: Great Expectations' own description of it, as JSON types and with short lists
    """

    report: TableReport
    described: dict[str, Any]


class Validation:
    """One validation: its engine, its files, and a way to stop it.

    :param storage: where Data Docs, the full result and quarantined rows are kept, below ``prefix``
    """

    def __init__(self, engine: Engine, storage: Storage, prefix: str) -> None:
        self.engine = engine
        self._storage, self._prefix = storage, prefix
        self._folder = Path(tempfile.mkdtemp(prefix="taxiway-validation-"))
        self._db: InterruptibleDuckDB | None = None

    def stop(self) -> None:
        """End DuckDB's query and remove the files. It may be called from a signal handler, and more than once."""
        if self._db is not None:
            self._db.interrupt()
        shutil.rmtree(self._folder, ignore_errors=True)

    def files(self, checks: Checks, source: str, file_format: FileFormat | None = None) -> Validated:
        """Validate Parquet or CSV files.

        :param source: see `local_files`
        """
        files = local_files(source, file_format, self._folder / "source")
        folders = {path.parent for path in files.paths}

        def opened(db: InterruptibleDuckDB) -> Data:
            paths = list(files.paths)
            if files.file_format == "csv":
                paths = [convert_csv(db, paths, self._folder / "converted.parquet")]
            return open_files(db, checks.name, paths)

        return self._examined(checks, opened, *folders, source=source)

    def frame(self, checks: Checks, frame: Any) -> Validated:
        """Validate a pandas data frame."""
        return self._examined(checks, lambda db: open_frame(db, checks.name, frame), source=None)

    def table(self, checks: Checks, database: Database) -> Validated:
        """Validate a table or query in its database. Its rows are copied only if some may be set aside."""

        def run(objects: Sequence[Any]) -> Outcome:
            return self.engine.check_sql(
                database,
                objects,
                suite_name=checks.name,
                result_format=checks.result_format,
                parameters=checks.parameters,
            )

        types = dict.fromkeys(database.columns(), "")
        checked = check_suite(checks.name, types, checks.suite, checks.objects, run, {})
        if checked.limits(checks.suite) and not checked.missing:
            path = export(database, self._folder / "table.parquet")
            return self._examined(checks, lambda db: open_files(db, checks.name, [path]), source=None)
        self.engine.keep_page(checked.outcome, checked.objects)
        return self._finished(checks, Examined(checked.findings, checked.outcome), source=None)

    def _examined(
        self, checks: Checks, opened: Callable[[InterruptibleDuckDB], Data], *folders: Path, source: str | None
    ) -> Validated:
        with open_duckdb(self._folder, *folders) as connection:
            self._db = db = InterruptibleDuckDB(connection)
            try:
                examination = Examination(self.engine, self._folder, checks.parameters, checks.result_format)
                examined = examination.run(checks.name, opened(db), checks.suite, objects=checks.objects)
            finally:
                self._db = None
        return self._finished(checks, examined, source=source)

    def _finished(self, checks: Checks, examined: Examined, *, source: str | None) -> Validated:
        """Upload the results and, if rows were set aside, both files. Return the report."""
        quarantined, good = None, source
        if examined.split:
            bad = f"{self._prefix}/quarantine.parquet"
            self._storage.upload(examined.split.bad, bad)
            self._storage.upload(examined.split.good, f"{self._prefix}/good.parquet")
            good = self._storage.url(f"{self._prefix}/good.parquet")
            quarantined = Quarantined(
                uri=self._storage.url(bad), rows=examined.split.rows, of_rows=examined.outcome.rows
            )
        passed = not any(f.fails(checks.fail_on) for f in examined.findings)
        report = TableReport(
            passed=passed,
            findings=examined.findings,
            rows=examined.outcome.rows,
            dataset_uri=good if passed else None,
            quarantined=quarantined,
            docs_url=keep_docs(self.engine, self._storage, self._prefix),
        )
        described = keep_result(examined.outcome, self._storage, self._prefix)
        return Validated(report, shortened(examined.rest.result.describe_dict()) if examined.rest else described)


def keep_docs(engine: Engine, storage: Storage, prefix: str) -> str:
    """Write the Data Docs to storage and return the address of their first page."""
    with tempfile.TemporaryDirectory(prefix="taxiway-validation-") as folder:
        engine.write_docs(Path(folder))
        storage.upload_all(Path(folder), f"{prefix}/docs", keep=worth_keeping)
    return storage.url(f"{prefix}/docs/index.html")


def keep_result(outcome: Outcome, storage: Storage, prefix: str) -> dict[str, Any]:
    """Upload the whole result as JSON, and return it with short lists: an XCom is no place for a million values."""
    described: dict[str, Any] = outcome.result.describe_dict()
    storage.put_bytes(f"{prefix}/result.json", json.dumps(described, indent=1, default=str).encode())
    return shortened(described)


def worth_keeping(name: str) -> bool:
    """Leave out the 3.5 MB of tutorial animations and fonts in every site."""
    return not name.endswith((".gif", ".otf", "iterative-dev-loop.png"))


def shortened(value: Any, key: str = "") -> Any:
    """Return a description by Great Expectations with `SAMPLES` unexpected values at most."""
    if isinstance(value, dict):
        return {k: shortened(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [shortened(v) for v in (value[:SAMPLES] if key in _SHORT else value)]
    return value
