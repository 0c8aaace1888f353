"""Where labels come from: what a source must do, and the source that runs the model's own query."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from operators.core.dataset import Window, build, snapshot
from operators.core.duck import name_sql, open_duckdb, text_sql
from operators.core.errors import ConfigurationError, RejectedError
from operators.core.spec_training import Data
from operators.core.storage import Storage

ARRIVAL = "label_time"
"""The query's column that says when the label became known."""


class LabelSource(Protocol):
    """A source of labels."""

    def write(self, out: Path, *, begin: datetime, end: datetime, known_before: datetime) -> None:
        """Write labels as a Parquet file: ``id`` (text), ``label`` (a number), ``arrived_at`` (a time in UTC).

        The id is a request's id or its unit, whichever the model's callers send. A label that is not known yet has no row. A
        later call returns every row again, with the same time.

        :param begin: time of the first answer whose label is needed; with a time zone
        :param end: time of the last one
        :param known_before: labels that arrived later are left out
        """


class QueryLabels:
    """Labels from the spec's raw tables, by the query that also makes the training data.

    The query must return ``label_time``. Callers must send the value of the id column, as the unit or as the request's id.

    :param query_sql: text of ``data.query``
    :param within_s: how long after the answer a label may come. Events within this time of the answers are read
    :param ahead_s: by how much the clock of the tables is ahead of UTC
    """

    def __init__(self, storage: Storage, data: Data, query_sql: str, *, within_s: float, ahead_s: float = 0.0) -> None:
        self._storage = storage
        self._data = data
        self._sql = query_sql
        self._within = timedelta(seconds=within_s)
        self._ahead = timedelta(seconds=ahead_s)

    def write(self, out: Path, *, begin: datetime, end: datetime, known_before: datetime) -> None:
        """Run the query over the events around the answers; see `LabelSource.write`.

        :raises ConfigurationError: the query is wrong, or returns no ``label_time``
        """
        window = Window(start=self._local(begin - self._within), end=self._local(end + self._within))
        tables = {
            name: table
            if "://" in table.source
            else table.model_copy(update={"source": self._storage.url(table.source)})
            for name, table in self._data.tables.items()
        }
        with tempfile.TemporaryDirectory(prefix="taxiway-labels-") as name:
            folder = Path(name).resolve()
<<<<<<< HEAD
            here = Storage.from_url(folder.as_uri())  # deleted afterwards
=======
            here = Storage(folder.as_uri())  # nothing of this is kept
>>>>>>> c2
            try:
                frozen = snapshot(tables, window, here, "tables")
                params = {"as_of": self._local(known_before)}
                dataset = build(frozen, self._sql, params, storage=here, prefix="dataset")
            except RejectedError:  # no event has been recorded yet
                self._copy(None, out)
                return
            if ARRIVAL not in dataset.columns:
                raise ConfigurationError(
                    f"the guards labels and loss need to know when a label arrived: {self._data.query} must return a column "
                    f"{ARRIVAL}, which is NULL until the label is known"
                )
            self._copy(folder / dataset.key, out)

    def _copy(self, dataset: Path | None, out: Path) -> None:
        if dataset is None:
            rows = "SELECT NULL::VARCHAR AS id, NULL::DOUBLE AS label, NULL::TIMESTAMP AS arrived_at LIMIT 0"
        else:
            label, key = name_sql(self._data.label), name_sql(self._data.id)
            rows = (
                f"SELECT CAST({key} AS VARCHAR) AS id, CAST({label} AS DOUBLE) AS label, "  # noqa: S608
                f"CAST({ARRIVAL} AS TIMESTAMP) - to_microseconds({self._ahead // timedelta(microseconds=1)}) AS arrived_at "
                f"FROM read_parquet({text_sql(dataset)}) WHERE {label} IS NOT NULL AND {ARRIVAL} IS NOT NULL"
            )
        folders = [out.parent.resolve(), *([dataset.parent] if dataset else [])]
        with open_duckdb(*folders) as db:
            db.execute(f"COPY ({rows}) TO {text_sql(out.resolve())} (FORMAT parquet)")

    def _local(self, time: datetime) -> datetime:
        return time.astimezone(UTC).replace(tzinfo=None) + self._ahead
