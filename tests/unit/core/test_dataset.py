from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.core.dataset import Dataset, Snapshot, TableSource, Window, build, snapshot
from operators.core.errors import ConfigurationError, RejectedError
from operators.core.storage import Storage

WINDOW = Window(start=datetime(2013, 1, 1), end=datetime(2013, 3, 1))
TABLES = {"t": TableSource(source="raw/t", time_column="at")}
ROWS = "(TIMESTAMP '2013-01-01 00:00:00', 1, 'a'), (TIMESTAMP '2013-02-28 23:59:59', 2, NULL), (TIMESTAMP '2013-03-01', 3, 'c')"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path}/store")


def write(storage: Storage, key: str, sql: str) -> None:
    path = Path(storage.root.removeprefix("file://")) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    duckdb.execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")


def read(dataset: Dataset) -> list[tuple]:
    return duckdb.sql(f"FROM '{dataset.uri.removeprefix('file://')}'").fetchall()


def test_a_snapshot_has_the_window_and_survives_json(storage: Storage) -> None:
    write(storage, "raw/t/1.parquet", f'SELECT * FROM (VALUES {ROWS}) v("at", n, name)')
    frozen = snapshot(TABLES, WINDOW, storage, "snapshots")
    assert frozen.tables["t"].rows == 2
    assert frozen.tables["t"].key == f"snapshots/{frozen.digest}/t.parquet"
    assert storage.exists(frozen.tables["t"].key)
    assert Snapshot.model_validate(frozen.model_dump(mode="json")) == frozen


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "NULL", "", None])), min_size=1, max_size=12),
    st.randoms(),
)
@settings(max_examples=15)
def test_the_digest_ignores_order_and_files(rows: list[tuple[int, str | None]], random: object) -> None:
    import tempfile

    def digest(parts: list[list[tuple[int, str | None]]]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            storage = Storage(f"file://{folder}")
            for number, part in enumerate(parts):
                values = ", ".join(
                    f"(TIMESTAMP '2013-01-01', {n}, {'NULL' if s is None else repr(s)})" for n, s in part
                )
                write(
                    storage,
                    f"raw/t/{number}.parquet",
                    f'SELECT "at", n, s::VARCHAR AS s FROM (VALUES {values}) v("at", n, s)',
                )
            return snapshot(TABLES, WINDOW, storage, "s").digest

    shuffled = rows.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole = digest([rows])
    assert whole == digest([[row] for row in shuffled])
    assert whole != digest([[*rows, rows[0]]])
    assert whole != digest([[(rows[0][0] + 1, rows[0][1]), *rows[1:]]])


def test_a_second_snapshot_writes_nothing(storage: Storage) -> None:
    write(storage, "raw/t/1.parquet", f'SELECT * FROM (VALUES {ROWS}) v("at", n, name)')
    first = snapshot(TABLES, WINDOW, storage, "snapshots")
    path = Path(first.tables["t"].uri.removeprefix("file://"))
    before = path.stat().st_mtime_ns
    assert snapshot(TABLES, WINDOW, storage, "snapshots") == first
    assert path.stat().st_mtime_ns == before


def test_renamed_and_mistyped_columns_do_not_stop_a_snapshot(storage: Storage) -> None:
    write(storage, "raw/t/1.parquet", "SELECT TIMESTAMP '2013-01-05' AS at, 1.5 AS speed, 1 AS n")
    write(storage, "raw/t/2.parquet", "SELECT TIMESTAMP '2013-02-05' AS at, 1.5 AS kph, 'one' AS n")
    table = snapshot(TABLES, WINDOW, storage, "s").tables["t"]
    assert table.rows == 2
    assert table.columns["n"] == "VARCHAR"
    assert table.gaps == {"speed": ("2.parquet",), "kph": ("1.parquet",)}


@pytest.mark.parametrize(
    ("source", "column", "error", "message"),
    [
        ("raw/nothing", "at", ConfigurationError, "has no Parquet files in file://"),
        ("raw/t", "att", ConfigurationError, "missing from t in 1 of 1 files, first in 1.parquet; did you mean 'at'?"),
        ("raw/t/1.parquet", "name", ConfigurationError, "is VARCHAR; it must be a TIMESTAMP"),
        ("raw/late", "at", RejectedError, "has no rows with 2013-01-01"),
    ],
)
def test_a_bad_source_says_what_and_where(
    storage: Storage, source: str, column: str, error: type[Exception], message: str
) -> None:
    write(storage, "raw/t/1.parquet", f'SELECT * FROM (VALUES {ROWS}) v("at", n, name)')
    write(storage, "raw/late/1.parquet", "SELECT TIMESTAMP '2014-01-05' AS at")
    with pytest.raises(error, match=re.escape(message)):
        snapshot({"t": TableSource(source=source, time_column=column)}, WINDOW, storage, "s")


def test_build_runs_the_query_with_its_parameters(storage: Storage) -> None:
    write(storage, "raw/t/1.parquet", f'SELECT * FROM (VALUES {ROWS}) v("at", n, name)')
    frozen = snapshot(TABLES, WINDOW, storage, "s")
    sql = 'SELECT n, "at" <= $as_of AS known, $start AS since FROM t ORDER BY n; '
    dataset = build(frozen, sql, {"as_of": datetime(2013, 2, 1)}, storage=storage, prefix="d")
    assert read(dataset) == [(1, True, WINDOW.start), (2, False, WINDOW.start)]
    assert dataset.rows == 2
    assert build(frozen, sql, {"as_of": datetime(2013, 2, 1)}, storage=storage, prefix="d") == dataset
    assert build(frozen, sql, {"as_of": datetime(2012, 2, 1)}, storage=storage, prefix="d").digest != dataset.digest


@pytest.mark.parametrize(
    ("sql", "error", "message"),
    [
        ("SELECT nope FROM t", ConfigurationError, "nope"),
        ("SELECT 1; SELECT 2", ConfigurationError, "2 statements"),
        ("FROM read_csv('/etc/hostname')", ConfigurationError, "Permission Error"),
        ("SELECT * FROM t WHERE n > 9", RejectedError, "no rows"),
    ],
)
def test_a_bad_query_is_explained(storage: Storage, sql: str, error: type[Exception], message: str) -> None:
    write(storage, "raw/t/1.parquet", f'SELECT * FROM (VALUES {ROWS}) v("at", n, name)')
    frozen = snapshot(TABLES, WINDOW, storage, "s")
    with pytest.raises(error, match=message):
        build(frozen, sql, {"as_of": WINDOW.end}, storage=storage, prefix="d")


def test_build_needs_as_of(storage: Storage) -> None:
    write(storage, "raw/t/1.parquet", f'SELECT * FROM (VALUES {ROWS}) v("at", n, name)')
    frozen = snapshot(TABLES, WINDOW, storage, "s")
    with pytest.raises(ConfigurationError, match="as_of"):
        build(frozen, "FROM t", {}, storage=storage, prefix="d")


def test_a_window_is_ordered_and_has_no_zone() -> None:
    with pytest.raises(ValueError, match="end after its start"):
        Window(start=WINDOW.end, end=WINDOW.start)
    with pytest.raises(ValueError, match="no time zone"):
        Window.model_validate({"start": "2013-01-01T00:00:00Z", "end": "2013-02-01T00:00:00Z"})
    assert Window.ending(WINDOW.end, 3600).hours == 1
