"""The edge: who gets the canary."""

from __future__ import annotations

import json
from typing import Any

from ray_jobs.edge import Edge
from tests.support.edge_servers import Caller, bucket, split, xxh32


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
            return json.dumps({"inputs": [{"data": [1] * 20_000}], "parameters": {"unit": unit}}).encode()

        for unit, arm, other in ((inside, "canary", outside), (outside, "stable", inside)):
            assert call(X_Taxiway_Unit=unit, body=body(other), X_Request_Id=other).arm == arm
            assert call(body=body(unit), X_Request_Id=other).arm == arm
            assert call(body=body(int(unit)), X_Request_Id=other).arm == arm
            assert call(X_Request_Id=unit).arm == arm
            assert call("GET", "/v2/models/flight_delay", X_Taxiway_Unit=unit).arm == arm
