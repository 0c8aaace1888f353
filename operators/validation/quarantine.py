"""Set bad rows aside: rows that break an expectation go to one Parquet file, with the reasons; the others go to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operators.core.duck import name_sql, text_sql
from operators.core.errors import ConfigurationError, RejectedError
from operators.validation.data import ROW, Data
from operators.validation.gx_context import Engine

REASONS = "quarantine_reasons"


@dataclass(frozen=True)
class Split:
    """The file of the good rows and the file of the bad ones.

    :param rows: how many are set aside
    """

    good: Path
    bad: Path
    rows: int


def bad_rows(
    engine: Engine, data: Data, expectations: Sequence[Any], reasons: Sequence[str], *, at_most: int, parameters: Any
) -> Any:
    """Return which rows break which expectations, as an Arrow table of ``row`` and ``reason``.

    Great Expectations names them in its full result, with the number of the row as the index.

    :param at_most: largest number of rows that break one expectation
    """
    import pyarrow as pa

    numbered = data.numbered()
    rows: list[int] = []
    reason_of_row: list[str] = []
    for expectation, reason in zip(expectations, reasons, strict=True):
        for on_pandas in (False, True):  # with SQL it names no rows for some expectations about several columns
            outcome = engine.check(
                numbered,
                [expectation],
                suite_name=f"{data.name} by row",
                result_format={
                    "result_format": "COMPLETE",
                    "unexpected_index_column_names": [ROW],
                    "exclude_unexpected_values": True,
                    "return_unexpected_index_query": False,
                    "partial_unexpected_count": at_most,
                },
                parameters=parameters,
                on_pandas=on_pandas,
            )
            result = outcome.result.results[0].result
            bad = _rows(result.get("unexpected_index_list") or [])
            if len(bad) == result.get("unexpected_count"):
                break
        else:
            raise RejectedError(
                f'Great Expectations names only {len(bad)} of the rows that break "{reason}", so none can be set aside; '
                "set `quarantine: false` for this expectation, and mend the data"
            )
        rows += bad
        reason_of_row += [reason] * len(bad)
    return pa.table({"row": pa.array(rows, pa.int64()), "reason": pa.array(reason_of_row, pa.string())})


def _rows(listed: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the numbers, listed one by one or in one list."""
    return [int(n) for item in listed for n in (item[ROW] if isinstance(item[ROW], list) else [item[ROW]])]


def distinct_rows(bad: Any) -> int:
    """Count the rows in what `bad_rows` returned."""
    import pyarrow.compute as pc

    return int(pc.count_distinct(bad["row"]).as_py())


def split(data: Data, bad: Any, folder: Path) -> Split:
    """Write ``good.parquet`` and ``bad.parquet``; both keep the order and the columns of the source.

    :param bad: what `bad_rows` returned
    :raises ConfigurationError: a column cannot be written, or has the name of the column of reasons
    """
    if data.unwritable:
        raise ConfigurationError(
            f"no rows of {data.name} can be set aside: the column {data.unwritable} has values of several types, "
            "which Parquet cannot hold; convert them to one type"
        )
    if REASONS in data.types:
        raise ConfigurationError(f"{data.name} already has a column {REASONS}; rename it")
    db, source = data.db, data.numbered_sql
    db.register("taxiway_found", bad)
    db.execute(
        "CREATE OR REPLACE TEMP TABLE taxiway_bad AS "
        "SELECT row, list(reason ORDER BY reason) AS reasons FROM taxiway_found GROUP BY row"
    )
    db.unregister("taxiway_found")
    columns = ", ".join(f"s.{name_sql(column)}" for column in data.types)
    joined = f"FROM {source} s {{}} JOIN taxiway_bad b ON s.{ROW} = b.row"
    good, bad = folder / "good.parquet", folder / "bad.parquet"
    queries: Mapping[Path, str] = {
        good: f"SELECT {columns} {joined.format('ANTI')} ORDER BY s.{ROW}",
        bad: f"SELECT {columns}, b.reasons AS {REASONS} {joined.format('')} ORDER BY s.{ROW}",
    }
    for path, query in queries.items():
        db.execute(f"COPY ({query}) TO {text_sql(path)} (FORMAT parquet, COMPRESSION zstd)")
    rows = db.rows("SELECT count(*) FROM taxiway_bad")[0][0]
    db.execute("DROP TABLE taxiway_bad")
    return Split(good, bad, int(rows))
