"""A table or a query in a database. It is only read, and with time-outs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from operators.core.errors import ConfigurationError, ServiceError

CONNECT_TIMEOUT_S = 10
_BATCH_ROWS = 50_000


@dataclass(frozen=True)
class Database:
    """A table or a query, and its database.

    :param engine: SQLAlchemy engine
    :param query: a SELECT, in place of the table
    """

    engine: sa.Engine
    table: str = ""
    schema: str | None = None
    query: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "query", self.query.strip().rstrip("; \n"))

    def rows_from(self) -> Any:
        """Return the SQL after FROM."""
        return sa.text(self.query).columns().subquery("q") if self.query else sa.table(self.table, schema=self.schema)

    def columns(self) -> list[str]:
        """Return the names of the columns.

        :raises ConfigurationError: there is no such table, or the query is wrong
        :raises ServiceError: the database cannot be reached
        """
        with reading(self), self.engine.connect() as connection:
            return list(connection.execute(self.all_rows(limit=0)).keys())

    def count(self) -> int:
        """Count the rows."""
        with reading(self), self.engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(self.rows_from())).scalar_one())

    def all_rows(self, limit: int | None = None) -> Any:
        """Return the statement for all rows, or some."""
        if self.query:
            text = f"SELECT * FROM ({self.query}) AS q"  # noqa: S608 - the query is the user's own
            return sa.text(text if limit is None else f"{text} LIMIT {limit:d}")
        return sa.select(sa.text("*")).select_from(self.rows_from()).limit(limit)


@contextmanager
def reading(database: Database) -> Iterator[None]:
    """Turn the database's errors into ours, without the parameters of the connection.

    :raises ConfigurationError: there is no such table, or the query is wrong
    :raises ServiceError: the database cannot be reached, or took too long
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        what = database.query or ".".join(part for part in (database.schema, database.table) if part)
        first = str(error.orig).strip().splitlines()[0][:300]
        if isinstance(error, sa.exc.OperationalError):
            raise ServiceError(f"the database did not answer for {what}: {first}") from None
        raise ConfigurationError(f"{what} cannot be read from the database: {first}") from None


def open_engine(url: sa.URL, *, statement_timeout_s: float) -> sa.Engine:
    """Return an engine whose connections only read and have time-outs.

    PostgreSQL ends a statement after the time-out, or if its client is gone.
    """
    arguments: Mapping[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        settings = {
            "statement_timeout": round(statement_timeout_s * 1000),
            "client_connection_check_interval": 10_000,
            "default_transaction_read_only": "on",
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        arguments = {"connect_timeout": CONNECT_TIMEOUT_S, "options": options}
    return sa.create_engine(url, connect_args=arguments)


def export(database: Database, path: Path) -> Path:
    """Copy the rows to a Parquet file in batches. A value that no Parquet type fits becomes text."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    parts = path.with_suffix(".parts")
    parts.mkdir()
    schemas = []
    options = {"stream_results": True, "max_row_buffer": _BATCH_ROWS}
    with reading(database), database.engine.connect().execution_options(**options) as connection:
        result = connection.execute(database.all_rows())
        names = list(result.keys())
        for number, rows in enumerate(result.partitions(_BATCH_ROWS)):
            batch = pa.table({name: _array([row[i] for row in rows]) for i, name in enumerate(names)})
            schemas.append(batch.schema)
            pq.write_table(batch, parts / f"{number:08}.parquet")
    # Types differ between batches: a column that is all NULL in one may be a number in another.
    merged = (
        pa.unify_schemas(schemas, promote_options="permissive")
        if schemas
        else pa.schema([(name, pa.string()) for name in names])
    )
    schema = pa.schema([(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in merged])
    with pq.ParquetWriter(path, schema) as writer:
        for part in ds.dataset(parts, schema=schema).to_batches(batch_size=_BATCH_ROWS) if schemas else ():
            writer.write_batch(part)
    return path


def _array(values: list[Any]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
