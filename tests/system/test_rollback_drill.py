"""One drill on the running stack, while callers use the model that is copied."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from operators.core.settings import storage_url
from operators.core.storage import Storage
from operators.demo.callers import Traffic
from operators.drills.load_generator import single_rows
from operators.registry.client import CHAMPION
from tests.support.waiting import until

pytestmark = pytest.mark.system
MODEL, COPY = "flight_delay", "flight_delay_drill"


@pytest.fixture(scope="module")
def champion(system: Any) -> Any:
    """The version that has the traffic; trained first where this file runs alone."""
    play = system.play
    if play.model_traffic.registry.alias(MODEL, CHAMPION) is None:
        since = datetime.now(UTC)
        assert play.follow(f"{MODEL}.train", conf={"as_of": "2013-01-20T00:00:00"})[0] == "success"
        assert play.follow(f"{MODEL}.release", since=since)[0] == "success"
    return play.model_traffic.registry.alias(MODEL, CHAMPION)


@pytest.fixture(scope="module")
def drilled(system: Any, champion: Any) -> dict[str, Any]:
    """A drill with a bad canary, and what callers of the model itself saw meanwhile."""
    system.play.airflow.wait_for_dag("drill")
    bodies = single_rows(Storage(storage_url()).get_bytes(champion.tags["taxiway.smoke_key"]))
    requests = [(f"caller-{n}", json.loads(body)) for n, body in enumerate(bodies)]
    traffic = Traffic(f"{system.stack.url('edge')}/v2/models/{MODEL}/infer", requests, rate=20)
    traffic.start()
    state, tasks, run_id = system.play.follow("drill", conf={"model": MODEL, "fault": "bad_canary"})
    rows = system.play.model_traffic.ledger.entries(MODEL, kind="drill")
    return {"state": state, "tasks": tasks, "tally": traffic.stop(), "rows": [row for row in rows if run_id in row.key]}


def test_rollback_worked_and_the_ledger_says_how_long_it_took(drilled: dict[str, Any]) -> None:
    assert (drilled["state"], set(drilled["tasks"].values())) == ("success", {"success"}), drilled
    (said,) = (row.payload for row in drilled["rows"])
    assert (said["passed"], said["problems"], said["fault"], said["copy"]) == (True, [], "bad_canary", COPY)
    assert (said["ended_by"], said["verdict"], said["failed_requests"]) == ("judge", "Failed", 0), said
    assert 0 < said["fallbacks"] <= said["canary_requests"] < said["requests"]
    assert 0 <= said["to_zero_s"] <= said["rolled_back_s"] <= 15


def test_callers_of_the_model_never_met_it(drilled: dict[str, Any], champion: Any) -> None:
    tally = drilled["tally"]
    assert tally.failed == 0, tally.failures
    assert set(tally.answered) == {champion.version}


def test_nothing_of_the_copy_is_left(system: Any, drilled: dict[str, Any], champion: Any) -> None:
    to = system.play.model_traffic
    assert list(to.agent.routes()) == [MODEL]
    until(lambda: not [name for name in to.agent.apps() if name.startswith(COPY)], "its applications are gone")
    assert (to.registry.versions(COPY), to.registry.alias(COPY, CHAMPION)) == ([], None)
    assert to.registry.alias(MODEL, CHAMPION).version == champion.version
    assert to.ledger.holder(COPY) is None
    assert to.ledger.broken_links(COPY) == to.ledger.broken_links(MODEL) == []
    edge = system.stack.url("edge")
    assert httpx.post(f"{edge}/v2/models/{COPY}/infer", json={}, timeout=10).status_code == 404
    assert len(drilled["rows"]) == 1
