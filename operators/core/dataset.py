"""Immutable training data: freeze a window of the raw tables, then run the model's SQL over what was frozen."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from operators.core.duck import content, name_sql, open_duckdb, sha256_json, text_sql
from operators.core.errors import ConfigurationError, RejectedError
from operators.core.explain_error import suggestion
from operators.core.frozen import Exact
from operators.core.spec_training import Table as TableSource
from operators.core.storage import Storage

_FOOTER_BYTES = 64 * 1024
_TIME_TYPES = ("TIMESTAMP", "DATE")

__all__ = ["Dataset", "Snapshot", "TableSnapshot", "TableSource", "Window", "build", "fetch", "snapshot"]


class Window(Exact):
    """The span ``start <= time < end``. Its times have no zone: they are compared with the time columns as they are."""

    start: datetime
    end: datetime

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.start.tzinfo or self.end.tzinfo:
            raise ValueError("a window has no time zone: convert to the clock of the time columns, then drop the zone")
        if self.start >= self.end:
            raise ValueError(f"a window must end after its start; got {self.start} to {self.end}")
        return self

    @classmethod
    def ending(cls, end: datetime, length_s: float) -> Window:
        """Return the window of a length that ends here."""
        return cls(start=end - timedelta(seconds=length_s), end=end)

    @property
    def hours(self) -> float:
        """The length in hours."""
        return (self.end - self.start) / timedelta(hours=1)


class TableSnapshot(Exact):
    """One frozen table."""

    key: str
    uri: str
    digest: str
    rows: int
    columns: dict[str, str] = Field(description="name → DuckDB type")
    gaps: dict[str, tuple[str, ...]] = Field(description="column → source files without it, where others have it")


class Snapshot(Exact):
    """The raw tables of one window. Two snapshots with the same rows have the same digest."""

    digest: str
    window: Window
    tables: dict[str, TableSnapshot]


class Dataset(Exact):
    """The table that the model's SQL made of a snapshot."""

    key: str
    uri: str
    digest: str
    rows: int
    columns: dict[str, str]


def snapshot(tables: Mapping[str, TableSource], window: Window, storage: Storage, prefix: str) -> Snapshot:
    """Copy the window of each raw table to ``<prefix>/<digest>/<table>.parquet``.

    It takes every column as it is. Validation comes later and reports all that is wrong with the data at once.

    The digest depends on the rows alone, not on their order or on how many files the source has; see `content`.

    :param tables: where each raw table is; a source without a scheme is below the storage's root
    :raises ConfigurationError: a source has no Parquet file, or lacks its time column
    :raises RejectedError: a table has no row in the window
    """
    with tempfile.TemporaryDirectory(prefix="taxiway-snapshot-") as folder:
        frozen = {name: _freeze(name, source, window, storage, Path(folder)) for name, source in tables.items()}
        digest = sha256_json({name: table.digest for name, table in frozen.items()})
        placed = {}
        for name, table in frozen.items():
            key = f"{prefix}/{digest}/{name}.parquet"
            storage.upload(Path(folder) / f"{name}.parquet", key, if_absent=True)
            placed[name] = table.model_copy(update={"key": key, "uri": storage.url(key)})
    return Snapshot(digest=digest, window=window, tables=placed)


def fetch(frozen: Snapshot, storage: Storage, folder: Path) -> dict[str, Path]:
    """Download the tables of a snapshot, for code that reads them more than once."""
    return {name: storage.download(table.key, folder / f"{name}.parquet") for name, table in frozen.tables.items()}


def build(
    frozen: Snapshot,
    query_sql: str,
    params: Mapping[str, Any],
    *,
    storage: Storage,
    prefix: str,
    local: Mapping[str, Path] | None = None,
) -> Dataset:
    """Run the model's SQL over a snapshot and keep the result as ``<prefix>/<digest>/dataset.parquet``.

    The SQL can read one view per table and the parameters ``$as_of``, ``$start`` and ``$end``. It can open no other file and
    no connection.

    :param params: must have ``as_of``: the SQL must not return anything that became known later. ``start`` and ``end`` are the
        window's, unless they are given
    :param local: tables that `fetch` has already downloaded
    :raises ConfigurationError: the SQL is wrong, or reads a column that does not exist
    :raises RejectedError: the result has no rows
    """
    if "as_of" not in params:
        raise ConfigurationError(
            "the parameter as_of is missing: without it the dataset could contain labels that became known later"
        )
    values = {"start": frozen.window.start, "end": frozen.window.end, **params}
    with tempfile.TemporaryDirectory(prefix="taxiway-dataset-") as name:
        folder = Path(name)
        paths = {t: Path(p).resolve() for t, p in (local or fetch(frozen, storage, folder / "tables")).items()}
        out = folder / "dataset.parquet"
        with open_duckdb(folder, *(path.parent for path in paths.values())) as db:
            for table, path in paths.items():
                db.execute(f"CREATE VIEW {name_sql(table)} AS FROM read_parquet({text_sql(path)})")
            _run_query(db, query_sql, values, out)
            columns, rows, digest = content(db, out)
        if not rows:
            raise RejectedError(f"the dataset of {frozen.window.start} to {frozen.window.end} has no rows")
        key = f"{prefix}/{digest}/dataset.parquet"
        storage.upload(out, key, if_absent=True)
    return Dataset(key=key, uri=storage.url(key), digest=digest, rows=rows, columns=columns)


def _run_query(db: Any, query_sql: str, values: Mapping[str, Any], out: Path) -> None:
    import duckdb

    try:
        statements = db.extract_statements(query_sql)
        if len(statements) != 1:
            raise ConfigurationError(f"the query must be one SELECT; it has {len(statements)} statements")
        used = {key: value for key, value in values.items() if key in statements[0].named_parameters}
        query = query_sql.strip().rstrip(";")
        db.execute(f"COPY (\n{query}\n) TO {text_sql(out)} (FORMAT parquet, COMPRESSION zstd)", used)
    except duckdb.Error as error:
        raise ConfigurationError(f"the dataset's query failed: {error}") from error


def _freeze(name: str, source: TableSource, window: Window, storage: Storage, folder: Path) -> TableSnapshot:
    """Write the window of one table to ``<folder>/<name>.parquet``."""
    import duckdb

    origin, keys = _source_files(name, source, storage)
    with ThreadPoolExecutor(8) as pool:
        footers = dict(zip(keys, pool.map(lambda key: _footer(origin, key), keys), strict=True))
    _require_time_column(name, source, footers)
    hit = [key for key in keys if _may_overlap(footers[key], source.time_column, window)]
    if not hit:
        raise RejectedError(_no_rows(name, source, window))
    files = origin.download_all(hit, folder / f"{name}-source")
    out = folder / f"{name}.parquet"
    time = name_sql(source.time_column)
    with open_duckdb(folder) as db:
        try:
            relation = f"read_parquet([{', '.join(map(text_sql, files))}], union_by_name = true)"
            types = {row[0]: row[1] for row in db.execute(f"DESCRIBE FROM {relation}").fetchall()}
            if not types[source.time_column].startswith(_TIME_TYPES):
                raise ConfigurationError(
                    f"the time column {source.time_column} of {name} is {types[source.time_column]}; it must be a TIMESTAMP"
                )
            order = ", ".join([time, *(name_sql(column) for column in sorted(types) if column != source.time_column)])
            db.execute(
                f"COPY (FROM {relation} WHERE {time} >= $start AND {time} < $end ORDER BY {order}) "
                f"TO {text_sql(out)} (FORMAT parquet, COMPRESSION zstd)",
                {"start": window.start, "end": window.end},
            )
        except duckdb.Error as error:
            raise RejectedError(
                f"the Parquet files of {name} in {origin.root} cannot be read as one table: {error}"
            ) from error
        columns, rows, digest = content(db, out)
    if not rows:
        raise RejectedError(_no_rows(name, source, window))
    gaps = {c: tuple(key for key in hit if c not in footers[key].schema.names) for c in columns}
    return TableSnapshot(
        key="", uri="", digest=digest, rows=rows, columns=columns, gaps={c: files for c, files in gaps.items() if files}
    )


def _source_files(name: str, source: TableSource, storage: Storage) -> tuple[Storage, list[str]]:
    where = source.source.rstrip("/")
    if where.endswith(".parquet"):
        folder, _, file = where.rpartition("/")
        return (storage.at(folder) if folder else storage), [file]
    origin = storage.at(where)
    keys = [key for key in origin.list() if key.endswith(".parquet")]
    if not keys:
        raise ConfigurationError(
            f"the table {name} has no Parquet files in {origin.root}; correct `source` in the spec, or load the data"
        )
    return origin, keys


def _footer(origin: Storage, key: str) -> Any:
    """Read a file's Parquet metadata without its data."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    end = origin.tail(key, _FOOTER_BYTES)
    needed = int.from_bytes(end[-8:-4], "little") + 8  # a file ends with the footer, its length, and PAR1
    if end[-4:] == b"PAR1" and needed > len(end):
        end = origin.tail(key, needed)
    try:
        return pq.read_metadata(pa.BufferReader(end))
    except pa.ArrowInvalid as error:
        raise RejectedError(f"{origin.url(key)} is not a Parquet file: {error}") from error


def _require_time_column(name: str, source: TableSource, footers: Mapping[str, Any]) -> None:
    without = [key for key, footer in footers.items() if source.time_column not in footer.schema.names]
    if not without:
        return
    known = sorted({column for key in without for column in footers[key].schema.names})
    raise ConfigurationError(
        f"the time column {source.time_column} is missing from {name} in {len(without)} of {len(footers)} files, "
        f"first in {without[0]}; {suggestion(source.time_column, known)}"
    )


def _may_overlap(footer: Any, column: str, window: Window) -> bool:
    """Return whether a file may have rows in the window, by the statistics in its footer. Without statistics it may."""
    index = footer.schema.names.index(column)
    for group in range(footer.num_row_groups):
        stats = footer.row_group(group).column(index).statistics
        if stats is None or not stats.has_min_max or not isinstance(stats.min, datetime) or stats.min.tzinfo:
            return True
        if stats.min < window.end and stats.max >= window.start:
            return True
    return False


def _no_rows(name: str, source: TableSource, window: Window) -> str:
    return f"the table {name} in {source.source} has no rows with {window.start} <= {source.time_column} < {window.end}"
