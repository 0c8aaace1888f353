"""What happens after a prediction is due must not change a feature: change all of it, and compare bit by bit."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from operators.core.dataset import Snapshot, TableSource, Window, build, snapshot
from operators.core.loader import INCLUDE
from operators.core.storage import Storage
from operators.demo.seed import seed_flights

SQL = (INCLUDE / "queries/flight_delay.sql").read_text()
# The last weeks before daylight saving time begins, the change itself, and some days after it.
WINDOW = Window(start=datetime(2013, 3, 1), end=datetime(2013, 3, 21))
TABLES = {
    "flights": TableSource(source="raw/flights", time_column="sched_dep_at"),
    "weather": TableSource(source="raw/weather", time_column="observed_at"),
}
AFTERWARDS = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
NOT_FEATURES = "flight_id, label, label_time"
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
FAR = datetime(2014, 1, 1)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(f"file://{tmp_path_factory.mktemp('store')}")
    seed_flights(storage, months=[3])
    return storage


@pytest.fixture(scope="module")
def frozen(storage: Storage) -> Snapshot:
    return snapshot(TABLES, WINDOW, storage, "snapshots")


def rows(storage: Storage, frozen: Snapshot, as_of: datetime = FAR, **changed: str) -> duckdb.DuckDBPyRelation:
    """Build the dataset from the snapshot with some tables replaced by a SELECT over themselves."""
    local = {}
    for table, frozen_table in frozen.tables.items():
        source = frozen_table.uri.removeprefix("file://")
        local[table] = Path(storage.root.removeprefix("file://")) / "changed" / f"{table}.parquet"
        local[table].parent.mkdir(exist_ok=True)
        select = changed.get(table, "SELECT * FROM t")
        duckdb.execute(f"COPY (WITH t AS (FROM '{source}') {select}) TO '{local[table]}' (FORMAT parquet)")
    dataset = build(frozen, SQL, {"as_of": as_of}, storage=storage, prefix="datasets", local=local)
    return duckdb.sql(f"FROM '{dataset.uri.removeprefix('file://')}'")


def features(relation: duckdb.DuckDBPyRelation, where: str = "true") -> dict[str, tuple]:
    found = relation.filter(where).project(f"flight_id, * EXCLUDE ({NOT_FEATURES})").fetchall()
    return {row[0]: row[1:] for row in found}


def test_nothing_that_happens_after_departure_is_a_feature(storage: Storage, frozen: Snapshot) -> None:
    changed = ", ".join(f"CAST(hash({column}, flight) % 2000 AS BIGINT) AS {column}" for column in AFTERWARDS)
    later = rows(storage, frozen, flights=f"SELECT * REPLACE ({changed}, 'N00000' AS tailnum) FROM t")
    before = features(rows(storage, frozen))
    assert len(before) > 15_000
    assert features(later) == before


@pytest.mark.parametrize("hours", [7, 12, 18, 23])
@pytest.mark.parametrize("day", [datetime(2013, 3, 5), datetime(2013, 3, 10)])
def test_weather_after_the_cut_changes_no_flight_that_leaves_within_the_hour(
    storage: Storage, frozen: Snapshot, day: datetime, hours: int
) -> None:
    cut = day + timedelta(hours=hours)
    changed = ", ".join(f"{column} + 7 AS {column}" for column in WEATHER)
    after = (
        f"SELECT * REPLACE ({changed}) FROM t WHERE observed_at > '{cut}' UNION ALL FROM t WHERE observed_at <= '{cut}'"
    )
    due = f"event_time < TIMESTAMP '{cut + timedelta(hours=2)}'"  # predicted at the latest just before the next hour
    before = rows(storage, frozen)
    later = rows(storage, frozen, weather=after)
    assert features(later, due) == features(before, due)
    # And the test can fail: the flights from then on do see the change.
    seen, changed_too = features(before, f"NOT {due}"), features(later, f"NOT {due}")
    temp = before.columns.index("temp") - 1
    assert all(
        changed_too[key][temp] == pytest.approx(row[temp] + 7) for key, row in seen.items() if row[temp] is not None
    )
    assert seen


@pytest.mark.parametrize("as_of", [datetime(2013, 3, 2), datetime(2013, 3, 10, 12), datetime(2013, 3, 20, 23, 59)])
def test_no_label_is_known_before_its_time(storage: Storage, frozen: Snapshot, as_of: datetime) -> None:
    dataset = rows(storage, frozen, as_of)
    assert dataset.filter(f"label_time > TIMESTAMP '{as_of}'").fetchall() == []
    assert dataset.filter("(label IS NULL) <> (label_time IS NULL)").fetchall() == []
    assert dataset.filter(f"label IS NOT NULL AND event_time > TIMESTAMP '{as_of}'").fetchall() == []
    assert len(dataset) == frozen.tables["flights"].rows


def test_the_label_is_late_by_more_than_15_minutes(storage: Storage, frozen: Snapshot) -> None:
    dataset = rows(storage, frozen)
    flights = duckdb.sql(f"FROM '{frozen.tables['flights'].uri.removeprefix('file://')}'")
    expected = flights.aggregate("sum(arr_delay > 15), count(arr_delay)").fetchall()
    assert dataset.aggregate("sum(CAST(label AS INTEGER)), count(label)").fetchall() == expected


def test_flight_ids_are_unique_and_categories_are_text(storage: Storage, frozen: Snapshot) -> None:
    dataset = rows(storage, frozen)
    assert dataset.aggregate("count(DISTINCT flight_id) = count(*)").fetchall() == [(True,)]
    types = dict(zip(dataset.columns, map(str, dataset.types), strict=True))
    assert {types[c] for c in ("carrier", "origin", "dest")} == {"VARCHAR"}
    assert types["event_time"] == "TIMESTAMP"
    assert types["label"] == "BOOLEAN"
