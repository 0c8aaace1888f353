from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from operators.compute.address import RayAddress
from operators.compute.hook import RayHook
from operators.core.errors import ConfigurationError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "TAXIWAY_RAY_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"host": "ray-head", "port": 8265}, RayAddress("http://ray-head:8265")),
        ({"host": "http://ray-head/", "port": 8265}, RayAddress("http://ray-head:8265")),
        ({"host": "https://ray.example.com/team/a"}, RayAddress("https://ray.example.com/team/a")),
        ({"host": "ray-head", "extra": {"tls": True}}, RayAddress("https://ray-head")),
        ({"host": "[::1]", "port": 8265}, RayAddress("http://[::1]:8265")),
        ({"host": "h", "extra": {"verify": False}}, RayAddress("http://h", verify=False)),
        ({"host": "h", "extra": {"ca_path": "/ca.pem"}}, RayAddress("http://h", verify="/ca.pem")),
        ({"host": "h", "password": "s"}, RayAddress("http://h", "s")),
        ({"host": "h", "extra": {"dashboard_url": "https://d/"}}, RayAddress("http://h", dashboard_url="https://d")),
    ],
)
def test_a_connection_is_an_address(given: dict[str, Any], found: RayAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps({"conn_type": "ray", **given}))
    assert RayHook("mine").resolve() == found
    assert asyncio.run(RayHook("mine").aresolve()) == found


def test_a_token_comes_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("s\n")
    extra = {"token_path": str(tmp_path / "token")}
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps({"conn_type": "ray", "host": "h", "extra": extra}))
    assert RayHook("mine").resolve().token == "s"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "other")
    assert RayHook(None, address="http://mine", token_path=str(tmp_path / "token")).resolve().token == "s"
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigurationError, match=r"token_path of the connection 'mine': .* No such file"):
        RayHook("mine").resolve()


def test_the_environments_token_is_not_sent_to_a_connections_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-environment")
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps({"conn_type": "ray", "host": "elsewhere"}))
    assert RayHook("mine").resolve().token is None
    monkeypatch.setenv("TAXIWAY_RAY_URL", "http://127.0.0.1:8265/")
    assert RayHook(None).resolve() == RayAddress("http://127.0.0.1:8265", "of-the-environment")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "has no host"),
        ({"host": "ray://h"}, "http:// or https://"),
        ({"host": "ray://h", "port": 10001}, "dashboard"),
    ],
)
def test_a_wrong_connection_says_how_to_mend_it(
    given: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps({"conn_type": "ray", **given}))
    with pytest.raises(ConfigurationError, match=said):
        RayHook("mine").resolve()
