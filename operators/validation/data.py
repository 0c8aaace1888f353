"""The data of one validation: a DuckDB view that reads files or a data frame in place, and columns for pandas on demand."""

# ruff: noqa: S608 - every name and path in this SQL is quoted

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from operators.core.duck import name_sql, text_sql
from operators.core.errors import ConfigurationError
from operators.validation.interruptible import InterruptibleDuckDB
from operators.validation.sql_or_pandas import Kind, kind

ROW = "taxiway_row"
_FILE_ROWS = 2**40  # more than a file can have
_FLOATS = ("FLOAT", "DOUBLE")


class Data:
    """A table to validate.

    pandas has one kind of missing number, so NaN is NULL in the view. Rows that are copied come from the source unchanged.

    :param db: an open DuckDB
    :param name: name of the view
    :param source_sql: SQL after FROM
    :param numbered_sql: the same with one more column, `ROW`: the number of the row
    :param frame: returns some of the columns, or all, as a data frame. Default: read through DuckDB
    :param unwritable: name of a column that Parquet cannot hold, if there is one
    """

    def __init__(
        self,
        db: InterruptibleDuckDB,
        name: str,
        source_sql: str,
        numbered_sql: str,
        *,
        frame: Callable[[Sequence[str] | None], Any] | None = None,
        unwritable: str = "",
    ) -> None:
        self.db, self.name, self.unwritable = db, name, unwritable
        self.source_sql, self.numbered_sql = source_sql, numbered_sql
        self._frame = frame or self._read
        self.types: dict[str, str] = {r[0]: r[1] for r in db.rows(f"DESCRIBE FROM {source_sql}")}
        shown = [
            f"nullif({name_sql(c)}, 'nan'::{t}) AS {name_sql(c)}" if t in _FLOATS else name_sql(c)
            for c, t in self.types.items()
        ]
        # Parquet's minimum and maximum leave NaN out. From them DuckDB would conclude that there is no NaN.
        db.execute("SET disabled_optimizers = 'statistics_propagation'")
        db.execute(f"CREATE OR REPLACE VIEW {name_sql(name)} AS SELECT {', '.join(shown)} FROM {source_sql}")

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """Column → kind of values."""
        return {column: kind(type_name) for column, type_name in self.types.items()}

    def frame(self, columns: Sequence[str] | None) -> Any:
        """Return some of the columns as a data frame, or all of them."""
        return self._frame(columns)

    def numbered(self) -> Data:
        """Return the same table with the numbers of its rows as one more column."""
        frame = None if self._frame == self._read else self._frame
        return Data(self.db, f"{self.name}_numbered", self.numbered_sql, self.numbered_sql, frame=frame)

    def rows(self) -> int:
        """Count the rows."""
        return int(self.db.rows(f"SELECT count(*) FROM {name_sql(self.name)}")[0][0])

    def _read(self, columns: Sequence[str] | None) -> Any:
        # At least one column, because an expectation may need nothing but the number of rows.
        names = list(columns) if columns else list(self.types) if columns is None else list(self.types)[:1]
        selected = ", ".join(name_sql(column) for column in names)
        query = f"SELECT {selected} FROM {self.source_sql}"
        return self.db.run(lambda db: db.sql(query).to_arrow_table()).to_pandas()


def open_files(db: InterruptibleDuckDB, name: str, paths: Sequence[Path]) -> Data:
    """Open Parquet files as one table, by the names of their columns.

    :raises ConfigurationError: they cannot be read as one table
    """
    import duckdb

    try:
        files = f"[{', '.join(map(text_sql, paths))}]"
        # A row's number depends only on the place of its file in the list, and on its own place in the file.
        number = f"(list_position({files}, filename) - 1) * {_FILE_ROWS} + file_row_number AS {ROW}"
        scan = f"read_parquet({files}, union_by_name = true, filename = true, file_row_number = true)"
        numbered = f"(SELECT * EXCLUDE (filename, file_row_number), {number} FROM {scan})"
        return Data(db, name, f"read_parquet({files}, union_by_name = true)", numbered)
    except duckdb.Error as error:
        raise ConfigurationError(
            f"the files cannot be read as one Parquet table ({paths[0]} is the first): {error}"
        ) from error


def convert_csv(db: InterruptibleDuckDB, paths: Sequence[Path], out: Path) -> Path:
    """Convert CSV files with a header into one Parquet file. The types of the columns follow from all rows.

    :raises ConfigurationError: they are not CSV, or do not fit together
    """
    import duckdb

    files = ", ".join(map(text_sql, paths))
    try:
        db.execute(
            f"COPY (FROM read_csv([{files}], header = true, sample_size = -1, union_by_name = true)) "
            f"TO {text_sql(out)} (FORMAT parquet)"
        )
    except duckdb.Error as error:
        raise ConfigurationError(
            f"the files cannot be read as CSV with a header ({paths[0]} is the first): {error}"
        ) from error
    return out


def open_frame(db: InterruptibleDuckDB, name: str, frame: Any) -> Data:
    """Open a pandas data frame without a copy of its numbers. Its index is no part of it.

    Of a column with values of several types DuckDB sees only which are missing; pandas checks the rest.
    """
    import numpy as np
    import pyarrow as pa

    if not all(isinstance(column, str) for column in frame.columns):
        raise ConfigurationError("the data frame has columns whose names are not text; rename them to text")
    arrays, unwritable = {}, ""
    for column in frame.columns:
        try:
            arrays[column] = pa.array(frame[column], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            unwritable = column
            known = pa.array(np.ones(len(frame), dtype=bool), mask=frame[column].isna().to_numpy())
            arrays[column] = pa.StructArray.from_arrays([known], names=["is_known"], mask=known.is_null())
    source = f"{name}_frame"
    db.register(source, pa.table({**arrays, ROW: pa.array(np.arange(len(frame)))}))

    def some(columns: Sequence[str] | None) -> Any:
        names = list(frame.columns)
        numbered = frame.assign(**{ROW: np.arange(len(frame))}) if columns and ROW in columns else frame
        return numbered[list(columns or (names if columns is None else names[:1]))]

    plain = f"(SELECT * EXCLUDE ({ROW}) FROM {name_sql(source)})"
    return Data(db, name, plain, name_sql(source), frame=some, unwritable=unwritable)
