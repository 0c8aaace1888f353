"""The edge: a canary that fails again and again, or has too much to do, gets nothing more."""

from __future__ import annotations

import statistics
import threading
import time

from ray_jobs.edge import Edge
from tests.support.edge_servers import MODEL, Caller, Versions, counted, split
from tests.support.waiting import until

FAILURES = 10


def broken(edge: Edge, call: Caller, versions: Versions) -> None:
    edge.set_route(split(10_000))
    versions.behaviour["4"] = 500
    for _ in range(FAILURES + 5):
        answer = call()
        assert (answer.status, answer.version) == (200, "3")


def test_it_opens_after_so_many_failures_in_a_row(edge: Edge, call: Caller, versions: Versions) -> None:
    assert edge.breaker(MODEL) == "closed"
    broken(edge, call, versions)
    assert edge.breaker(MODEL) == "open"
    canary = counted(edge, "canary")
    assert (canary.requests, canary.failures) == (FAILURES, FAILURES)
    assert canary.fallbacks == counted(edge, "fallback").requests == FAILURES + 5


def test_an_answer_between_begins_the_count_again(edge: Edge, call: Caller, versions: Versions) -> None:
    edge.set_route(split(10_000))
    for _ in range(3):
        versions.behaviour["4"] = 500
        for _ in range(FAILURES - 1):
            assert call().arm == "fallback"
        versions.behaviour["4"] = 200
        assert call().arm == "canary"
    assert edge.breaker(MODEL) == "closed"


def test_one_request_tries_it_and_closes_it(edge: Edge, call: Caller, versions: Versions) -> None:
    broken(edge, call, versions)
    asked = counted(edge, "canary").requests

    def tried_twice() -> bool:
        assert call().version == "3"
        return counted(edge, "canary").requests >= asked + 2

    until(tried_twice)
    assert edge.breaker(MODEL) == "open"
    versions.behaviour["4"] = 200
    until(lambda: call().arm == "canary")
    assert edge.breaker(MODEL) == "closed"
    assert {call().arm for _ in range(5)} == {"canary"}


def test_another_route_closes_it_and_the_same_one_does_not(edge: Edge, call: Caller, versions: Versions) -> None:
    broken(edge, call, versions)
    versions.behaviour["4"] = 200
    edge.set_route(split(10_000))
    assert edge.breaker(MODEL) == "open"
    assert call().arm == "fallback"
    edge.set_route(split(9_999))
    assert edge.breaker(MODEL) == "closed"
    assert call(X_Taxiway_Unit="somebody").arm == "canary"


def test_each_model_has_its_own(edge: Edge, call: Caller, versions: Versions) -> None:
    broken(edge, call, versions)
    versions.behaviour["4"] = 200
    edge.set_route(split(10_000, model="other"))
    assert edge.breaker("other") == "closed"
    assert call(path="/v2/models/other/infer").arm == "canary"


def test_a_slow_canary_does_not_starve_stable(edge: Edge, call: Caller, versions: Versions) -> None:
    edge.set_route(split(10_000, max_in_flight=4))
    versions.behaviour["4"] = "hang"
    took_s: list[float] = []
    arms: list[str] = []

    def ask() -> None:
        caller = Caller(edge)
        began = time.monotonic()
        answer = caller()
        assert answer.status == 200
        took_s.append(time.monotonic() - began)
        arms.append(answer.arm)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert arms == ["fallback"] * 20
    assert counted(edge, "canary").requests == 4
    assert sum(s > 0.7 for s in took_s) >= 4
    assert statistics.median(took_s) < 0.7  # most of them wait for nobody
