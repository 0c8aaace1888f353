"""The agent's API, with a real HAProxy behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.agent_world import HOLDER, MODEL, World, world_in
from tests.support.waiting import until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_in(tmp_path_factory.mktemp("agent")) as world:
        world.start_agent()
        world.start_keeper()
        world.wait_ready()
        yield world


@pytest.fixture
def world(shared: World) -> World:
    shared.api("DELETE", f"/v1/routes/{MODEL}")
    shared.serve.held.clear()
    for version in "1234":
        shared.versions.put(f"{MODEL}-{version}", "RUNNING")
    return shared


def rows(world: World, arm: str) -> dict[str, Any]:
    return {row["version"]: row for row in world.api.counters()["rows"] if row["arm"] == arm}


class TestRoutes:
    def test_traffic_goes_where_the_route_says_and_is_counted(self, world: World) -> None:
        status, answer = world.api.route(canary="2", weight_bp=10_000)
        assert (status, answer["behind"], answer["weight_now_bp"]) == (200, [], 10_000), answer
        before = rows(world, "canary").get("2", {}).get("requests", 0)
        call = world.call()
        assert [call(f"u{i}") for i in range(20)] == [(200, "2")] * 20
        row = rows(world, "canary")["2"]
        assert row["requests"] - before == 20
        assert row["weight_bp"] == 10_000
        assert sum(count for _, count in row["latency"]) == row["requests"]
        assert row["latency"][-1][0] is None
        assert world.api.route()[0] == 200
        assert call() == (200, "1")
        assert world.api("GET", "/v1/routes")[1][MODEL]["canary"] is None

    def test_a_version_that_does_not_run_gets_no_traffic(self, world: World) -> None:
        status, answer = world.api.route(stable="9")
        assert status == 409
        assert f"{MODEL}/9 is NOT_STARTED" in answer["error"]
        world.versions.put(f"{MODEL}-2", "DEPLOYING")
        assert world.api.route(canary="2")[0] == 409
        assert world.api("GET", "/v1/routes")[1] == {}

    def test_only_the_holder_moves_a_route(self, world: World) -> None:
        assert world.api.route()[0] == 200
        status, answer = world.api.route(holder="release-2")
        assert status == 409
        assert "held by release-1, not by release-2" in answer["error"]
        assert world.api.route(holder=None)[0] == 409
        assert world.api("DELETE", f"/v1/routes/{MODEL}?holder=release-2")[0] == 409
        assert world.api.route(holder="release-2", query=f"?holder={HOLDER}")[0] == 200  # handed over
        assert world.api.route()[0] == 409
        assert world.api.route(query="?force=true")[0] == 200
        assert world.api.route(holder=None, query=f"?holder={HOLDER}")[0] == 200  # given up
        assert world.api.route(holder="release-3")[0] == 200

    def test_a_lease_is_renewed_by_its_holder_until_it_ends(self, world: World) -> None:
        renew = f"/v1/routes/{MODEL}/renew"
        assert world.api("POST", renew, {"holder": HOLDER})[0] == 404
        first = world.api.route(canary="2", weight_bp=10_000, lease_s=3.0)[1]["lease_expires_at"]
        time.sleep(0.5)
        asked_at = time.time()
        status, answer = world.api("POST", renew, {"holder": HOLDER})
        assert (status, answer["behind"]) == (200, [])
        ends_at = answer["lease_expires_at"]
        assert ends_at >= max(first + 0.5, asked_at + 3.0) - 0.1
        assert ends_at <= time.time() + 3.0 + 0.1
        assert world.api("POST", renew, {"holder": "another"})[0] == 409
        known = len(world.api.journal("lease_expired"))
        time.sleep(max(0.0, first + 0.2 - time.time()))
        answered = world.call()()
        if time.time() < ends_at:  # else the machine has slept through the rest of the lease
            assert answered == (200, "2")
        call = world.call()
        until(lambda: call() == (200, "1"), "the lease ends")
        assert time.time() > ends_at - 0.1
        until(lambda: len(world.api.journal("lease_expired")) > known, "the agent takes note")
        entry = world.api.journal("lease_expired")[known:]
        assert [(e["model"], e["canary"], e["weight_bp"], e["holder"]) for e in entry] == [(MODEL, "2", 10_000, HOLDER)]
        now = world.api("GET", "/v1/routes")[1][MODEL]
        assert (now["weight_bp"], now["weight_now_bp"], now["canary"], now["lease_expires_at"]) == (0, 0, "2", None)
        status, answer = world.api("POST", renew, {"holder": HOLDER})
        assert (status, "has ended" in answer["error"]) == (409, True)
        assert world.api("GET", "/v1/routes")[1][MODEL]["weight_now_bp"] == 0
        assert world.api.route()[1]["lease_expires_at"] is None  # a stable route never ends


class TestRollback:
    ORDER = {"reason": "callers complain", "actor": "ada"}

    def test_a_canary_loses_its_weight_and_its_release_cannot_give_it_back(self, world: World) -> None:
        world.api.route(canary="2", weight_bp=10_000)
        status, answer = world.api("POST", f"/v1/rollback/{MODEL}", self.ORDER)
        assert (status, answer) == (200, {"stable": "1", "left": "2", "behind": []})
        assert world.call()() == (200, "1")
        entry = world.api.journal("rolled_back")[-1]
        assert (entry["left"], entry["actor"], entry["reason"]) == ("2", "ada", "callers complain")
        assert world.api("POST", f"/v1/rollback/{MODEL}", self.ORDER)[1]["left"] == "2"  # twice is once
        for attempt in (world.api.route(canary="2", weight_bp=500), world.api.route(stable="2")):
            assert attempt[0] == 409
            assert "was rolled back (callers complain, says ada)" in attempt[1]["error"]
        assert world.api("POST", f"/v1/routes/{MODEL}/renew", {"holder": HOLDER})[0] == 409
        assert world.api.route()[0] == 200  # it may clean up
        assert world.api.route(canary="3", weight_bp=500, holder="release-2", query="?force=true")[0] == 200

    def test_after_a_promotion_the_version_before_gets_the_traffic(self, world: World) -> None:
        world.api.route()
        assert world.api("POST", f"/v1/rollback/{MODEL}", self.ORDER)[0] == 409  # there is none before
        world.api.route(stable="2")
        assert world.api("POST", f"/v1/rollback/{MODEL}", self.ORDER)[1] == {"stable": "1", "left": "2", "behind": []}
        assert world.call()() == (200, "1")
        assert world.api("POST", f"/v1/rollback/{MODEL}", self.ORDER)[0] == 409  # and not back again
        world.api.route(stable="3", holder="release-2", query="?force=true")
        world.versions.put(f"{MODEL}-1", None)
        status, answer = world.api("POST", f"/v1/rollback/{MODEL}", self.ORDER)
        assert (status, "version 1, the one before, is not deployed" in answer["error"]) == (409, True)
        assert world.call()() == (200, "3")

    def test_while_a_promotion_is_watched_the_control_gets_the_traffic(self, world: World) -> None:
        world.api.route()
        world.api.route(stable="2", canary="1", weight_bp=100, from_top=True)
        assert world.api("POST", f"/v1/rollback/{MODEL}", self.ORDER)[1]["stable"] == "1"
        route = world.api("GET", "/v1/routes")[1][MODEL]
        assert (route["stable"], route["canary"], route["from_top"], route["weight_bp"]) == ("1", None, False, 0)

    def test_a_model_without_a_route_is_unknown(self, world: World) -> None:
        assert world.api("POST", f"/v1/rollback/{MODEL}", self.ORDER)[0] == 404


class TestDrain:
    def path(self, drain_s: float = 30) -> str:
        return f"/v1/apps/{MODEL}/2?drain_s={drain_s:g}"

    def state(self, world: World) -> str:
        return str(world.api("GET", f"/v1/apps/{MODEL}/2")[1]["status"])

    def held_request(self, world: World) -> tuple[Callable[[], None], list[Any]]:
        """A request that has reached version 2, and what ends it; then version 1 has the traffic."""
        held = world.serve.held["2"] = threading.Event()
        world.api.route(stable="2")
        found: list[Any] = []
        call = world.call()
        thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
        thread.start()
        until(lambda: world.api.counters()["in_flight"].get("2") == 1, "the request is in flight")
        world.api.route()

        def end() -> None:
            held.set()
            thread.join()

        return end, found

    def test_a_version_with_traffic_is_not_deleted(self, world: World) -> None:
        world.api.route(canary="2", shadow="3")
        for version in "123":
            status, answer = world.api("DELETE", f"/v1/apps/{MODEL}/{version}")
            assert (status, "in the route" in answer["error"]) == (409, True)
        assert world.api("DELETE", f"/v1/apps/{MODEL}/7") == (202, {"status": "NOT_STARTED", "message": ""})

    def test_it_is_deleted_once_its_requests_are_through(self, world: World) -> None:
        end, found = self.held_request(world)
        for _ in range(2):  # asking twice is asking once
            assert world.api("DELETE", self.path())[1]["status"] == "DELETING"
        for _ in range(20):
            assert self.state(world) == "DELETING"
            assert f"{MODEL}-2" in world.versions.states()
            time.sleep(0.02)
        assert not found
        end()
        assert found == [(200, "2")]
        until(lambda: self.state(world) == "NOT_STARTED", "it is deleted")
        assert world.api.route(stable="2")[0] == 409

    def test_its_counters_go_with_it(self, world: World) -> None:
        world.api.route(canary="2", weight_bp=10_000)
        for unit in range(20):
            world.call()(f"u{unit}")
        world.api.route()
        assert world.call()() == (200, "1")

        def requests() -> dict[str, int]:
            rows = world.api.counters()["rows"]
            return {row["version"]: row["requests"] for row in rows if row["arm"] != "edge"}

        def in_haproxy() -> set[str]:
            return {row.version for row in world.edge("a").counters(MODEL)}

        before, kept = requests(), in_haproxy() - {"2"}
        assert before["2"] >= 20
        called = [row for row in world.api.counters()["rows"] if row["arm"] == "edge"]
        world.api("DELETE", self.path())
        until(lambda: in_haproxy() == kept, "its counters are gone")
        del before["2"]
        assert requests() == before
        # What callers saw stays, and a version that comes again begins at nothing.
        assert [row for row in world.api.counters()["rows"] if row["arm"] == "edge"] == called
        world.api("PUT", f"/v1/apps/{MODEL}/2", {"spec": "{}", "model_uri": "models:/m/2"})
        assert world.api.route(canary="2", weight_bp=10_000)[0] == 200
        assert world.call()() == (200, "2")
        time.sleep(1.2)  # an order that went astray would have come by now
        assert requests() == before | {"2": 1}

    def test_the_counters_of_one_that_still_has_a_request_go_later(self, world: World) -> None:
        end, found = self.held_request(world)
        world.api("DELETE", self.path(0.1))
        until(lambda: f"{MODEL}-2" not in world.versions.states(), "it is deleted")
        assert not found
        assert {row.version for row in world.edge("a").counters(MODEL)} >= {"2"}
        end()
        until(lambda: "2" not in {row.version for row in world.edge("a").counters(MODEL)}, "its counters are gone")
        assert world.api("GET", "/v1/health")[1]["edges"][0]["error"] is None

    def test_a_deadline_ends_the_waiting(self, world: World) -> None:
        end, found = self.held_request(world)
        world.api("DELETE", self.path(0.2))
        until(lambda: f"{MODEL}-2" not in world.versions.states(), "it is deleted")
        assert not found
        end()

    def test_one_that_is_deployed_again_stays(self, world: World) -> None:
        end, _ = self.held_request(world)
        world.api("DELETE", self.path())
        deploy = {"spec": "{}", "model_uri": "models:/m/2"}
        assert world.api("PUT", f"/v1/apps/{MODEL}/2", deploy) == (202, {"status": "RUNNING", "message": ""})
        end()
        time.sleep(0.6)  # a deletion that was still meant would have come by now
        assert self.state(world) == "RUNNING"

    def test_a_restart_of_the_agent_does_not_forget_it(self, world: World) -> None:
        end, _ = self.held_request(world)
        world.api("DELETE", self.path())
        world.stop_agent()
        assert f"{MODEL}-2" in world.versions.states()
        end()
        world.start_agent()
        until(lambda: f"{MODEL}-2" not in world.versions.states(), "it is deleted")
        assert world.call()() == (200, "1")
