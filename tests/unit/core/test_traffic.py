"""The route and the counters: what is refused, and what travels through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from operators.core.traffic import COUNTS, LeasedRoute, Route, RouteBody, RouteState, Row
from tests.support.routes import full_route


def test_every_field_travels_to_the_agent_and_back() -> None:
    route = full_route()
    body = json.loads(json.dumps(route.model_dump(exclude={"model"})))
    assert set(body) == set(RouteBody.model_fields)
    assert Route(model=route.model, **body) == route
    assert Route.of(route.model, RouteBody.model_validate(body)) == route
    assert LeasedRoute(route=route).model_dump()["route"] == body


def test_a_recorded_route_is_read_whatever_the_row_holds_beside_it() -> None:
    route = full_route()
    row = {"step": "canary_5", **route.model_dump(mode="json", exclude={"model"})}
    assert Route.recorded("m", row) == route.model_copy(update={"model": "m"})
    old = Route.recorded("m", {"stable": "1", "canary": "2", "weight_bp": 500, "unit": {"header": "X-Customer"}})
    assert (old.lease_s, old.max_in_flight, old.unit and old.unit.header) == (None, 64, "X-Customer")
    refused = Route.recorded("m", {"stable": "1", "canary": "2", "weight_bp": 500, "lease_s": 1e6})
    assert refused.lease_s == 1e6


def test_a_newer_agent_may_answer_more() -> None:
    assert RouteState.model_validate({"stable": "1", "news": 1}) == RouteState(stable="1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "Bad"}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"model": "a b"}, "model"),
        ({"model": "a" * 64}, "model"),
        ({"stable": "v1"}, "stable"),
        ({"stable": "1\n"}, "stable"),
        ({"stable": 1}, "stable"),
        ({"canary": "2", "weight_bp": 10_001}, "weight_bp"),
        ({"canary": "2", "weight_bp": -1}, "weight_bp"),
        ({"canary": "2", "weight_bp": 0.5}, "weight_bp"),
        ({"canary": "2", "weight_bp": True}, "weight_bp"),
        ({"weight_bp": 1}, "without a canary"),
        ({"stable": None, "canary": "2"}, "needs a stable version"),
        ({"wieght_bp": 1}, "wieght_bp"),
        ({"canary": "1"}, "both stable and the canary"),
        ({"canary": "2", "weight_bp": 1, "lease_s": None}, "needs lease_s"),
        ({"canary": "2", "weight_bp": 9_000, "holdout_bp": 1_001}, "more than 10000"),
        ({"shadow_bp": 1}, "without a shadow"),
        ({"unit": {"header": "a b"}}, "unit.header"),
        ({"unit": {"field": "kundé"}}, "unit.field"),
        ({"unit": {}}, "either `header` or `field`"),
        ({"testers": 1}, "testers"),
        ({"holder": ""}, "holder"),
        ({"lease_s": float("nan")}, "lease_s"),
    ],
)
def test_a_route_that_is_not_valid_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Route(**{"model": "m", "stable": "1", "lease_s": 60, **change})


def test_rows_add_up_and_their_gains_are_differences() -> None:
    def row(count: int) -> Row:
        return Row(version="1", arm="stable", latency=((1.0, count), (None, 1)), **dict.fromkeys(COUNTS, count))

    assert row(3).plus(row(4)) == row(7).model_copy(update={"latency": ((1.0, 7), (None, 2))})
    assert row(7).gain(row(3)) == row(4).model_copy(update={"latency": ()})
    for name in COUNTS:  # one that has gone back has begun anew
        assert row(7).gain(row(7).model_copy(update={name: 8})) == row(7)
