"""The edge: HAProxy is started, found and ended."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from operators.core.errors import ConfigurationError, ServiceError
from operators.core.traffic import Route
from ray_jobs.edge import Edge, EdgeConfig, LiveRoute
from tests.support.edge_servers import Caller, Versions, pid_of, split
from tests.support.ports import free_port
from tests.support.waiting import until


class TestProcess:
    def test_a_restart_keeps_the_routes(self, edge: Edge, call: Caller) -> None:
        routes = edge.routes()
        edge.stop()
        edge.stop()
        with pytest.raises(ServiceError, match="does not answer"):
            edge.routes()
        assert not edge.ready()
        edge.start()
        assert edge.routes() == routes
        os.kill(pid_of(edge), signal.SIGKILL)
        until(lambda: not edge.ready())
        with pytest.raises(ServiceError):
            edge.set_route(Route(model="late", stable="1"))
        edge.start()
        assert Caller(edge)().version == "3"
        assert set(edge.routes()) == {"flight_delay", "late"}

    def test_a_second_edge_attaches(self, edge: Edge, call: Caller, config: EdgeConfig) -> None:
        pid = pid_of(edge)
        # As if the agent had died between the disk and the socket.
        (config.state_dir / "routes.map").write_text(
            LiveRoute(Route(model="flight_delay", stable="7"), None, 1).line() + "\n"
        )
        second = Edge(config)
        second.start()
        second.start()
        assert pid_of(second) == pid
        assert call().version == "7"

    def test_whoever_reads_the_pid_file_sees_a_whole_pid(self, edge: Edge, config: EdgeConfig) -> None:
        path, seen, done = config.state_dir / "haproxy.pid", {str(pid_of(edge))}, threading.Event()

        def read_on() -> None:
            while not done.is_set():
                seen.add(path.read_text().strip())

        reader = threading.Thread(target=read_on)
        reader.start()
        pids = {str(pid_of(edge))}
        for breaker_s in (2, 3, 4):
            Edge(replace(config, breaker_s=breaker_s)).start()
            pids.add(str(pid_of(edge)))
        done.set()
        reader.join()
        assert len(pids) == 4
        assert seen == pids

    def test_two_edges_stand_side_by_side(
        self, edge: Edge, call: Caller, config: EdgeConfig, versions: Versions, tmp_path: Path
    ) -> None:
        edge.set_route(split(10_000))
        versions.behaviour["4"] = 500
        other = Edge(replace(config, bind=f"127.0.0.1:{free_port()}", state_dir=tmp_path / "other"))
        other.start()
        try:
            other.set_route(Route(model="flight_delay", stable="5", canary="6", weight_bp=10_000, lease_s=60))
            caller = Caller(other)
            for _ in range(5):
                assert (call().version, caller().version) == ("3", "6")
        finally:
            other.stop()
        assert call().version == "3"

    def test_a_port_that_is_taken_is_reported(self, edge: Edge, config: EdgeConfig, tmp_path: Path) -> None:
        other = Edge(replace(config, state_dir=tmp_path / "other"))
        with pytest.raises(ServiceError, match=f"{config.bind}.*in use"):
            other.start()
        other.stop()
        assert edge.ready()

    def test_settings_that_are_not_valid_are_refused(self, config: EdgeConfig) -> None:
        for change in ({"bind": "8200"}, {"upstream": "a b:1"}, {"stable_timeout_s": 0}, {"fallback_body_bytes": 1}):
            with pytest.raises(ConfigurationError):
                replace(config, **change)

    def test_the_files_are_private(self, edge: Edge, config: EdgeConfig) -> None:
        assert config.state_dir.stat().st_mode & 0o777 == 0o700
        assert (config.state_dir / "admin.sock").stat().st_mode & 0o777 == 0o600
