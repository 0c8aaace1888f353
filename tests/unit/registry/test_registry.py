from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.serialization.serialized_objects import DagSerialization
from hypothesis import given
from hypothesis import strategies as st

from operators.core.errors import ConfigurationError, ServiceError, ServiceRefusedError
from operators.registry.assets import model_asset
from operators.registry.client import Registry
from operators.registry.entities import read_metrics, read_version
from operators.registry.hook import MlflowHook, server_of
from operators.registry.operators import CompareVersionsOperator, RegisterModelOperator, SetAliasOperator
from operators.registry.policy import UNKNOWN, compare, displaces, event_extra, links
from operators.registry.server import Server, quoted, read

SECRET = "s3cr3t"
numbers = st.floats(-1e6, 1e6)


# --- Policy -----------------------------------------------------------------------------------------------------------


def made(**changes: Any) -> dict[str, str]:
    known: dict[str, Any] = {
        "data_digest": "d",
        "code_commit": "c",
        "dag_id": "m.train",
        "dag_run": "r",
        "dag_run_url": "http://airflow/dags/m.train/runs/r",
        "validation": {"passed": True, "checks": 3, "failures": [], "docs_url": "s3://docs"},
    }
    return links(**{**known, **changes})


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    assert UNKNOWN not in made().values()
    assert made()["taxiway.validation_warnings"] == "0"
    bare = made(data_digest=None, code_commit="", dag_run_url=None, validation=None)
    assert {name.removeprefix("taxiway.") for name, value in bare.items() if value == UNKNOWN} == {
        "data_digest", "code_commit", "dag_run_url", "validation", "validation_checks", "validation_warnings", "validation_url",
    }  # fmt: skip
    # What Jinja makes of a missing value.
    assert made(data_digest="None")["taxiway.data_digest"] == UNKNOWN


def test_validation_counts_what_did_not_stop_the_run() -> None:
    failures = [{"severity": "warning"}, {"severity": "critical"}, {"severity": "info"}]
    assert made(validation={"passed": False, "failures": failures})["taxiway.validation_warnings"] == "2"
    assert made(validation={"passed": False, "warnings": 7})["taxiway.validation"] == "refused"


def test_an_older_window_does_not_displace_a_newer_one() -> None:
    assert displaces({}, {})
    assert displaces({"taxiway.as_of": "2026-01-01"}, {"taxiway.as_of": "2026-01-01"})
    assert not displaces({"taxiway.as_of": "2026-01-02"}, {"taxiway.as_of": "2026-01-01"})


@given(numbers, numbers, st.sampled_from(["higher", "lower"]), st.floats(0, 10))
def test_comparing_is_fair(before: float, after: float, direction: Any, tolerance: float) -> None:
    def verdict(a: float, b: float) -> str:
        found = compare(
            "m", baseline="1", candidate="2", before={"x": a}, after={"x": b}, directions={"x": direction}, tolerances={"x": tolerance}
        )  # fmt: skip
        return found.rows[0].verdict

    opposite = {"better": "worse", "worse": "better", "same": "same"}
    assert verdict(after, before) == opposite[verdict(before, after)]
    assert verdict(before, before) == "same"


def test_a_metric_that_one_of_two_lacks_is_bad_only_where_there_is_a_baseline() -> None:
    same: dict[str, Any] = {"directions": {"auc": "higher"}, "tolerances": {}, "candidate": "2"}
    assert compare("m", baseline=None, before={}, after={"auc": 1.0}, **same).bad == ()
    assert compare("m", baseline=None, before={}, after={}, **same).bad == ()
    assert [row.verdict for row in compare("m", baseline="1", before={"auc": 1.0}, after={}, **same).bad] == ["unknown"]


def test_the_table_shows_both_and_the_difference() -> None:
    found = compare(
        "m",
        baseline="1",
        candidate="2",
        before={"loss": 0.3, "auc": 0.8},
        after={"loss": 0.25},
        directions={"loss": "lower", "auc": "higher"},
        tolerances={},
    )
    assert found.text().splitlines() == [
        "metric  baseline 1  candidate 2  difference",
        "loss    0.3         0.25         -0.05       better",
        "auc     0.8         -            -           unknown",
    ]


def test_events_are_bounded() -> None:
    extra = event_extra({}, metrics={str(n): 1.0 for n in range(200)}, aliases=(), tags={})
    assert len(extra["metrics"]) == 50


def test_metrics_that_are_not_finite_are_as_good_as_not_measured() -> None:
    rows = [{"key": "a", "value": "NaN"}, {"key": "b", "value": "Infinity"}, {"key": "c", "value": 0.5}]
    assert read_metrics({"data": {"metrics": rows}}) == {"c": 0.5}
    assert read_metrics({}) == {}


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(ServiceError, match="no model version"):
        read_version({"name": "m", "version": "latest"})


# --- The connection ---------------------------------------------------------------------------------------------------


def connection(**fields: Any) -> Any:
    known = {"conn_id": "c", "host": None, "port": None, "schema": None, "login": None, "password": None}
    return SimpleNamespace(**{**known, "extra_dejson": {}, **fields})


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "mlflow", "port": 5000}, "http://mlflow:5000"),
        ({"host": "mlflow", "schema": "https"}, "https://mlflow"),
        ({"host": "https://mlflow.example.com/path/"}, "https://mlflow.example.com/path"),
        ({"host": "https://mlflow.example.com/path", "port": 8443}, "https://mlflow.example.com:8443/path"),
        ({"host": "http://mlflow:5000", "port": 5000}, "http://mlflow:5000"),
    ],
)
def test_addresses(fields: dict[str, Any], url: str) -> None:
    assert server_of(connection(**fields)).url == url


def test_credentials_and_certificates() -> None:
    user = server_of(connection(host="m", login="u", password=SECRET))
    assert (user.username, user.password and user.password.get_secret_value(), user.token) == ("u", SECRET, None)
    token = server_of(connection(host="m", password=SECRET, extra_dejson={"tls_verify": False}))
    assert (token.token and token.token.get_secret_value(), token.username, token.verify) == (SECRET, None, False)
    assert server_of(connection(host="m", extra_dejson={"tls_ca_path": "/ca.pem"})).verify == "/ca.pem"
    hidden = Server(url=f"http://u:{SECRET}@m:1/x")
    assert (hidden.url, hidden.username) == ("http://m:1/x", "u")
    for server in (user, token, hidden):
        assert SECRET not in repr(server) + str(server) + server.page("m", "1")


@pytest.mark.parametrize("host", ["", None])
def test_a_connection_without_a_host_is_explained(host: Any) -> None:
    with pytest.raises(ConfigurationError, match="connection 'c' has no host"):
        server_of(connection(host=host))


def test_an_address_that_is_none_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite://{SECRET}")
    with pytest.raises(ConfigurationError, match="must begin with http") as caught:
        Server.from_environment()
    assert SECRET not in str(caught.value)


def test_the_environment_of_mlflows_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    found = MlflowHook(None).server()
    assert (found.url, found.username, found.verify) == ("https://mlflow", "u", False)


def test_without_the_default_connection_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: Any, conn_id: str) -> Any:
        raise AirflowNotFoundException(conn_id)

    async def nothing_either(_: Any, conn_id: str) -> Any:
        raise AirflowNotFoundException(conn_id)

    monkeypatch.setattr(MlflowHook, "get_connection", nothing)
    monkeypatch.setattr(MlflowHook, "aget_connection", nothing_either)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow")
    assert MlflowHook().server().url == asyncio.run(MlflowHook().aserver()).url == "https://mlflow"
    with pytest.raises(ConfigurationError, match="no Airflow connection 'mine'"):
        MlflowHook("mine").server()


def test_a_text_with_both_quotes_cannot_be_searched_for() -> None:
    assert (quoted("a"), quoted("it's"), quoted('"')) == ("'a'", '"it\'s"', "'\"'")
    with pytest.raises(ConfigurationError, match="both kinds of quotes"):
        quoted("'\"")


class Mlflow(BaseHTTPRequestHandler):
    """Answers with the credentials that it was sent, as a failure."""

    def do_GET(self) -> None:
        said = json.dumps({"error_code": "PERMISSION_DENIED", "message": self.headers.get("Authorization")}).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def mlflow() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mlflow)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "kind"), [(429, ServiceError), (503, ServiceError), (404, ServiceRefusedError)])
def test_what_a_failure_means_for_a_retry(status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="slow down"):
        read(httpx.Response(status, text="slow down", request=httpx.Request("GET", "http://mlflow/x")))


def test_credentials_are_sent(mlflow: str) -> None:
    basic = base64.b64encode(b"u:p").decode()
    for server, sent in (
        (Server(url=mlflow, username="u", password="p"), f"Basic {basic}"),
        (Server(url=mlflow, token="t", username="u", password="p"), "Bearer t"),
        (Server(url=mlflow), "null"),
    ):
        with pytest.raises(ServiceRefusedError) as caught:
            Registry(server).health()
        assert sent in str(caught.value)


# --- Operators in a DAG -----------------------------------------------------------------------------------------------


def test_operators_serialise_and_the_model_is_an_outlet() -> None:
    with DAG("d", schedule=None) as dag:
        RegisterModelOperator(task_id="a", model="m", model_uri="models:/x")
        templated = RegisterModelOperator(task_id="b", model="{{ params.m }}", model_uri="models:/x")
        SetAliasOperator(task_id="c", model="m", alias="champion", version="@challenger")
        CompareVersionsOperator(task_id="d", model="m", metrics={"auc": "higher"})
    again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert [asset.name for asset in again.get_task("a").outlets] == ["m"]
    assert model_asset("m").uri == "x-mlflow://models/m"
    assert templated.outlets == []
    assert set(again.task_ids) == {"a", "b", "c", "d"}
