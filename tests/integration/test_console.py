"""The console: closed to strangers, read by who may read the DAG, and a rollback by who may edit it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi.testclient import TestClient

from operators.core.errors import ServiceError
from operators.core.ledger import Ledger
from operators.judge.evidence import Arm, Evidence, Period
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.release_moves import ReleaseMoves
from operators.ui.api import create_app
from tests.support.release_world import FakeAgent, FakeRegistry
from tests.support.specs import small_spec

OURS = {"X-Taxiway": "console"}


@pytest.fixture
def to(ledger: Ledger) -> ReleaseMoves:
    """Version 2 was promoted over 1; version 3 is a canary and has been looked at."""
    model = f"m_{uuid.uuid4().hex[:8]}"
    agent, registry = FakeAgent("1", "2", "3", model=model), FakeRegistry("1", "2", "3")
    made = ReleaseMoves(ModelTraffic(model, ledger=ledger, registry=registry, agent=agent))
    spec = small_spec(name=model)
    made.promote(made.begin("first", made.find("1")).release_id, "1", None, spec)
    made.promote(made.begin("second", made.find("2")).release_id, "2", "1", spec)
    release_id = made.begin("third", made.find("3")).release_id
    made.set_route(release_id, "canary_5_pct", spec.release, stable="2", version="3", weight_bp=500)
    registry.tag(model, "3", "taxiway.spec", spec.to_json())
    arms = {"stable": Arm(requests=950, failed=0, slow=0), "canary": Arm(requests=50, failed=9, slow=0)}
    made.record_look(release_id, "canary_5_pct", Evidence(periods=(Period(weight_bp=500, weight=0.05, **arms),)))
    return made


@pytest.fixture
def client(to: ReleaseMoves, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The console as a stranger sees it. Airflow's own rules of who may what; no database of Airflow's."""
    monkeypatch.setattr(airflow_app._AuthManagerState, "instance", SimpleAuthManager())
    monkeypatch.setattr(DagModel, "get_team_name", staticmethod(lambda _: None))
    app = create_app(lambda: (to.ledger, to.registry, to.agent))
    with TestClient(app, base_url="http://airflow.test") as found:
        yield found


def as_user(client: TestClient, role: str) -> TestClient:
    user = SimpleAuthManagerUser(username="ada", role=role)
    client.app.dependency_overrides[get_user] = lambda: user  # type: ignore[attr-defined]
    return client


def order(client: TestClient, to: ReleaseMoves, headers: dict[str, str] | None = None, **body: Any) -> Any:
    path = f"/api/models/{to.model}/rollback"
    return client.post(path, json={"reason": "wrong prices", **body}, headers=OURS if headers is None else headers)


def traffic(to: ReleaseMoves) -> tuple[str | None, str | None]:
    route = to.agent.routes()[to.model]
    return route.stable, route.canary


@pytest.mark.parametrize(
    "path", ["/", "/console.js", "/console.css", "/api/models", "/docs", "/openapi.json", "/api/models/m/rollback"]
)
def test_a_stranger_sees_nothing(client: TestClient, path: str) -> None:
    answered = client.get(path)
    assert answered.status_code in (401, 404, 405)
    assert answered.status_code == 401 or path in ("/docs", "/openapi.json", "/api/models/m/rollback")


def test_a_stranger_moves_nothing(client: TestClient, to: ReleaseMoves) -> None:
    assert order(client, to).status_code == 401
    assert client.post(f"/api/models/{to.model}/rollback", headers={"Authorization": "Bearer x"}).status_code in (
        401,
        403,
    )
    assert traffic(to) == ("2", "3")


def test_a_viewer_sees_and_moves_nothing(client: TestClient, to: ReleaseMoves) -> None:
    viewer = as_user(client, "viewer")
    mine = [row for row in viewer.get("/api/models").json() if row["name"] == to.model]
    assert [row["may_roll_back"] for row in mine] == [False]
    answered = order(viewer, to)
    assert answered.status_code == 403
    assert f"{to.model}.release" in answered.json()["detail"]
    assert traffic(to) == ("2", "3")


def test_what_is_shown(client: TestClient, to: ReleaseMoves) -> None:
    answered = as_user(client, "user").get("/api/models")
    row = next(row for row in answered.json() if row["name"] == to.model)
    assert (row["stable"], row["champion"], row["canary"], row["weight_now_pct"]) == ("2", "2", "3", 5.0)
    assert row["may_roll_back"] is True
    release = row["release"]
    assert (release["version"], release["step"], release["look"]) == ("3", "canary_5_pct", 1)
    failures = release["guards"]["failures"]
    assert float(failures["e"]) > float(failures["threshold"])
    # That of the step, as in its verdict: the next one has 25 % of the callers.
    assert failures["margin"] == 0.02 / 0.25
    assert failures["unit"] == "points"
    assert [one["kind"] for one in row["decisions"][:1]] == ["promoted"]


def test_the_page_lets_nothing_foreign_in(client: TestClient) -> None:
    page = as_user(client, "viewer").get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in page.headers["Content-Security-Policy"]
    assert "<script>" not in page.text
    script = client.get("/console.js").text
    assert "innerHTML" not in script


def test_rollback_takes_the_canary_then_goes_back(client: TestClient, to: ReleaseMoves) -> None:
    user = as_user(client, "user")
    first = order(user, to)
    assert first.status_code == 200
    assert (first.json()["stable"], first.json()["left"]) == ("2", "3")
    assert 0 <= first.json()["traffic_s"] < 30
    assert order(user, to).json()["stable"] == "1"
    assert traffic(to) == ("1", None)
    rows = to.ledger.entries(to.model, kind="manual_rollback")
    assert [(row.payload["actor"], row.payload["reason"]) for row in rows] == [("ada", "wrong prices")] * 2
    again = order(user, to)
    assert again.status_code == 409
    assert "knows no version before" in again.json()["error"]
    assert order(user, to, version="2").json()["stable"] == "2"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"X-Taxiway": "other"}, 403),
        (OURS | {"Content-Type": "text/plain"}, 403),
        (OURS | {"Sec-Fetch-Site": "cross-site"}, 403),
        (OURS | {"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_another_sites_page_moves_nothing(
    client: TestClient, to: ReleaseMoves, headers: dict[str, str], status: int
) -> None:
    assert order(as_user(client, "admin"), to, headers).status_code == status
    assert traffic(to) == (("2", None) if status == 200 else ("2", "3"))


@pytest.mark.parametrize("body", [{"reason": "  "}, {"reason": "x" * 501}, {"version": "1; drop"}, {"other": 1}])
def test_wrong_orders_are_refused(client: TestClient, to: ReleaseMoves, body: dict[str, Any]) -> None:
    assert order(as_user(client, "admin"), to, **body).status_code == 422
    assert traffic(to) == ("2", "3")


def test_a_service_that_is_away_is_named(client: TestClient, to: ReleaseMoves, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise ServiceError("the agent did not answer")

    monkeypatch.setattr(to.agent, "routes", away)
    answered = as_user(client, "admin").get("/api/models")
    assert (answered.status_code, answered.json()) == (503, {"error": "the agent did not answer"})


def test_a_quarantine_is_lifted_by_name(client: TestClient, to: ReleaseMoves) -> None:
    to.traffic.quarantine.put("1", "bad", key=f"{to.model}/q")
    path = f"/api/models/{to.model}/quarantine/1/lift"
    body = {"reason": "the labels were wrong"}
    assert as_user(client, "viewer").post(path, json=body, headers=OURS).status_code == 403
    assert as_user(client, "user").post(path, json=body).status_code == 403
    assert client.post(path, json=body, headers=OURS).json() == {"lifted": True}
    assert client.post(path, json=body, headers=OURS).json() == {"lifted": False}
    (row,) = to.ledger.entries(to.model, kind="quarantine_lifted")
    assert (row.payload["by"], row.payload["reason"]) == ("ada", "the labels were wrong")
