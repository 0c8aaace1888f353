"""The one reader of the prediction log: it lists the files and runs queries on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from operators.core.duck import text_sql
from operators.core.errors import RejectedError
from operators.core.predictions import hour_prefix
from operators.core.storage import Storage

_FILES_AT_ONCE = 64


def log_keys(storage: Storage, model: str, version: str, hour: datetime) -> list[str]:
    """Return the keys of the files that a version's replicas wrote in one hour.

    :param hour: in UTC
    """
    return storage.list(hour_prefix(model, version, hour))


def query_files(
    storage: Storage, keys: Sequence[str], folder: Path, db: Any, sql: str, values: Sequence[Any] = ()
) -> Iterator[tuple[Sequence[str], list[tuple[Any, ...]]]]:
    """Run a query on Parquet files of the storage, a batch of files at a time. The local copies are deleted.

    :param folder: a local folder for the files of one batch
    :param db: a DuckDB that may read the folder
    :param sql: a query or an INSERT, in which ``{files}`` stands for the batch
    :param values: the query's parameters
    :returns: for each batch, its keys and the rows that the query returned
    :raises RejectedError: a file cannot be read, lacks a column, or has another type in it
    """
    import duckdb

    for start in range(0, len(keys), _FILES_AT_ONCE):
        batch = keys[start : start + _FILES_AT_ONCE]
        paths = storage.download_all(batch, folder)
        files = f"read_parquet([{', '.join(map(text_sql, paths))}], hive_partitioning = false, union_by_name = true)"
        try:
            rows = db.execute(sql.format(files=files), list(values)).fetchall()
        except duckdb.Error as error:
            where = storage.url(batch[0]).rpartition("/")[0]
            raise RejectedError(f"files below {where} cannot be read: {error}") from error
        finally:
            for path in paths:
                path.unlink()
        yield batch, rows
