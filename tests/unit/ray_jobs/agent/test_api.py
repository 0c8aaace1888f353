"""The API's manners: the token, what it refuses and how it says so, and its OpenAPI document."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from operators.core.errors import ConfigurationError, ServiceError
from operators.core.traffic import AppState, Route, RouteState
from ray_jobs.agent.actors import Settings, bind_of
from ray_jobs.agent.agent import Agent
from ray_jobs.agent.api import application
from ray_jobs.agent.auth import Admission
from tests.support.routes import full_route

TOKEN = {"Authorization": "Bearer t0ken"}


class Http:
    """Calls an ASGI application, without a server."""

    def __init__(self, app: Any) -> None:
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://agent", headers=TOKEN)

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self._runner.run(self._client.request(method, path, **more))

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


class NothingDeployed:
    """Nothing is deployed, and Ray may be away."""

    away = False

    def states(self) -> dict[str, AppState]:
        if self.away:
            raise ServiceError("Ray Serve does not answer; try again")
        return {}

    def answers(self, model: str, version: str, timeout_s: float) -> bool:
        return False

    def deploy(self, model: str, version: str, spec_json: str, model_uri: str) -> None:
        raise ConfigurationError("the spec is of 'other', not of 'm'")

    def delete(self, model: str, version: str) -> None:
        raise AssertionError("nothing is there")


@pytest.fixture
def versions() -> NothingDeployed:
    return NothingDeployed()


@pytest.fixture
def http(tmp_path: Path, versions: NothingDeployed) -> Iterator[Http]:
    guarded = Admission(application(Agent(tmp_path, versions)), token="t0ken", body_bytes=10_000)
    with contextlib.closing(Http(guarded)) as client:
        yield client


def documented(http: Http) -> dict[str, Any]:
    return http.get("/v1/openapi.json").json()


def test_no_route_is_open_but_one(http: Http) -> None:
    paths = documented(http)["paths"]
    operations = [(method, path) for path, found in paths.items() for method in found]
    assert len(operations) >= 16
    for method, path in operations:
        where = re.sub(r"\{\w+\}", "1", path)
        for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic t0ken"}):
            answer = http.request(method, where, headers=headers)
            assert answer.status_code == (200 if path == "/v1/health/live" else 401), (method, path)
            assert "t0ken" not in answer.text
    assert http.get("/anything", headers={"Authorization": ""}).status_code == 401


def test_the_document_names_every_route_and_every_documented_route_exists(tmp_path: Path, http: Http) -> None:
    document = documented(http)
    assert document["openapi"].startswith("3.1")
    inside = {
        (m.lower(), r.path)
        for r in _flat(application(Agent(tmp_path / "x", NothingDeployed())))
        for m in r.methods - {"HEAD"}
    }
    said = {(method, path) for path, found in document["paths"].items() for method in found}
    assert inside == said
    contract = {
        ("get", "/v1/health"), ("get", "/v1/apps"), ("get", "/v1/apps/{model}/{version}"), ("put", "/v1/apps/{model}/{version}"),
        ("delete", "/v1/apps/{model}/{version}"), ("get", "/v1/routes"), ("put", "/v1/routes/{model}"),
        ("delete", "/v1/routes/{model}"), ("post", "/v1/routes/{model}/renew"), ("get", "/v1/counters/{model}"),
        ("post", "/v1/rollback/{model}"), ("get", "/v1/journal"), ("get", "/v1/openapi.json"), ("get", "/metrics"),
    }  # fmt: skip
    assert contract <= said
    for path, found in document["paths"].items():
        for method, operation in found.items():
            where = re.sub(r"\{\w+\}", "1", path)
            answer = http.request(method, where)
            assert "there is nothing at" not in answer.text, (method, path)
            assert answer.status_code != 405
            assert {"400", "401", "409", "503"} <= set(operation["responses"]), (method, path)
            assert "422" not in operation["responses"]
            assert operation["summary"]
    # Every reference leads somewhere.
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert names <= set(document["components"]["schemas"])
    assert document["components"]["schemas"]["RouteBody"]["additionalProperties"] is False


def _flat(app: Any) -> list[Any]:
    found, waiting = [], list(app.routes)
    while waiting:
        route = waiting.pop()
        if hasattr(route, "methods"):
            found.append(route)
        else:
            waiting.extend(getattr(route, "routes", None) or route.original_router.routes)
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weigth_bp": 1}, "body: weigth_bp: unknown key"),
        ({"weight_bp": 10_001}, "body: weight_bp: should be less than or equal to 10000; got 10001"),
        ({"weight_bp": 0.5}, "body: weight_bp"),
        ({"weight_bp": True}, "body: weight_bp"),
        ({"stable": "v1"}, "body: stable"),
        ({"stable": 1}, "body: stable"),
        ({"canary": "2", "weight_bp": 1}, "lease_s"),
        ({"weight_bp": 1, "lease_s": 60}, "canary"),
        ({"canary": "1"}, "cannot be both"),
        ({"unit": {}}, "unit"),
        ({"unit": {"header": "X-Ok", "field": "a"}}, "unit"),
        ({"unit": {"header": "a b"}}, "unit"),
        ({"holder": ""}, "body: holder"),
        ({"slow_us": 0}, "slow_us"),
        ({"lease_s": "NaN"}, "lease_s"),
    ],
)
def test_a_route_that_is_wrong_is_refused_in_words(http: Http, change: dict[str, Any], words: str) -> None:
    answer = http.request("PUT", "/v1/routes/m", json={"stable": "1", **change})
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]
    assert http.get("/v1/routes").json() == {}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("PUT", "/v1/routes/m", "{", 400, "body"),
        ("PUT", "/v1/routes/m", "[]", 400, "body"),
        ("PUT", "/v1/routes/m", "{}", 400, "body: stable: is missing"),
        ("PUT", "/v1/routes/M", '{"stable": "1"}', 400, "path: model"),
        ("PUT", "/v1/routes/m", '{"stable": "1"}', 409, "m/1 is NOT_STARTED; it cannot have traffic. Deploy it with"),
        ("POST", "/v1/routes/m/renew", '{"holder": "x"}', 404, "m has no route; set it with PUT /v1/routes/m"),
        ("POST", "/v1/rollback/m", '{"reason": "", "actor": "x"}', 400, "body: reason"),
        ("GET", "/v1/journal?after=-1", None, 400, "query: after"),
        ("GET", "/v1/journal?after=x", None, 400, "query: after"),
        ("DELETE", "/v1/apps/m/1?drain_s=nan", None, 400, "query: drain_s"),
        ("DELETE", "/v1/apps/m/1?drain_s=-1", None, 400, "query: drain_s"),
        ("PUT", "/v1/apps/m/1", '{"spec": "{}", "model_uri": "models:/m/1"}', 400, "the spec is of 'other'"),
        ("GET", "/v1/nothing", None, 404, "there is nothing at /v1/nothing"),
        ("POST", "/v1/routes", "{}", 405, "POST is not allowed here"),
        ("PUT", "/v1/routes/m", " " * 10_001, 413, "larger than 10000 bytes"),
    ],
)
def test_what_is_refused_is_refused_in_words(
    http: Http, method: str, path: str, body: str | None, status: int, words: str
) -> None:
    answer = http.request(method, path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert words in answer.json()["error"]


def test_every_field_of_a_route_comes_back_as_it_was_set(tmp_path: Path) -> None:
    class Running(NothingDeployed):
        def states(self) -> dict[str, AppState]:
            return {f"flights-{version}": AppState(status="RUNNING") for version in "345"}

        def answers(self, model: str, version: str, timeout_s: float) -> bool:
            return True

    route = full_route()
    guarded = Admission(application(Agent(tmp_path, Running())), token="t0ken")
    with contextlib.closing(Http(guarded)) as client:
        body = route.model_dump(mode="json", exclude={"model"})
        answer = client.request("PUT", "/v1/routes/flights", json=body)
        assert answer.status_code == 200, answer.text
        assert {name: answer.json()[name] for name in body} == body
        now = client.get("/v1/routes").json()["flights"]
    assert {name: now[name] for name in body} == body
    assert Route.of("flights", RouteState.model_validate(now)) == route
    assert RouteState.model_validate(now).weight_now_bp == route.weight_bp


def test_a_body_without_a_length_is_limited_too(http: Http) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield b" " * 6_000

    answer = http.request("PUT", "/v1/routes/m", content=body())
    assert (answer.status_code, "larger than" in answer.text) == (413, True)


def test_when_ray_is_away_the_answer_is_503(http: Http, versions: NothingDeployed) -> None:
    versions.away = True
    answer = http.get("/v1/apps")
    assert (answer.status_code, answer.json()) == (503, {"error": "Ray Serve does not answer; try again"})


def test_what_takes_too_long_is_ended() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(5)

    with contextlib.closing(Http(Admission(slow, token="t0ken", answer_s=0.01))) as client:
        answer = client.get("/v1/routes")
    assert (answer.status_code, "took longer than 0.01 s" in answer.text) == (503, True)


def test_an_empty_token_lets_nobody_start() -> None:
    with pytest.raises(ValueError, match="TAXIWAY_AGENT_TOKEN"):
        Admission(lambda *_: asyncio.sleep(0), token="")


def test_nothing_listens_beyond_this_machine_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAXIWAY_AGENT_BIND", raising=False)
    assert bind_of("TAXIWAY_AGENT_BIND", "http://127.0.0.1:8300") == "127.0.0.1:8300"
    with pytest.raises(ConfigurationError, match="Set TAXIWAY_AGENT_BIND=host:port"):
        bind_of("TAXIWAY_AGENT_BIND", "http://10.1.2.3:8300")
    monkeypatch.setenv("TAXIWAY_AGENT_BIND", "0.0.0.0:8300")
    assert bind_of("TAXIWAY_AGENT_BIND", "http://10.1.2.3:8300") == "0.0.0.0:8300"


def test_an_edge_is_set_up_by_variables_that_are_checked_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "AGENT_URL": "http://127.0.0.1:8201",
        "EDGE_URL": "http://127.0.0.1:8200",
        "SERVE_URL": "http://127.0.0.1:8000",
        "EDGE_STATE_DIR": str(tmp_path),
        "AGENT_TOKEN": "t0ken",
        "EDGE_REQUESTS_PER_S": "50",
    }.items():
        monkeypatch.setenv(f"TAXIWAY_{name}", value)
    settings = Settings.load()
    config = settings.edge_config()
    assert (config.bind, config.upstream, config.requests_per_s) == ("127.0.0.1:8200", "127.0.0.1:8000", 50)
    assert "t0ken" not in repr(settings)
    for name, value, words in (("UNITS", "many", "is not a number"), ("TOKENS", "/nowhere", "there is no file")):
        with monkeypatch.context() as patch:
            patch.setenv(f"TAXIWAY_EDGE_{name}", value)
            with pytest.raises(ConfigurationError, match=words):
                Settings.load()
