"""Measure the columns of a reference: data that is known to be good."""

# ruff: noqa: S608 - every name in this SQL is quoted

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from operators.core.duck import name_sql
from operators.core.errors import ConfigurationError
from operators.validation.data import open_files
from operators.validation.draft import FEW_VALUES, SHAPES, Column, Table
from operators.validation.interruptible import InterruptibleDuckDB

_VIEW = "reference"


@dataclass(frozen=True)
class Reference:
    """Which rows are the reference: ``start <= time < end``.

    :param time_column: column with the time; None: all rows are the reference
    """

    time_column: str | None = None
    start: datetime | None = None
    end: datetime | None = None


def measure(db: InterruptibleDuckDB, paths: Sequence[Path], reference: Reference) -> Table:
    """Measure the columns of Parquet files.

    :raises ConfigurationError: there is no such time column, or no row in the window
    """
    data = open_files(db, "everything", paths)
    column = reference.time_column
    if (reference.start or reference.end) and not column:
        raise ConfigurationError("--start and --end need --time-column: the column with the time of each row")
    if column and not data.types.get(column, "").startswith(("TIMESTAMP", "DATE")):
        raise ConfigurationError(
            f"the time column {column} is {data.types.get(column, 'missing')}; it must be a TIMESTAMP or a DATE"
        )
    bounds = [
        f"{name_sql(column or '')} {sign} TIMESTAMP '{bound.isoformat(' ')}'"
        for sign, bound in ((">=", reference.start), ("<", reference.end))
        if bound
    ]
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    db.execute(f"CREATE OR REPLACE VIEW {_VIEW} AS FROM everything{where}")
    rows, hours = _extent(db, reference)
    if not rows:
        raise ConfigurationError("there is no row between --start and --end; choose other times")
    columns = tuple(_column(db, name, type_name, data.kinds[name]) for name, type_name in data.types.items())
    return Table(rows=rows, hours=hours, columns=columns)


def _extent(db: InterruptibleDuckDB, reference: Reference) -> tuple[int, float | None]:
    """Return the number of rows and the length of the window."""
    if not reference.time_column:
        return int(db.rows(f"SELECT count(*) FROM {_VIEW}")[0][0]), None
    time = f"CAST({name_sql(reference.time_column)} AS TIMESTAMP)"
    rows, first, last = db.rows(f"SELECT count(*), min({time}), max({time}) FROM {_VIEW}")[0]
    if not rows:
        return 0, None
    start, end = reference.start or first, reference.end or last
    return int(rows), max((end - start).total_seconds() / 3600, 1.0)


def _column(db: InterruptibleDuckDB, name: str, type_name: str, kind: Any) -> Column:
    column = name_sql(name)
    asked = {"nulls": f"count(*) - count({column})", "distinct": f"count(DISTINCT {column})"}
    if kind == "number":
        asked |= {
            "low": f"min({column})",
            "high": f"max({column})",
            "mean": f"avg({column})",
            "deviation": f"stddev_samp({column})",
        }
    if kind == "text":
        asked |= {"low": f"min(length({column}))", "high": f"max(length({column}))"}
        asked |= {f"shape{n}": f"bool_and(regexp_matches({column}, '{shape}'))" for n, shape in enumerate(SHAPES)}
    if kind == "other":
        del asked["distinct"]
    measured = dict(zip(asked, db.rows(f"SELECT {', '.join(asked.values())} FROM {_VIEW}")[0], strict=True))
    values: tuple[Any, ...] = ()
    if kind == "text" and 0 < measured["distinct"] <= FEW_VALUES:
        values = tuple(
            r[0] for r in db.rows(f"SELECT DISTINCT {column} FROM {_VIEW} WHERE {column} IS NOT NULL ORDER BY 1")
        )
    shape = next((shape for n, shape in enumerate(SHAPES) if measured.get(f"shape{n}")), "")
    return Column(
        name=name,
        kind=kind,
        whole="INT" in type_name,
        nulls=measured["nulls"],
        distinct=measured.get("distinct"),
        low=measured.get("low"),
        high=measured.get("high"),
        mean=measured.get("mean"),
        deviation=measured.get("deviation"),
        values=values,
        shape=shape,
    )
