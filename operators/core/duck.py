"""DuckDB with a memory limit, which can open only the files of its task; and the digest of a table's content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from operators.core.extras import require

# A task shares its machine with others. When DuckDB needs more memory than this, it writes to disk.
MEMORY_LIMIT = "1GB"
THREADS = min(os.cpu_count() or 1, 4)


def content(db: Any, path: Path) -> tuple[dict[str, str], int, str]:
    """Return the columns with their types, the number of rows and the digest of a Parquet file.

    The digest does not depend on the order of rows or columns. Each row becomes JSON with its columns sorted by name, then
    SHA-256; the digests of the rows are added up in four lanes of 64 bits; the digest of the table is the SHA-256 of its
    columns and types, the number of rows, and the four sums. Different data have different digests, unless somebody forges them.
    """
    columns = {row[0]: row[1] for row in db.execute(f"DESCRIBE FROM read_parquet({text_sql(path)})").fetchall()}
    names = ", ".join(name_sql(column) for column in sorted(columns))
    lanes = ", ".join(f"sum(CAST('0x' || h[{i}:{i + 15}] AS UBIGINT))" for i in (1, 17, 33, 49))
    each_row = f"SELECT {names} FROM read_parquet({text_sql(path)})"  # noqa: S608 - every name in it is quoted
    hashed = f"SELECT sha256(CAST(to_json(r) AS VARCHAR)) AS h FROM ({each_row}) r"  # noqa: S608
    rows, *sums = db.execute(f"SELECT count(*), {lanes} FROM ({hashed})").fetchone()  # noqa: S608
    return columns, rows, sha256_json([columns, rows, [str(value) for value in sums]])


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def open_duckdb(*folders: Path) -> Iterator[Any]:
    """Open a DuckDB that can read and write these folders and nothing else."""
    require("gx", "duckdb", purpose="reading tables")
    import duckdb

    with duckdb.connect(config={"threads": THREADS, "memory_limit": MEMORY_LIMIT}) as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute("SET enable_progress_bar = false")  # it would fill the task's log
        db.execute(f"SET temp_directory = {text_sql(folders[0] / 'spill')}")
        db.execute(f"SET allowed_directories = [{', '.join(text_sql(folder) for folder in folders)}]")
        db.execute("SET enable_external_access = false")
        yield db


def name_sql(identifier: str) -> str:
    """Quote a table or column name."""
    return '"' + identifier.replace('"', '""') + '"'


def text_sql(value: Path) -> str:
    """Quote a path."""
    return "'" + str(value).replace("'", "''") + "'"
