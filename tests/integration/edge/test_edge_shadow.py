"""The edge: a shadow gets copies, and whatever it does changes nothing for callers."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import pytest

from operators.core.traffic import Row
from ray_jobs.edge import Edge
from tests.support.edge_servers import CANARY_TIMEOUT_S, MODEL, SLOW_S, Answer, Caller, Versions, bucket, split
from tests.support.waiting import until


def mirror(edge: Edge, **values: Any) -> None:
    edge.set_route(split(**{"weight_bp": 0, "shadow": "5", "shadow_bp": 10_000} | values))


def shadow(edge: Edge, requests: int) -> Row:
    """Return the shadow's row once it has so many requests."""

    def row() -> Row | None:
        rows = (row for row in edge.counters(MODEL) if row.arm == "shadow")
        return next((row for row in rows if row.requests + row.dropped >= requests), None)

    found: Row = until(row, f"{requests} copies")
    return found


def test_the_copy_has_the_same_id_unit_and_body(edge: Edge, call: Caller, versions: Versions) -> None:
    mirror(edge)
    body = b'{"inputs": "' + b"x" * 30_000 + b'"}'
    answer = call(
        body=body, path=f"/v2/models/{MODEL}/infer?trace=1", X_Taxiway_Unit="somebody", Content_Type="application/json"
    )
    assert (answer.version, answer.arm) == ("3", "stable")
    assert shadow(edge, 1).failures == 0
    assert versions.asked[answer.request_id] in (["3", "5"], ["5", "3"])
    copy = versions.requests["5"][0]
    assert copy["bytes"] == len(body)
    assert copy["path"] == f"/{MODEL}/5/v2/models/{MODEL}/infer?trace=1"
    sent = {name: copy["headers"][name] for name in ("x-taxiway-arm", "x-taxiway-unit", "content-type")}
    assert sent == {"x-taxiway-arm": "shadow", "x-taxiway-unit": "somebody", "content-type": "application/json"}
    assert "x-taxiway-route" not in copy["headers"]


def test_the_sample_is_by_unit(edge: Edge, call: Caller, versions: Versions) -> None:
    mirror(edge, shadow_bp=3_000)
    units = [f"unit-{i}" for i in range(40)]
    for unit in units:
        call(X_Taxiway_Unit=unit)
    expected = {unit for unit in units if bucket(MODEL, unit) < 3_000}
    shadow(edge, len(expected))
    time.sleep(0.1)  # a copy too many would have come by now
    assert {copy["headers"]["x-taxiway-unit"] for copy in versions.requests["5"]} == expected


def test_units_count_once_on_either_side(edge: Edge, call: Caller, versions: Versions) -> None:
    mirror(edge, shadow_bp=5_000)
    versions.behaviour["5"] = 500
    units = [f"unit-{i}" for i in range(20)]
    copied = sum(bucket(MODEL, unit) < 5_000 for unit in units)
    for unit in units * 3:
        call(X_Taxiway_Unit=unit)
    call()  # without a unit it is one of its own; whether it is copied is chance
    row = shadow(edge, 3 * copied)
    stable = next(row for row in edge.counters(MODEL) if row.arm == "stable")
    assert (stable.requests, stable.units, stable.failed_units) == (61, 21, 0)
    assert row.units == row.failed_units == row.failed_first == copied + (row.requests - 3 * copied)
    assert not [name for copy in versions.requests["5"] for name in copy["headers"] if name == "x-taxiway-count"]


def test_what_stable_does_not_answer_is_not_copied(edge: Edge, call: Caller, versions: Versions) -> None:
    mirror(edge, weight_bp=10_000, testers=True)
    call()
    call(X_Taxiway_Version="3")
    call(body=b"x" * (edge.config.fallback_body_bytes + 1))
    call("GET", f"/v2/models/{MODEL}")
    mirror(edge, lease_s=0.1)
    time.sleep(0.15)
    call()  # and nothing after the lease has ended
    time.sleep(0.2)  # a copy would have come by now
    assert not versions.requests["5"]


@pytest.mark.parametrize("behaviour", [500, 404, "close", "cut", "hang", "slow"])
def test_a_shadow_that_fails_changes_nothing_for_callers(
    edge: Edge, call: Caller, versions: Versions, behaviour: int | str
) -> None:
    def times_ms() -> list[float]:
        took = []
        for _ in range(60):
            began = time.perf_counter()
            assert call().version == "3"
            took.append((time.perf_counter() - began) * 1000)
        return took

    edge.set_route(split(0))
    without = times_ms()
    mirror(edge, shadow_max_in_flight=8)
    versions.behaviour["5"] = behaviour
    beside = times_ms()
    # A caller who waited for the shadow would wait 250 ms and more; a busy machine costs both alike.
    assert statistics.median(beside) < 2 * statistics.median(without) + 50
    row = shadow(edge, 60)
    expected = 0 if behaviour == "slow" else row.requests
    assert row.failures == expected
    assert row.requests + row.dropped == 60
    if behaviour in ("hang", "slow"):
        at_once = 8 * (1 + sum(beside) // (1000 * SLOW_S))
        assert row.dropped >= 60 - at_once - 8
    assert next(row for row in edge.counters(MODEL) if row.arm == "edge").failures == 0


def test_copies_are_bounded_and_stop_nobody(edge: Edge, versions: Versions) -> None:
    mirror(edge, shadow_max_in_flight=3)
    versions.behaviour["5"] = "hang"
    answers: list[Answer] = []

    def ask() -> None:
        caller = Caller(edge)
        answers.extend(caller(body=b"x" * 30_000) for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert edge.in_flight(MODEL).get("5", 0) <= 3
        time.sleep(0.01)
    assert {answer.status for answer in answers} == {200}
    rounds = 1 + (time.monotonic() - began) // CANARY_TIMEOUT_S
    assert shadow(edge, 40).dropped >= 40 - 3 * (rounds + 1)
    # What is over comes to an end, and makes room.
    until(lambda: not edge.in_flight(MODEL).get("5"))
    versions.behaviour["5"] = 200
    dropped = shadow(edge, 40).dropped
    Caller(edge)()
    assert shadow(edge, 41).dropped == dropped
