"""The edge: what it counts, and that a unit counts once."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from operators.core.traffic import Row
from ray_jobs.edge import LATENCY_BOUNDS_MS, Edge
from tests.support.edge_servers import MODEL, Caller, Versions, bucket, split
from tests.support.waiting import until

SLOW_US = 150_000
COUNTS = ("requests", "failures", "slow", "units", "failed_units", "slow_units", "failed_first", "slow_first")


def rows(edge: Edge) -> dict[tuple[str, str, int], Row]:
    return {(row.version, row.arm, row.weight_bp): row for row in edge.counters(MODEL)}


def counts(row: Row) -> dict[str, int]:
    return {name: count for name in COUNTS if (count := getattr(row, name))}


class Ledger:
    """The same counting in plain words."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, int], Counter[str]] = defaultdict(Counter)
        self.seen: set[tuple[Any, ...]] = set()

    def once(self, *fact: Any) -> bool:
        new = fact not in self.seen
        self.seen.add(fact)
        return new

    def note(self, key: tuple[str, str, int], unit: str, *, failed: bool) -> None:
        row = self.counts[key]
        row["requests"] += 1
        row["failures"] += failed
        row["units"] += self.once("seen", unit, key[2])
        row["failed_units"] += failed and self.once("failed", unit, key[2])
        row["failed_first"] += failed and self.once("failed", unit)


def test_a_unit_counts_once_at_each_weight_and_its_first_failure_once_in_the_release(
    edge: Edge, versions: Versions
) -> None:
    chance, call, ledger = random.Random(7), Caller(edge), Ledger()
    units = [f"unit-{i}" for i in range(30)]
    for weight_bp in (1_000, 4_000, 8_000):
        edge.set_route(split(weight_bp, holder="release 7"))
        for _ in range(150):
            unit = chance.choice(units)
            version, arm = ("4", "canary") if bucket(MODEL, unit) < weight_bp else ("3", "stable")
            failed = chance.random() < 0.2
            versions.behaviour[version] = 500 if failed else 200
            versions.behaviour["3" if version == "4" else "4"] = 200
            call(X_Taxiway_Unit=unit)
            ledger.note((version, arm, weight_bp), unit, failed=failed)
    found = rows(edge)
    assert {key: counts(found[key]) for key in ledger.counts} == {
        key: {name: count for name, count in row.items() if count} for key, row in ledger.counts.items()
    }
    first = sum(row.failed_first for row in found.values())
    assert first == len({fact[1] for fact in ledger.seen if fact[0] == "failed" and len(fact) == 2})


def test_another_release_counts_anew(edge: Edge, versions: Versions) -> None:
    call = Caller(edge)
    versions.behaviour["3"] = 500
    for holder in ("first", "second"):
        edge.set_route(split(1, holder=holder))
        for _ in range(3):
            call(X_Taxiway_Unit="somebody")
    assert counts(rows(edge)["3", "stable", 1]) == {
        "requests": 6, "failures": 6, "units": 2, "failed_units": 2, "failed_first": 2,
    }  # fmt: skip


def test_without_a_unit_each_request_is_one(edge: Edge, versions: Versions) -> None:
    edge.set_route(split(10_000, slow_us=SLOW_US))
    call = Caller(edge)
    versions.behaviour["4"] = 500
    for _ in range(3):
        call()
    versions.behaviour["4"] = "slow"
    call()
    assert counts(rows(edge)["4", "canary", 10_000]) == {
        "requests": 4, "failures": 3, "slow": 1, "units": 4, "failed_units": 3, "failed_first": 3, "slow_units": 1, "slow_first": 1,
    }  # fmt: skip
    assert "used:0" in edge._runtime.ask("show table units")


@pytest.mark.parametrize(("weight_bp", "key"), [(10_000, ("4", "canary", 10_000)), (1, ("3", "stable", 1))])
def test_slow_is_over_the_limit_on_both_arms(
    edge: Edge, versions: Versions, weight_bp: int, key: tuple[str, str, int]
) -> None:
    edge.set_route(split(weight_bp, slow_us=SLOW_US))
    call = Caller(edge)
    for behaviour in (200, "slow", "slow"):
        versions.behaviour[key[0]] = behaviour
        call(X_Taxiway_Unit="somebody")
    assert counts(rows(edge)[key]) == {"requests": 3, "slow": 2, "units": 1, "slow_units": 1, "slow_first": 1}


def test_only_what_was_split_is_evidence(edge: Edge, versions: Versions) -> None:
    edge.set_route(split(5_000, holdout_bp=5_000, testers=True))
    call = Caller(edge)
    held_out = next(str(i) for i in range(99) if bucket(MODEL, str(i)) >= 5_000)
    assert call(X_Taxiway_Unit=held_out).arm == "holdout"
    assert call(X_Taxiway_Version="4").arm == "tester"
    assert call(body=b"x" * (edge.config.fallback_body_bytes + 1)).arm == "bypass"
    assert call("GET", f"/v2/models/{MODEL}/ready").status == 200
    edge.set_route(split(0))
    assert call().arm == "stable"
    assert sum(row.units for row in edge.counters(MODEL)) == 0


def test_fallbacks_are_counted_for_the_canary(edge: Edge, versions: Versions) -> None:
    edge.set_route(split(10_000))
    versions.behaviour["4"] = 500
    call = Caller(edge)
    for _ in range(4):
        assert call().arm == "fallback"
    assert rows(edge)["4", "canary", 10_000].fallbacks == 4
    assert counts(rows(edge)["3", "fallback", 10_000]) == {"requests": 4}


def test_the_histogram_is_good_to_ten_percent(edge: Edge, call: Caller, versions: Versions) -> None:
    assert all(high / low <= 1.21 for low, high in pairwise(bound for bound in LATENCY_BOUNDS_MS if bound))
    versions.behaviour["3"] = "slow"
    for _ in range(3):
        call()
    (row,) = (row for row in edge.counters(MODEL) if row.arm == "stable")
    assert sum(n for _, n in row.latency) == row.requests == 3
    assert sum(n for bound, n in row.latency if bound and 200 < bound < 400) == 3


def test_requests_under_way_are_known_by_version(edge: Edge, call: Caller, versions: Versions) -> None:
    edge.set_route(split(10_000))
    versions.behaviour["4"] = "hang"
    with pytest.raises(TimeoutError):
        Caller(edge, timeout_s=0.2)()
    assert edge.in_flight(MODEL) == {"4": 1}
    until(lambda: set(edge.in_flight(MODEL).values()) == {0})


def test_a_version_is_forgotten(edge: Edge, call: Caller) -> None:
    call()
    edge.set_route(split(10_000))
    call()
    edge.forget(MODEL, "4")
    edge.forget(MODEL, "4")
    assert {row.version for row in edge.counters(MODEL)} == {"", "3"}


def test_a_restart_begins_another_counting(edge: Edge, call: Caller) -> None:
    since = edge.since()
    call()
    assert edge.since() == since
    edge.stop()
    assert edge.since() is None
    edge.start()
    assert edge.since() not in (None, since)
    assert edge.counters(MODEL) == []


def test_full_tables_refuse_nobody(config: Any, versions: Versions) -> None:
    edge = Edge(replace(config, units=1_000))
    edge.start()
    try:
        edge.set_route(split(5_000))
        call = Caller(edge)
        for i in range(1_200):
            assert call(X_Taxiway_Unit=str(i), body=json.dumps({}).encode()).status == 200
        assert sum(row.units for row in edge.counters(MODEL)) == 1_200
    finally:
        edge.stop()


def test_an_answer_after_the_canarys_deadline_is_evidence_against_either_arm(edge: Edge, versions: Versions) -> None:
    late = {"canary_timeout_ms": 100, "slow_us": None}
    edge.set_route(split(5_000, **late))
    versions.behaviour = {"3": "slow", "4": "slow"}
    call = Caller(edge)
    units = {
        arm: next(u for u in map(str, range(99)) if (bucket(MODEL, u) < 5_000) == (arm == "canary"))
        for arm in ("stable", "canary")
    }
    assert call(X_Taxiway_Unit=units["canary"]).arm == "fallback"
    answer = call(X_Taxiway_Unit=units["stable"])
    assert (answer.status, answer.arm) == (200, "stable")
    call()  # without a unit, on either arm
    found = rows(edge)
    stable, canary = found["3", "stable", 5_000], found["4", "canary", 5_000]
    assert stable.failures == 0  # its callers were answered
    assert (stable.failed_units, stable.failed_first) == (stable.units, stable.units)
    assert (canary.failed_units, canary.failed_first) == (canary.units, canary.units)
    assert stable.units + canary.units == 3
