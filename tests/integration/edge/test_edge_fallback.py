"""The edge: a canary that fails costs nobody anything."""

from __future__ import annotations

import time

import pytest

from ray_jobs.edge import Edge
from tests.support.edge_servers import CANARY_TIMEOUT_S, Caller, Versions, counted, split


class TestFallback:
    @pytest.mark.parametrize("behaviour", [500, 501, 503, 599, "close", "cut", "hang"])
    def test_a_canary_that_fails_costs_no_caller_anything(
        self, edge: Edge, call: Caller, versions: Versions, behaviour: int | str
    ) -> None:
        edge.set_route(split(10_000))
        # The first answer leaves a pooled connection, on which a silent end is hardest to notice.
        assert call().arm == "canary"
        versions.behaviour["4"] = behaviour
        count = 2 if behaviour == "hang" else 9  # one more and the breaker opens
        for _ in range(count):
            answer = call(body=b"x" * 5_000)
            assert (answer.status, answer.version, answer.arm) == (200, "3", "fallback")
            assert answer.json["bytes"] == 5_000
            # Silence on a kept connection says nothing of the version: a fresh one is asked.
            assert versions.asked[answer.request_id] == (["4", "4", "3"] if behaviour == "close" else ["4", "3"])
        canary = counted(edge, "canary")
        assert (canary.version, canary.requests, canary.failures) == ("4", count + 1, count)
        assert sum(n for _, n in canary.latency) == count + 1
        if behaviour == "hang":
            assert sum(n for bound, n in canary.latency if bound is None or bound > CANARY_TIMEOUT_S * 1000) == count
        assert (counted(edge, "fallback").requests, counted(edge, "fallback").failures) == (count, 0)
        assert (counted(edge, "edge").requests, counted(edge, "edge").failures) == (count + 1, 0)

    def test_a_hang_is_counted_although_the_caller_has_left(self, edge: Edge, call: Caller, versions: Versions) -> None:
        edge.set_route(split(10_000))
        versions.behaviour["4"] = "hang"
        with pytest.raises(TimeoutError):
            Caller(edge, timeout_s=CANARY_TIMEOUT_S / 3)()
        time.sleep(CANARY_TIMEOUT_S)
        assert counted(edge, "canary").failures == 1

    def test_a_4xx_of_the_canary_is_an_answer(self, edge: Edge, call: Caller, versions: Versions) -> None:
        edge.set_route(split(10_000))
        versions.behaviour["4"] = 422
        answer = call()
        assert (answer.status, answer.version, answer.arm) == (422, "4", "canary")
        assert counted(edge, "canary").failures == 0

    @pytest.mark.parametrize("behaviour", ["forget", "close once"])
    def test_a_kept_connection_to_a_proxy_that_goes_is_no_failure_of_the_canary(
        self, edge: Edge, call: Caller, versions: Versions, behaviour: str
    ) -> None:
        edge.set_route(split(10_000))
        assert call().arm == "canary"
        versions.behaviour["4"] = behaviour
        answer = call()
        assert (answer.status, answer.version, answer.arm) == (200, "4", "canary")
        assert (counted(edge, "canary").requests, counted(edge, "canary").failures) == (2, 0)

    def test_a_canary_uses_kept_connections_as_stable_does(self, edge: Edge, call: Caller, versions: Versions) -> None:
        edge.set_route(split(10_000))
        for _ in range(10):
            assert call().arm == "canary"
        assert len(versions.connections) <= 3  # one of them asks whether the upstream is there

    def test_a_canary_that_serve_no_longer_knows_costs_nothing(
        self, edge: Edge, call: Caller, versions: Versions
    ) -> None:
        edge.set_route(split(10_000))
        versions.behaviour["4"] = 404
        answer = call()
        assert (answer.status, answer.version, answer.arm) == (200, "3", "fallback")
        assert counted(edge, "canary").failures == 1

    def test_bodies_up_to_the_limit_fall_back_and_larger_ones_go_to_stable(
        self, edge: Edge, call: Caller, versions: Versions
    ) -> None:
        edge.set_route(split(10_000))
        limit = edge.config.fallback_body_bytes
        assert call(body=b"x" * limit).arm == "canary"
        versions.behaviour["4"] = 500
        large_headers = {"X_Large": "y" * 31_000}  # with these, the same body is no longer whole in the buffer
        for body, headers, arm in (
            (b"x" * limit, {}, "fallback"),
            (b"x" * limit, large_headers, "bypass"),
            (b"x" * (limit + 1), {}, "bypass"),
            (b"x" * 10_485_760, {}, "bypass"),
            (iter([b"x" * 70_000] * 3), {}, "bypass"),  # chunked
        ):
            answer = call(body=body, **headers)
            assert (answer.status, answer.arm, answer.version) == (200, arm, "3")
            assert answer.json["bytes"] == (len(body) if isinstance(body, bytes) else 210_000)
        assert counted(edge, "bypass").requests == 4
        assert not any(counters.arm == "stable" for counters in edge.counters("flight_delay"))
