"""The edge takes other settings or another config while callers call: a real HAProxy succeeds another."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from operators.core.errors import ServiceError
from operators.core.traffic import Route
from ray_jobs.edge import Edge, EdgeConfig
from ray_jobs.edge.process import recorded_pid
from ray_jobs.edge.succession import Daemons
from tests.support.edge_servers import INFER, MODEL, Caller, Versions, counted, pid_of, split
from tests.support.ports import free_port
from tests.support.waiting import until

RELOADS = 6


class Callers:
    """Threads that call without a pause, two on connections that are kept and two on new ones, and note what fails."""

    def __init__(self, edge: Edge) -> None:
        self.bind = edge.config.bind
        self.served, self.closed = 0, 0
        self.failed: list[str] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(kept,)) for kept in (True, True, False, False)]

    def _run(self, kept: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._done.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.bind, timeout=10)
                headers = {} if kept else {"Connection": "close"}
                connection.request("POST", INFER, b"{}", headers | {"X-Taxiway-Unit": f"u{self.served % 500}"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failed.append(f"{kept} {answer.status}")
                self.closed += kept and answer.will_close
                connection = None if answer.will_close else connection
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{kept} {error!r}")
                connection = None
            self.served += 1

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def die(*_: object) -> None:
    """Stand for the owner's death, which nothing catches."""
    raise KeyboardInterrupt


@pytest.fixture
def other(config: EdgeConfig, edge: Edge) -> Iterator[Callable[..., Edge]]:
    """Return an owner of the same edge with other settings."""
    made = []

    def make(**change: Any) -> Edge:
        made.append(Edge(replace(config, **change)))
        return made[-1]

    yield make
    for owner in made:
        owner.stop()


def listeners(port: int) -> set[str]:
    """Return the HAProxys, by pid, that could accept a connection on a port."""
    line = next(
        words
        for words in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if words[1].endswith(f":{port:04X}") and words[3] == "0A"
    )
    return {
        fd.parts[2]
        for fd in Path("/proc").glob("[0-9]*/fd/*")
        if fd.is_symlink() and _target(fd) == f"socket:[{line[9]}]"
    }


def _target(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


class TestReload:
    def test_callers_notice_nothing(self, edge: Edge, versions: Versions, other: Callable[..., Edge]) -> None:
        # Half of the requests need a loopback listener of the HAProxy that took them: their canary fails.
        edge.set_route(split(5_000))
        versions.behaviour["4"] = 500
        ids = {edge.since()}
        with Callers(edge) as callers:
            for number in range(RELOADS):
                served = callers.served
                until(lambda served=served: callers.served > served + 100)
                edge = other(stable_timeout_s=6.0 + number)
                edge.start()
                ids.add(edge.since())
            until(lambda: callers.served > 100 * (RELOADS + 2))
        assert callers.failed == []
        assert len(ids) == RELOADS + 1
        # Each reload asked both of the connections that were kept to be closed, and none was closed without a word.
        assert callers.closed == 2 * RELOADS
        assert counted(edge, "canary").failures > 0

    def test_one_that_cannot_start_changes_nothing(
        self, edge: Edge, call: Caller, config: EdgeConfig, other: Callable[..., Edge], tmp_path: Path
    ) -> None:
        pid, since = pid_of(edge), edge.since()
        template = tmp_path / "haproxy.cfg"
        template.write_text(config.template.read_text() + "\nbackend broken\n    no-such-keyword\n")
        (tmp_path / "edge.lua").write_text(config.template.with_name("edge.lua").read_text())
        taken = socket.create_server(("127.0.0.1", 0))
        for change, said in (
            ({"template": template}, "no-such-keyword.*goes on as it was"),
            ({"bind": f"127.0.0.1:{taken.getsockname()[1]}"}, "in use.*goes on as it was"),
        ):
            for _ in range(2):
                with pytest.raises(ServiceError, match=said):
                    other(**change).start()
            assert (recorded_pid(config.state_dir), edge.since()) == (pid, since)
            assert call().version == "3"
            edge.set_route(Route(model=MODEL, stable="5"))
            assert (call().version, Caller(edge)().version) == ("5", "5")
            edge.set_route(split(0))
        taken.close()
        # It is not taken for the one that was wanted.
        edge.start()
        assert edge.since() != since
        assert call().version == "3"

    def test_the_address_may_change(self, edge: Edge, call: Caller, other: Callable[..., Edge]) -> None:
        call()
        moved = other(bind=f"127.0.0.1:{free_port()}")
        moved.start()
        assert Caller(moved)().version == "3"
        assert call().version == "3"  # the connection that was there, once more
        with pytest.raises(ConnectionRefusedError):
            Caller(edge)()

    def test_a_connection_that_was_there_follows_the_route(
        self, edge: Edge, call: Caller, versions: Versions, other: Callable[..., Edge]
    ) -> None:
        assert call().version == "3"
        after = other(stable_timeout_s=6.0)
        after.start()
        after.set_route(Route(model=MODEL, stable="5"))
        assert call().version == "5"
        assert after.counters(MODEL) == []
        assert Caller(after)().version == "5"
        assert counted(after, "edge").requests == 1

    def test_a_request_that_is_under_way_is_seen_and_answered(
        self, edge: Edge, call: Caller, versions: Versions, other: Callable[..., Edge]
    ) -> None:
        versions.behaviour["3"] = "slow"
        answers: list[str] = []
        caller = threading.Thread(target=lambda: answers.append(call().version))
        caller.start()
        until(lambda: edge.in_flight(MODEL).get("3"))
        after = other(stable_timeout_s=6.0)
        after.start()
        assert after.in_flight(MODEL) == {"3": 1}
        caller.join()
        assert answers == ["3"]
        until(lambda: not after.in_flight(MODEL).get("3"))

    def test_a_unit_still_counts_once(self, versions: Versions, other: Callable[..., Edge]) -> None:
        edge = other(breaker_failures=1_000)
        edge.start()
        edge.set_route(split(5_000))
        versions.behaviour["4"] = 500

        def go(caller: Caller, units: range) -> None:
            for unit in units:
                caller(X_Taxiway_Unit=f"u{unit}")

        go(Caller(edge), range(100))
        before = counted(edge, "canary")
        assert before.units == before.failed_first > 30
        after = other(breaker_failures=2_000)
        after.start()
        until(lambda: "used:100" in after._runtime.ask("show table units"))  # it learns them in milliseconds
        go(Caller(after), range(100))
        again = counted(after, "canary")
        assert (again.requests, again.units, again.failed_units, again.failed_first) == (before.requests, 0, 0, 0)
        go(Caller(after), range(100, 120))
        assert counted(after, "canary").units + counted(after, "stable").units == 20

    @pytest.mark.parametrize("moment", ["started", "serving"])
    def test_an_owner_who_is_killed_half_way_leaves_one_that_serves(
        self, edge: Edge, call: Caller, config: EdgeConfig, moment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = int(config.bind.rpartition(":")[2])
        changed = Edge(replace(config, stable_timeout_s=6.0))
        step = {"started": "_point_to", "serving": "_release_others"}[moment]
        with monkeypatch.context() as patched:
            patched.setattr(Daemons, step, die)
            with pytest.raises(KeyboardInterrupt):
                changed.start()
        assert len(listeners(port)) == 2
        edge.start()  # of the old settings, or of the new ones: whoever comes next
        assert listeners(port) == {str(pid_of(edge))}
        assert (call().version, Caller(edge)().version) == ("3", "3")
        edge.set_route(Route(model=MODEL, stable="5"))
        assert Caller(edge)().version == "5"

    def test_one_that_was_half_started_does_not_stand_in_the_way(
        self, edge: Edge, call: Caller, config: EdgeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pid = pid_of(edge)
        changed = Edge(replace(config, stable_timeout_s=6.0))
        with monkeypatch.context() as patched:
            patched.setattr(Daemons, "_point_to", die)
            with pytest.raises(KeyboardInterrupt):
                changed.start()
        os.kill(pid, signal.SIGKILL)
        until(lambda: edge.since() is None)
        edge.start()
        assert Caller(edge)().version == "3"
        assert listeners(int(config.bind.rpartition(":")[2])) == {str(pid_of(edge))}

    def test_stopping_ends_those_before_it_too(self, edge: Edge, call: Caller, other: Callable[..., Edge]) -> None:
        call()
        pids = [pid_of(edge)]
        after = other(stable_timeout_s=6.0)
        after.start()
        pids.append(pid_of(after))
        after.stop()
        for pid in pids:
            command = Path(f"/proc/{pid}/cmdline")
            assert not command.exists() or not command.read_bytes()  # gone, but for somebody who reaps it
