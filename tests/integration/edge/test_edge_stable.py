"""The edge: stable versions that fail, and a proxy of Serve that comes and goes."""

from __future__ import annotations

import threading

import pytest

from ray_jobs.edge import Edge
from tests.support.edge_servers import Caller, Versions, counted, split
from tests.support.waiting import until


class TestStable:
    @pytest.mark.parametrize(("behaviour", "status"), [(500, 500), (503, 503), ("close", 502), ("cut", 502)])
    def test_a_failure_is_answered_and_counted(
        self, edge: Edge, call: Caller, versions: Versions, behaviour: int | str, status: int
    ) -> None:
        assert call().status == 200
        versions.behaviour["3"] = behaviour
        for _ in range(3):
            assert call().status == status
        for arm in ("stable", "edge"):
            assert (counted(edge, arm).requests, counted(edge, arm).failures) == (4, 3)

    @pytest.mark.parametrize(
        ("weight_bp", "arm", "answered"), [(0, "stable", "stable"), (10_000, "canary", "fallback")]
    )
    def test_an_upstream_that_restarts_costs_nothing(
        self, edge: Edge, call: Caller, versions: Versions, weight_bp: int, arm: str, answered: str
    ) -> None:
        edge.set_route(split(weight_bp))
        assert call().status == 200
        versions.close()
        reborn: list[Versions] = []
        timer = threading.Timer(0.4, lambda: reborn.append(Versions(versions.server_port)))
        timer.start()
        try:
            answer = Caller(edge)()
            assert (answer.status, answer.arm) == (200, answered)
            assert (counted(edge, arm).requests, counted(edge, arm).failures) == (2, 1)
            assert counted(edge, "edge").failures == 0
        finally:
            timer.join()
            reborn[0].close()

    def test_a_proxy_that_was_replaced_costs_nothing(self, edge: Edge, call: Caller, versions: Versions) -> None:
        assert call().status == 200
        versions.behaviour["3"] = "forget"
        answer = call()
        assert (answer.status, answer.version, answer.arm) == (200, "3", "stable")
        assert counted(edge, "edge").failures == 0

    def test_a_proxy_that_comes_back_without_routes_costs_a_second(
        self, edge: Edge, call: Caller, versions: Versions
    ) -> None:
        assert call().status == 200
        versions.behaviour["3"] = 404
        timer = threading.Timer(0.4, lambda: versions.behaviour.pop("3"))
        timer.start()
        answer = call()
        timer.join()
        assert (answer.status, answer.version, answer.arm) == (200, "3", "stable")
        assert counted(edge, "edge").failures == 0

    def test_ready_follows_the_upstream(self, edge: Edge, versions: Versions) -> None:
        assert edge.ready()
        versions.close()
        until(lambda: not edge.ready())
        answer = Caller(edge)("GET", "/v2/health/ready")
        assert (answer.status, answer.json["ready"]) == (503, False)
        assert Caller(edge)("GET", "/v2/health/live").status == 200
