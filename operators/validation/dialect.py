"""Great Expectations' SQL on DuckDB: SQLAlchemy's dialect of PostgreSQL, over a DuckDB connection that is already open.

Great Expectations chooses its SQL by the dialect, and has none for DuckDB. DuckDB understands PostgreSQL's SQL except for the
operators of regular expressions: in DuckDB they match the whole value, in PostgreSQL and pandas any part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect
from sqlalchemy.pool import StaticPool

from operators.validation.interruptible import InterruptibleDuckDB
from operators.validation.sql_or_pandas import re2_pattern

_REGEX = {"~": "regexp_matches({}, {})", "!~": "NOT regexp_matches({}, {})"}
_TYPES: dict[str, type[sa.types.TypeEngine[Any]]] = {
    "BIGINT": sa.BIGINT,
    "BOOLEAN": sa.BOOLEAN,
    "DATE": sa.DATE,
    "DOUBLE": sa.DOUBLE,
    "FLOAT": sa.REAL,
    "INTEGER": sa.INTEGER,
    "SMALLINT": sa.SMALLINT,
    "TIMESTAMP": sa.TIMESTAMP,
    "VARCHAR": sa.VARCHAR,
}


def duckdb_engine(db: InterruptibleDuckDB) -> sa.Engine:
    """Return an engine for an open DuckDB connection, which stays open."""
    registry.register("taxiwayduckdb", __name__, "DuckDBDialect")
    return sa.create_engine("taxiwayduckdb://", creator=lambda: _Connection(db), poolclass=StaticPool)


class _Cursor:
    """One statement. All its rows are read at once: DuckDB drops them when the next statement starts."""

    arraysize = 1

    def __init__(self, db: InterruptibleDuckDB) -> None:
        self._db = db
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        def work(db: Any) -> tuple[list[Any], Any]:
            done = db.execute(statement, list(parameters))
            return done.fetchall(), done.description

        self._rows, self.description = self._db.run(work)

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def fetchmany(self, size: int = 1) -> list[Any]:
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def close(self) -> None:
        self._rows = []


class _Connection:
    """A DB-API connection that reads only, so that there is nothing to commit."""

    def __init__(self, db: InterruptibleDuckDB) -> None:
        self._db = db

    def cursor(self) -> _Cursor:
        return _Cursor(self._db)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class _Compiler(PGCompiler):
    def visit_custom_op_binary(self, element: Any, operator: Any, **kwargs: Any) -> str:
        template = _REGEX.get(operator.opstring)
        if template is None:
            return str(super().visit_custom_op_binary(element, operator, **kwargs))  # type: ignore[no-untyped-call]
        pattern = sa.literal(re2_pattern(element.right.value))
        return template.format(self.process(element.left, **kwargs), self.process(pattern, **kwargs))


class DuckDBDialect(PGDialect):
    """PostgreSQL's dialect, with DuckDB's catalogue and regular expressions."""

    driver = "duckdb"
    statement_compiler = _Compiler
    default_paramstyle = "qmark"
    supports_statement_cache = False
    supports_server_side_cursors = False
    supports_native_enum = False
    _has_native_hstore = False

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return DuckDB's module, which has the exceptions that SQLAlchemy needs."""
        import duckdb

        return duckdb

    def initialize(self, connection: Any) -> None:
        """Set what SQLAlchemy would ask of PostgreSQL; DuckDB could not answer."""
        self.server_version_info = (16, 0)
        self.default_schema_name = "main"

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Return True: DuckDB runs in this process."""
        return True

    def get_schema_names(self, connection: Any, **_: Any) -> list[str]:
        """Return the one schema."""
        return ["main"]

    def get_table_names(self, connection: Any, schema: str | None = None, **_: Any) -> list[str]:
        """Return the names of tables and views."""
        return list(connection.execute(sa.text("SELECT table_name FROM information_schema.tables")).scalars())

    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> bool:
        """Say whether a table or view exists."""
        return table_name in self.get_table_names(connection)

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> list[Any]:
        """Return names and types."""
        described = connection.execute(sa.text(f"DESCRIBE {self.identifier_preparer.quote(table_name)}"))
        return [
            {"name": row[0], "type": _TYPES.get(row[1], sa.types.NullType)(), "nullable": True, "default": None}
            for row in described
        ]

    def get_pk_constraint(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> Any:
        """A view has none."""
        return {"constrained_columns": [], "name": None}
