"""Validation against a real PostgreSQL and a real S3, and what a kill leaves."""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from airflow.sdk.exceptions import AirflowFailException

from operators.core.errors import ServiceError
from operators.core.settings import PROJECT_ROOT
from operators.core.storage import Storage
from operators.validation.database import Database, export, open_engine
from operators.validation.operators import GXValidationFailed, ValidateOperator
from tests.support.postgres import Postgres
from tests.support.validation import SUITE, context, values_between

PASSWORD = "s3cr3t/&@pw"


@pytest.fixture(scope="module")
def postgres(postgres_server: Postgres) -> Iterator[sa.URL]:
    with postgres_server.database() as url:
        admin = sa.make_url(url)
        engine = sa.create_engine(admin)
        with engine.begin() as connection:
            connection.execute(sa.text(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'"))
            connection.execute(sa.text("CREATE SCHEMA shop"))
            connection.execute(
                sa.text(
                    "CREATE TABLE shop.orders AS SELECT i AS id, i / 10.0::float8 AS price, 'DE' AS country, "
                    "NULL::timestamp AS paid_at, i::numeric(20, 2) AS total, gen_random_uuid() AS key "
                    "FROM generate_series(0, 119999) i"
                )
            )
            connection.execute(sa.text("UPDATE shop.orders SET price = -1 WHERE id IN (7, 60007)"))
            connection.execute(sa.text("UPDATE shop.orders SET paid_at = '2026-01-01' WHERE id = 119999"))
            connection.execute(sa.text("GRANT USAGE ON SCHEMA shop TO reader"))
            connection.execute(sa.text("GRANT SELECT ON shop.orders TO reader"))
        engine.dispose()
        yield admin.set(username="reader", password=PASSWORD)
    postgres_server.execute("DROP ROLE reader")


@pytest.fixture
def orders_db(postgres: sa.URL, monkeypatch: pytest.MonkeyPatch) -> str:
    where = postgres.query.get("host") or postgres.host or ""
    connection = {
        "conn_type": "postgres",
        "host": where,
        "port": postgres.port,
        "login": "reader",
        "password": PASSWORD,
        "schema": postgres.database,
    }
    monkeypatch.setenv("AIRFLOW_CONN_ORDERS_DB", json.dumps(connection))
    return "orders_db"


def task(tmp_path: Path, **kwargs: Any) -> ValidateOperator:
    return ValidateOperator(task_id="validate", run_key="run", storage=f"file://{tmp_path}/store", **kwargs)


def expectations(_: Any) -> Any:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=100),
        gxe.ExpectColumnValuesToBeBetween(column="price", min_value=0, mostly=0.99),
        gxe.ExpectColumnValuesToMatchRegex(column="country", regex="^[A-Z]{2}$"),
        gxe.ExpectColumnMedianToBeBetween(column="price", min_value=0, max_value=10_000),
        gxe.ExpectColumnQuantileValuesToBeBetween(
            column="price", quantile_ranges={"quantiles": [0.5], "value_ranges": [[0, 10_000]]}
        ),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["id", "country"]),
        gxe.ExpectColumnValuesToBeOfType(column="price", type_="DOUBLE PRECISION"),
    ]


def test_a_table_is_checked_where_it_is(tmp_path: Path, orders_db: str) -> None:
    run = context()
    checked = task(tmp_path, table="orders", schema="shop", conn_id=orders_db, configure_expectations=expectations)
    assert checked.execute(run)["success"]
    report = run["ti"].xcoms["report"]
    assert (report["rows"], report["checks"], report["dataset_uri"]) == (120_000, 7, None)


def test_a_query_and_a_column_that_is_missing(tmp_path: Path, orders_db: str) -> None:
    query = "SELECT id, price AS amount FROM shop.orders WHERE id < 100;"
    with pytest.raises(GXValidationFailed, match="column price is missing from validate"):
        task(tmp_path, query=query, conn_id=orders_db, configure_expectations=values_between).execute(context())
    query = "SELECT id, price FROM shop.orders WHERE id < 7"
    assert task(tmp_path, query=query, conn_id=orders_db, configure_expectations=values_between).execute(context())[
        "success"
    ]


def test_bad_rows_of_a_table_are_set_aside(tmp_path: Path, orders_db: str) -> None:
    run = context()
    (tmp_path / "suite.yaml").write_text(SUITE)
    query = "SELECT * FROM shop.orders"
    found = task(tmp_path, query=query, conn_id=orders_db, suite=str(tmp_path / "suite.yaml")).execute(run)
    bad = duckdb.sql(f"FROM '{run['ti'].xcoms['report']['quarantine_uri'].removeprefix('file://')}'").df()
    assert bad["id"].tolist() == [7, 60007]
    good = duckdb.sql(f"FROM '{found['dataset_uri'].removeprefix('file://')}'")
    assert good.aggregate("count(*), max(paid_at)::VARCHAR, sum(total)::BIGINT").fetchall() == [
        (119_998, "2026-01-01 00:00:00", 119_999 * 60_000 - 60_014)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"table": "nothing", "schema": "shop"},
            "nothing cannot be read from the database: relation .* does not exist",
        ),
        ({"query": "SELEC 1"}, "cannot be read from the database: syntax error"),
        ({"query": "WITH x AS (DELETE FROM shop.orders RETURNING *) SELECT * FROM x"}, "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, orders_db: str, arguments: Any, message: str) -> None:
    with pytest.raises(AirflowFailException, match=message):
        task(tmp_path, conn_id=orders_db, configure_expectations=values_between, **arguments).execute(context())


def test_the_password_shows_nowhere(
    tmp_path: Path, orders_db: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    run, said = context(), ""
    task(tmp_path, table="orders", schema="shop", conn_id=orders_db, configure_expectations=expectations).execute(run)
    connection = json.loads(os.environ["AIRFLOW_CONN_ORDERS_DB"])
    for change in ({"host": "127.0.0.1", "port": 9}, {"host": "no.such.host.invalid"}):
        monkeypatch.setenv("AIRFLOW_CONN_ORDERS_DB", json.dumps(connection | change))
        with pytest.raises(ServiceError) as caught:
            task(tmp_path, table="orders", conn_id=orders_db, configure_expectations=values_between).execute(context())
        said += "".join(map(repr, (caught.value, caught.value.__cause__, caught.value.__context__)))
    kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "store").rglob("*") if path.is_file())
    for text in (said, json.dumps(run["ti"].xcoms), kept, caplog.text):
        assert PASSWORD not in text
        assert quote(PASSWORD, safe="") not in text


def test_a_long_statement_is_ended_by_the_server(postgres: sa.URL) -> None:
    engine = open_engine(postgres, statement_timeout_s=0.2)
    with pytest.raises(ServiceError, match="statement timeout"):
        Database(engine, query="SELECT pg_sleep(20) AS x").count()
    engine.dispose()


def test_an_empty_table_can_be_exported(postgres: sa.URL, tmp_path: Path) -> None:
    engine = open_engine(postgres, statement_timeout_s=10)
    path = export(Database(engine, query="SELECT * FROM shop.orders WHERE false"), tmp_path / "t.parquet")
    assert duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(0,)]
    engine.dispose()


@pytest.mark.usefixtures("s3")
def test_a_dataset_in_s3_and_its_quarantine(tmp_path: Path) -> None:
    import boto3

    bucket = f"test-{secrets.token_hex(6)}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    storage = Storage(f"s3://{bucket}")
    frame = pd.DataFrame({"id": np.arange(100), "price": np.linspace(0, 10, 100), "country": ["DE", "FR"] * 50})
    for number, part in enumerate(
        (frame.head(50), frame.tail(50).assign(price=lambda f: f["price"].where(f["id"] != 57, -1.0)))
    ):
        part.to_csv(tmp_path / f"{number}.csv", index=False)
        storage.upload(tmp_path / f"{number}.csv", f"raw/{number}.csv")
    (tmp_path / "suite.yaml").write_text(SUITE)
    run = context()
    checked = ValidateOperator(
        task_id="validate",
        run_key="run",
        source=f"s3://{bucket}/raw/*.csv",
        suite=str(tmp_path / "suite.yaml"),
        storage=f"s3://{bucket}/checked",
        docs_base_url="https://docs.example",
    )
    found = checked.execute(run)
    assert found["dataset_uri"] == f"s3://{bucket}/checked/run/good.parquet"
    bad = storage.download("checked/run/quarantine.parquet", tmp_path / "bad.parquet")
    assert duckdb.sql(f"SELECT id FROM '{bad}'").fetchall() == [(57,)]
    assert run["ti"].xcoms["_link_DataDocsLink"] == "https://docs.example/run/docs/index.html"
    assert storage.exists("checked/run/docs/index.html")


SLOW = """
import signal, sys, tempfile, time
from pathlib import Path
from tests.support.postgres import Postgres
from tests.support.validation import context, values_between
from airflow.sdk.exceptions import AirflowException, AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout
from operators.validation import data
from operators.validation.operators import ValidateOperator
import duckdb
import great_expectations.expectations as gxe
from operators.validation.gx_context import Engine
Engine()  # the imports are not what is timed

class Slow(data.Data):
    # A view over far more rows than can be counted in time.
    def __init__(self, db, name, *arguments, **named):
        big = "(SELECT range % 7 - 1.0 AS price FROM range(1000000000000))"
        super().__init__(db, name, big, big)

import operators.validation.validation as table
table.open_files = lambda db, name, paths: Slow(db, name)
tempfile.tempdir = sys.argv[1]
Path(sys.argv[1]).mkdir()
duckdb.sql("SELECT 1.0 AS price").write_parquet(sys.argv[2])

def execute(how):
    task = ValidateOperator(
        task_id="t", source=sys.argv[2], configure_expectations=values_between, run_key="r", storage=sys.argv[3]
    )
    if how == "timeout":
        with timeout(1):
            task.execute(context())
    else:
        signal.signal(signal.SIGALRM, lambda *_: task.on_kill())
        signal.setitimer(signal.ITIMER_REAL, 1)
        task.execute(context())

for how in ("timeout", "kill"):
    began = time.monotonic()
    try:
        execute(how)
    except (AirflowTaskTimeout, AirflowException) as error:
        print(how, type(error).__name__, list(Path(sys.argv[1]).iterdir()), time.monotonic() - began < 60)
"""


def test_a_time_out_or_a_kill_ends_the_query_and_leaves_no_files(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "tmp"), str(tmp_path / "one.parquet"), f"file://{tmp_path}/store"]
    done = subprocess.run(
        [sys.executable, "-c", SLOW, *arguments], cwd=PROJECT_ROOT, timeout=300, capture_output=True, text=True
    )
    assert "timeout AirflowTaskTimeout [] True" in done.stdout, done.stderr[-3000:]
    assert "kill AirflowException [] True" in done.stdout, done.stderr[-3000:]
