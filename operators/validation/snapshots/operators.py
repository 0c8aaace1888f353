"""Validate a snapshot as an Airflow task: good data becomes a dataset, bad data stops the run with a table of reasons."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from operators.core.errors import ConfigurationError, RejectedError
from operators.core.loader import INCLUDE
from operators.core.settings import storage_url
from operators.core.spec import PredictionSpec
from operators.core.spec_training import Table
from operators.validation.links import DataDocsLink, docs_link
from operators.validation.operators import REPORT_KEY


class ValidateSnapshotOperator(BaseOperator):
    """Check the raw tables of a snapshot with Great Expectations, build the dataset, and check the dataset, too.

    The report is kept in storage as JSON, text and Data Docs, and pushed as the XCom ``report``, before bad data
    fails the task.

    :param model: name of the model, for the address of the report (templated)
    :param snapshot: what `SnapshotOperator` returned (templated)
    :param suite_path: YAML file of the suites; absolute, or relative to ``include/`` (templated)
    :param query_path: SQL file that makes the dataset; absolute, or relative to ``include/`` (templated)
    :param as_of: use only labels that were known by this time: ISO time without a zone. Default: the end of the
        snapshot (templated)
    :param run_key: folder of this run below ``validation/<model>/`` (templated)
    :param storage_root: address of object storage. Default: ``TAXIWAY_STORAGE_URL``
    :param docs_base_url: http(s) address under which the storage is served, for the link to the Data Docs. Default:
        ``TAXIWAY_DOCS_URL`` (templated)
    :returns: the dataset: ``uri``, ``key``, ``digest``, ``rows``, ``columns``
    :raises AirflowFailException: the data is refused, or the suites or the query are wrong; a retry cannot help
    """

    template_fields: Sequence[str] = (
        "model",
        "snapshot",
        "suite_path",
        "query_path",
        "as_of",
        "run_key",
        "docs_base_url",
    )
    operator_extra_links = (DataDocsLink(),)
    template_fields_renderers: Mapping[str, str] = {"snapshot": "json"}

    def __init__(
        self,
        *,
        model: str,
        snapshot: Any,
        suite_path: str,
        query_path: str,
        as_of: str = "",
        run_key: str = "{{ run_id }}",
        storage_root: str | None = None,
        docs_base_url: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.snapshot = snapshot
        self.suite_path = suite_path
        self.query_path = query_path
        self.as_of = as_of
        self.run_key = run_key
        self.storage_root = storage_root
        self.docs_base_url = docs_base_url

    def execute(self, context: Any) -> dict[str, Any]:
        """Validate, keep the report, and return the dataset."""
        from operators.core.dataset import Dataset, Snapshot, build
        from operators.core.storage import Storage
        from operators.validation.snapshots.client import require_passed, validate
        from operators.validation.suites import load_suites

        storage = Storage(self.storage_root or storage_url())
        frozen = Snapshot.model_validate(self.snapshot)
        as_of = datetime.fromisoformat(self.as_of) if self.as_of else frozen.window.end

        def make(tables: Mapping[str, Path]) -> Dataset:
            sql = _included(self.query_path).read_text(encoding="utf-8")
            return build(frozen, sql, {"as_of": as_of}, storage=storage, prefix=f"datasets/{self.model}", local=tables)

        try:
            suites = load_suites(_included(self.suite_path))
            prefix = f"validation/{self.model}/{self.run_key}"
            report = validate(frozen, suites, storage=storage, prefix=prefix, build=make)
            link = docs_link(report.docs_url, storage.root, self.docs_base_url or os.environ.get("TAXIWAY_DOCS_URL"))
            context["ti"].xcom_push(key=DataDocsLink.key, value=link)
            context["ti"].xcom_push(key=REPORT_KEY, value=report.to_xcom())
            for line in report.text().splitlines():
                self.log.info("%s", line)
            return require_passed(report).model_dump(mode="json")
        except (RejectedError, ConfigurationError) as error:
            raise AirflowFailException(str(error)) from error


def _included(path: str) -> Path:
    return INCLUDE / path  # an absolute path stays as it is


class SnapshotOperator(BaseOperator):
    """Copy the window of every raw table that a training run sees, so that all later tasks read the same rows.

    :param spec: spec of the model
    :param as_of: end of the window: ISO time on the clock of the tables; a zone is ignored. Empty: the run's logical
        date, or now, but not after ``retraining.end`` (templated)
    :param sources: JSON object that replaces sources of the spec: ``{"<table>": "<address>"}`` (templated)
    :returns: the snapshot: ``digest``, ``window``, ``tables``
    :raises AirflowFailException: a source is missing or has no row in the window; a retry cannot help
    """

    template_fields: Sequence[str] = ("as_of", "sources")

    def __init__(self, *, spec: PredictionSpec, as_of: str = "", sources: str = "{}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.as_of = as_of
        self.sources = sources

    def execute(self, context: Any) -> dict[str, Any]:
        """Copy the rows of the window."""
        from operators.core.dataset import Window, snapshot
        from operators.core.storage import Storage

        data = self.spec.data
        try:
            window = Window.ending(self._end(context), data.window_s)
            frozen = snapshot(self._tables(), window, Storage(storage_url()), f"snapshots/{self.spec.name}")
        except (RejectedError, ConfigurationError) as error:
            raise AirflowFailException(str(error)) from error
        for name, table in frozen.tables.items():
            self.log.info("%s: %d rows from %s to %s", name, table.rows, window.start, window.end)
        return frozen.model_dump(mode="json")

    def _end(self, context: Any) -> datetime:
        if self.as_of:
            try:
                return datetime.fromisoformat(self.as_of).replace(tzinfo=None)
            except ValueError:
                raise ConfigurationError(
                    f"as_of is {self.as_of!r}; write an ISO time, e.g. 2013-03-01T00:00:00"
                ) from None
        logical = context.get("logical_date") or datetime.now(UTC)
        end = logical.replace(tzinfo=None)
        last = self.spec.retraining.end
        return min(end, datetime(last.year, last.month, last.day)) if last else end

    def _tables(self) -> dict[str, Table]:
        """Return the spec's tables, some of them read from elsewhere."""
        tables = self.spec.data.tables
        try:
            others = json.loads(self.sources or "{}")
        except ValueError:
            raise ConfigurationError(
                f'sources is {self.sources!r}; write a JSON object, e.g. {{"table": "s3://bucket/key"}}'
            ) from None
        if unknown := set(others) - set(tables):
            raise ConfigurationError(
                f"sources names tables that the spec does not have: {sorted(unknown)}; it has {sorted(tables)}"
            )
        return {
            name: table.model_copy(update={"source": others[name]}) if name in others else table
            for name, table in tables.items()
        }
