"""Several edges, and what happens when HAProxy, a keeper or the agent ends: real processes."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from operators.core.traffic import Counters
from operators.judge.tally import Tally
from tests.support.agent_world import MODEL, World, answers, world_in
from tests.support.waiting import seconds_until, until


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path / "w") as world:
        yield world


class Load:
    """Calls an edge without a pause, on new connections, and remembers what went wrong."""

    def __init__(self, world: World, name: str = "a") -> None:
        self.served = 0
        self.failed: list[str] = []
        self._world, self._name = world, name
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                status, version = self._world.call(self._name)()
                if status != 200:
                    self.failed.append(f"{status} {version}")
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
            self.served += 1
            time.sleep(0.002)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def test_haproxy_that_is_killed_is_brought_back(world: World) -> None:
    world.start_agent()
    world.start_keeper()
    world.wait_ready()
    world.api.route(canary="2", weight_bp=10_000)
    assert world.call()() == (200, "2")
    since = world.api.since()
    for times in (1, 2):
        old = world.pid()
        os.kill(old, signal.SIGKILL)
        until(lambda o=old: world.pid() != o and answers(world.ports["a"]) == "2", "it answers again")
        until(lambda t=times: len(world.api.journal("edge_restarted")) == t, "the agent knows")
    time.sleep(1.2)
    assert [entry["edge"] for entry in world.api.journal("edge_restarted")] == ["a", "a"]
    found = world.api.counters()
    assert world.api.since()["a"] not in (None, since["a"])
    assert sum(row["requests"] for row in found["rows"] if row["arm"] == "canary") <= 3


def test_haproxy_is_brought_back_while_the_agent_is_dead(world: World) -> None:
    world.start_agent()
    world.start_keeper()
    world.wait_ready()
    world.api.route(stable="3")
    world.stop_agent()
    os.kill(world.pid(), signal.SIGKILL)
    until(lambda: answers(world.ports["a"]) == "3", "it answers again")
    world.start_agent()
    until(lambda: len(world.api.journal("edge_restarted")) == 1, "the agent hears of it")


def test_agent_and_keeper_may_be_killed_and_callers_notice_nothing(world: World) -> None:
    agent, keeper = world.spawn("agent"), world.spawn_keeper()
    until(lambda: answers_api(world), "the agent answers")
    world.wait_ready()
    world.api.route(canary="2", weight_bp=5_000)
    pid = world.pid()
    with Load(world) as load:
        until(lambda: load.served > 20)
        for process in (agent, keeper):
            process.kill()
            process.wait()
        assert not answers_api(world)
        until(lambda: load.served > 100)
        world.spawn("agent")
        world.spawn_keeper()
        until(lambda: answers_api(world), "the agent answers")
        world.wait_ready()
        status, answer = world.api.route(stable="3")
        assert (status, answer["behind"]) == (200, [])
        assert answers(world.ports["a"]) == "3"
    assert load.failed == []
    assert world.pid() == pid
    assert world.api.journal("edge_restarted") == []


def test_an_update_replaces_the_edge_and_callers_notice_nothing(world: World, tmp_path: Path) -> None:
    world.start_agent()
    world.start_keeper()
    world.wait_ready()
    world.api.route(canary="2", weight_bp=5_000)
    pid, since = world.pid(), world.api.since()
    with Load(world) as load:
        until(lambda: load.served > 20)
        world.stop_keeper()
        world.start_keeper(stable_timeout_s=12.0)
        until(lambda: world.api.journal("edge_replaced"))
        assert world.pid() != pid
        until(lambda: world.api.since() != since)
        # A config that HAProxy does not take: it is said, and what runs goes on, watched and told of every change.
        broken = tmp_path / "haproxy.cfg"
        broken.write_text("global\n    no-such-keyword\n")
        (tmp_path / "edge.lua").touch()
        pid = world.pid()
        world.stop_keeper()
        world.start_keeper(template=broken)
        until(lambda: "no-such-keyword" in (world.health()["a"]["error"] or ""))
        status, answer = world.api.route(stable="3")
        assert (status, answer["behind"]) == (200, [])
        assert answers(world.ports["a"]) == "3"
        assert world.health()["a"]["ready"]
        served = load.served
        until(lambda: load.served > served + 20)
    assert load.failed == []
    assert world.pid() == pid
    assert [entry["kind"] for entry in world.api.journal() if entry["kind"].startswith("edge_re")] == ["edge_replaced"]


def answers_api(world: World) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return bool(world.api("GET", "/v1/health/live")[0] == 200)
    return False


def test_an_agent_that_lost_its_state_takes_over_what_the_edges_do(world: World) -> None:
    world.start_agent()
    world.start_keeper()
    world.wait_ready()
    ends_at = world.api.route(canary="2", weight_bp=10_000)[1]["lease_expires_at"]
    world.stop_agent()
    for file in (world.folder / "agent").iterdir():
        file.unlink()
    with Load(world) as load:
        world.start_agent()
        world.wait_ready()
        until(lambda: load.served > 50)
    assert load.failed == []
    route = world.api("GET", "/v1/routes")[1][MODEL]
    assert (route["canary"], route["weight_now_bp"], route["holder"]) == ("2", 10_000, "release-1")
    assert abs(route["lease_expires_at"] - ends_at) < 1.0  # of 60 s
    assert [entry["models"] for entry in world.api.journal("routes_adopted")] == [[MODEL]]
    assert world.api.route()[1]["behind"] == []
    assert world.call()() == (200, "1")


def test_every_edge_converges_and_one_that_was_away_comes_back_with_the_right_routes(world: World) -> None:
    world.start_agent()
    for name in "abc":
        world.start_keeper(name)
    world.wait_ready("a", "b", "c")

    assert world.api.route(stable="1")[1]["behind"] == []
    assert [answers(world.ports[name]) for name in "abc"] == ["1", "1", "1"]
    before = world.api.counters()
    for name, requests in (("a", 5), ("b", 7), ("c", 11)):
        for _ in range(requests):
            assert world.call(name)() == (200, "1")
    after = world.api.counters()
    assert world.api.since(after) == world.api.since(before)
    assert {edge["edge"]: edge["new"] for edge in after["edges"]} == dict.fromkeys("abc", True)
    stable = [sum(r["requests"] for r in found["rows"] if r["arm"] == "stable") for found in (before, after)]
    assert stable[1] - stable[0] == 23

    # One is away: nobody waits long for it, and its callers are still served.
    world.stop_keeper("c")
    status, answer = world.api.route(stable="2")
    assert (status, answer["behind"]) == (200, ["c"])
    assert [answers(world.ports[name]) for name in "abc"] == ["2", "2", "1"]
    until(lambda: world.health()["c"]["behind"] and not world.health()["c"]["ready"], "the agent misses it")
    assert world.api.route(stable="3")[1]["behind"] == ["c"]
    # What it serves is not deleted, as long as there is hope that it hears of the change.
    assert world.api("DELETE", f"/v1/apps/{MODEL}/1?drain_s=60")[0] == 202
    time.sleep(0.6)
    assert f"{MODEL}-1" in world.versions.states()

    # It comes back.
    world.start_keeper("c")
    until(lambda: answers(world.ports["c"]) == "3", "it has the right routes")
    until(lambda: not world.health()["c"]["behind"], "the agent knows")
    until(lambda: f"{MODEL}-1" not in world.versions.states(), "version 1 is deleted")
    assert world.api.route(stable="2")[1]["behind"] == []


def test_an_edge_that_comes_up_has_the_right_routes_before_its_first_answer(world: World) -> None:
    world.start_agent()
    for name in "ab":
        world.start_keeper(name)
    world.wait_ready("a", "b")
    world.api.route(stable="1")
    since = world.api.since()
    world.stop_keeper("b")
    world.edge("b").stop()
    world.api.route(stable="2")
    for name in "bc":  # one with old routes on its disk, one that is new
        found: list[str] = []
        world.start_keeper(name)
        until(lambda n=name, f=found: f.append(answers(world.ports[n])) or f[-1], "it answers")
        assert {version for version in found if version} == {"2"}
        assert 404 not in found
    world.wait_ready("a", "b", "c")
    until(lambda: None not in world.api.since().values())
    found_since = world.api.since()
    assert found_since["a"] == since["a"]
    assert found_since["b"] != since["b"]
    assert [entry["edge"] for entry in world.api.journal("edge_joined")] == ["a", "b", "c"]


def test_gains_of_several_edges_are_counted_once_whatever_restarts(world: World) -> None:
    def reading() -> Counters:
        return Counters.model_validate(world.api.counters())

    def call(**requests: int) -> None:
        for name, number in requests.items():
            for _ in range(number):
                assert world.call(name)() == (200, "1")

    def gained() -> int:
        return sum(row.requests for row in tally.gained.values() if row.arm == "stable")

    world.start_agent()
    for name in "ab":
        world.start_keeper(name)
    world.wait_ready("a", "b")
    world.api.route()
    call(a=30, b=20)
    tally = Tally.begin(reading())
    call(a=5, b=7)
    tally = tally.advance(reading())
    assert gained() == 12

    # One edge's HAProxy is killed, then the agent; a third edge joins.
    pid = world.pid("b")
    os.kill(pid, signal.SIGKILL)
    until(lambda: world.pid("b") != pid and answers(world.ports["b"]) == "1")  # answers once
    world.start_keeper("c")
    world.wait_ready("a", "b", "c")
    call(a=1, b=2, c=3)
    tally = tally.advance(reading())
    assert gained() == 12 + (1 + 1 + 2 + 3)
    world.stop_agent()
    call(a=4, c=1)
    world.start_agent()
    tally = tally.advance(reading())  # perhaps before any edge has reported
    assert gained() >= 19
    world.wait_ready("a", "b", "c")
    tally = tally.advance(reading())
    assert gained() == 19 + 5
    lines = world.api("GET", "/metrics")[1].splitlines()
    about = f'model="{MODEL}",version="1"'
    for name, number in (("a", 40), ("b", 3), ("c", 4)):
        assert f'taxiway_requests_total{{arm="stable",edge="{name}",{about}}} {number}.0' in lines


def test_an_edge_starts_without_the_agent_with_the_routes_that_it_had(world: World) -> None:
    world.start_agent()
    world.start_keeper()
    world.wait_ready()
    world.api.route(stable="3")
    world.stop_keeper()
    world.stop_agent()
    world.edge("a").stop()
    world.start_keeper()
    assert seconds_until(lambda: answers(world.ports["a"]) == "3") > 2.0  # it waits for the agent first
