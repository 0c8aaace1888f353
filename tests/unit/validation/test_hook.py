from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from operators.core.errors import ConfigurationError
from operators.validation.gx.operators import ValidateBatchOperator
from operators.validation.hook import database_url, gx_cloud
from operators.validation.operators import GXValidationFailed, ValidateOperator
from tests.support.validation import context, values_between


def connection(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> str:
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(fields))
    return "mine"


def test_a_postgres_connection_becomes_a_url_that_hides_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"sslmode": "require", "cursor": "dictcursor"}
    conn_id = connection(
        monkeypatch,
        conn_type="postgres",
        host="db",
        port=5433,
        login="me",
        password="p@ss/",
        schema="shop",
        extra=extra,
    )
    url = database_url(conn_id)
    assert (url.host, url.port, url.username, url.password, url.database) == ("db", 5433, "me", "p@ss/", "shop")
    assert dict(url.query) == {"sslmode": "require"}
    assert "p@ss" not in f"{url} {url!r}"
    assert database_url(conn_id, "other").database == "other"


def test_a_connection_that_is_no_database_is_refused_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    conn_id = connection(monkeypatch, conn_type="slack", password="xoxb-secret")
    with pytest.raises(ConfigurationError, match="gives no database URL") as caught:
        database_url(conn_id)
    assert "xoxb" not in str(caught.value)


@pytest.mark.parametrize(("price", "fails"), [(1.0, False), (-1.0, True)])
def test_a_table_of_sqlite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, price: float, fails: bool) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("CREATE TABLE orders (id INTEGER, price REAL)")
        db.executemany("INSERT INTO orders VALUES (?, ?)", [(n, price) for n in range(5)])
    conn_id = connection(monkeypatch, conn_type="sqlite", host=str(tmp_path / "shop.db"))
    task = ValidateOperator(
        task_id="t",
        table="orders",
        conn_id=conn_id,
        configure_expectations=values_between,
        run_key="r",
        storage=f"file://{tmp_path}/s",
    )
    if fails:
        with pytest.raises(GXValidationFailed, match="5 of 5 rows"):
            task.execute(context())
    else:
        assert task.execute(context())["success"]


def test_gx_cloud_takes_three_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    conn_id = connection(monkeypatch, conn_type="gx_cloud", login="org", password="token", schema="space")
    assert gx_cloud(conn_id) == {
        "cloud_organization_id": "org", "cloud_access_token": "token", "cloud_workspace_id": "space",
    }  # fmt: skip
    conn_id = connection(monkeypatch, conn_type="gx_cloud", login="org")
    task = ValidateBatchOperator(
        task_id="t",
        configure_batch_definition=print,
        configure_expectations=values_between,
        context_type="cloud",
        conn_id=conn_id,
    )
    with pytest.raises(AirflowFailException, match="lacks cloud_access_token, cloud_workspace_id"):
        task.execute(context())
