"""The edge: who gets the canary."""

from __future__ import annotations

import json
from typing import Any

import pytest

from operators.core.traffic import Unit
from ray_jobs.edge import Edge
from tests.support.edge_servers import Caller, Versions, bucket, split, xxh32


class TestAssignment:
    def test_the_canary_has_exactly_the_buckets_below_its_weight(self, edge: Edge, call: Caller) -> None:
        """So it is sticky, and whoever is in at one weight is in at every greater one."""
        units = [f"unit-{i}" for i in range(200)]
        for weight_bp in (0, 1_000, 5_000, 10_000):
            edge.set_route(split(weight_bp))
            # A canary that this machine stalls is answered for by stable; the unit was in it all the same.
            inside = {unit for unit in units if call(X_Taxiway_Unit=unit).arm in ("canary", "fallback")}
            assert inside == {unit for unit in units if bucket("flight_delay", unit) < weight_bp}

    def test_the_hash_is_even_and_differs_by_model(self) -> None:
        assert xxh32(b"") == 0x02CC5D05
        assert xxh32(b"Nobody inspects the spammish repetition") == 0xE2293B2F
        count = 20_000
        buckets = [bucket("flight_delay", str(unit)) for unit in range(count)]
        for weight_bp in (1, 100, 1_000, 5_000):
            share = weight_bp / 10_000
            inside = sum(b < weight_bp for b in buckets)
            assert abs(inside - count * share) < 4 * (count * share * (1 - share)) ** 0.5 + 1
        both = sum(b < 5_000 and bucket("other", str(unit)) < 5_000 for unit, b in enumerate(buckets))
        assert abs(both - count / 4) < 4 * (count * 3 / 16) ** 0.5

    def test_the_unit_is_the_header_then_the_body_then_the_request_id(self, edge: Edge, call: Caller) -> None:
        edge.set_route(split(5_000))
        inside = next(str(i) for i in range(99) if bucket("flight_delay", str(i)) < 5_000)
        outside = next(str(i) for i in range(99) if bucket("flight_delay", str(i)) >= 5_000)

        def body(unit: Any) -> bytes:
            return json.dumps({"inputs": [{"data": [1] * 9_000}], "parameters": {"unit": unit}}).encode()

        for unit, arm, other in ((inside, "canary", outside), (outside, "stable", inside)):
            assert call(X_Taxiway_Unit=unit, body=body(other), X_Request_Id=other).arm == arm
            assert call(body=body(unit), X_Request_Id=other).arm == arm
            assert call(body=body(int(unit)), X_Request_Id=other).arm == arm
            assert call(X_Request_Id=unit).arm == arm
            assert call("GET", "/v2/models/flight_delay", X_Taxiway_Unit=unit).arm == arm

    def test_held_out_units_never_see_a_canary(self, edge: Edge, call: Caller) -> None:
        edge.set_route(split(9_000, holdout_bp=1_000))
        for unit in map(str, range(60)):
            expected = "holdout" if bucket("flight_delay", unit) >= 9_000 else "canary"
            answer = call(X_Taxiway_Unit=unit)
            assert answer.arm == expected
            assert answer.json["headers"]["x-taxiway-arm"] == expected
            assert answer.json["headers"]["x-taxiway-weight"] == "9000"

    def test_from_the_top_the_canary_has_those_who_moved_last(self, edge: Edge, call: Caller) -> None:
        edge.set_route(split(2_000, holdout_bp=1_000, from_top=True))
        arms = {(bucket("flight_delay", unit), call(X_Taxiway_Unit=unit).arm) for unit in map(str, range(80))}
        assert arms == {(b, "holdout" if b >= 9_000 else "canary" if b >= 7_000 else "stable") for b, _ in arms}
        assert {arm for _, arm in arms} == {"stable", "canary", "holdout"}

    @pytest.mark.parametrize(
        ("unit", "field"), [(Unit(header="X-Customer"), None), (Unit(field="customer.id"), "customer")]
    )
    def test_the_unit_is_what_the_route_says(self, edge: Edge, call: Caller, unit: Unit, field: str | None) -> None:
        edge.set_route(split(5_000, unit=unit))
        other = next(str(i) for i in range(99) if bucket("flight_delay", str(i)) >= 5_000)
        for i in range(20):
            name = f"unit-{i}"
            body = json.dumps({"inputs": [{"data": [1] * 9_000}], "customer": {"id": name if field else "x"}}).encode()
            headers = {} if field else {"X_Customer": name}
            answer = call(body=body, X_Taxiway_Unit=other, X_Request_Id=other, **headers)
            assert answer.arm == ("canary" if bucket("flight_delay", name) < 5_000 else "stable")
            # So that the prediction log knows it, too.
            assert answer.json["headers"]["x-taxiway-unit"] == name
        answer = call(body=b"no JSON", X_Request_Id=other)
        assert (answer.arm, answer.json["headers"].get("x-taxiway-unit")) == ("stable", None)


class TestTesters:
    def test_the_header_chooses_a_version_of_the_route(self, edge: Edge, call: Caller, versions: Versions) -> None:
        edge.set_route(split(0, shadow="5", testers=True))
        for version in "345":
            answer = call(X_Taxiway_Version=version)
            assert (answer.version, answer.arm) == (version, "tester")
        assert call().version == "3"
        for version in ("6", "none", "", "3:4"):
            answer = call(X_Taxiway_Version=version)
            assert answer.status == 404
            assert "that a tester may choose" in answer.json["error"]
        versions.behaviour["4"] = 500
        assert call(X_Taxiway_Version="4").status == 500  # a tester is told, and not answered by stable

    def test_without_leave_it_is_ignored(self, edge: Edge, call: Caller) -> None:
        answer = call(X_Taxiway_Version="4")
        assert (answer.version, answer.arm, answer.json["headers"]["x-taxiway-version"]) == ("3", "stable", "3")
