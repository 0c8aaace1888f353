"""Tables of values that become known after the answer: labels and business numbers."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from operators.core.duck import name_sql, text_sql
from operators.core.storage import Storage
from operators.feedback.log import query_files

_DATE = re.compile(r"(?:^|/)date=(\d{4}-\d\d-\d\d)/")


def business_prefix(model: str, name: str) -> str:
    """Return the folder of a business guard's Parquet files, whose columns are ``request_id``, ``value`` and ``time``.

    ``time`` is when the number became known, in UTC. A file has any name and never changes. If files are in folders
    ``date=YYYY-MM-DD`` of the day when they were written, those of earlier days are not read.
    """
    return f"business/{model}/{name}"


class ArrivalTable:
    """A table in DuckDB with ``id`` (a hash), ``label`` and ``arrived_us``. If an id has several values, the earliest counts.

    :param name: the table's name
    """

    def __init__(self, db: Any, name: str) -> None:
        self._db = db
        self._rows = name_sql(f"{name}_rows")
        self._seen: set[str] = set()
        db.execute(f"CREATE TABLE {self._rows} (id UBIGINT, label DOUBLE, arrived_us BIGINT)")
        db.execute(
            f"CREATE VIEW {name_sql(name)} AS SELECT id, arg_min(label, arrived_us) AS label, min(arrived_us) AS arrived_us "  # noqa: S608
            f"FROM {self._rows} GROUP BY id"
        )

    def replace(self, path: Path) -> None:
        """Replace the rows by those of a file that `LabelSource.write` wrote."""
        self._db.execute(f"DELETE FROM {self._rows}")  # noqa: S608
        self._db.execute(self._insert("id", "label", "arrived_at").format(files=f"read_parquet({text_sql(path)})"))

    def refresh(self, storage: Storage, prefix: str, folder: Path, *, since: datetime) -> None:
        """Read the new files below a prefix.

        :param since: files of earlier days are not read
        :raises RejectedError: a file lacks a column, or has another type in it
        """
        new = [
            key
            for key in storage.list(prefix)
            if key not in self._seen and key.endswith(".parquet") and _may_matter(key, since)
        ]
        insert = self._insert("request_id", "value", '"time"')
        for read, _ in query_files(storage, new, folder, self._db, insert):
            self._seen.update(read)

    def _insert(self, key: str, value: str, time: str) -> str:
        return (
            f"INSERT INTO {self._rows} SELECT hash(CAST({key} AS VARCHAR)), CAST({value} AS DOUBLE), epoch_us({time}) "  # noqa: S608
            f"FROM {{files}} WHERE isfinite(CAST({value} AS DOUBLE)) AND {time} IS NOT NULL"
        )


def _may_matter(key: str, since: datetime) -> bool:
    match = _DATE.search(key)
    return match is None or date.fromisoformat(match[1]) >= (since.astimezone(UTC) - timedelta(days=1)).date()
