"""Sums of counters, and their Prometheus text."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from operators.core.traffic import ModelCounters, RouteState, Row
from ray_jobs.agent.metrics import exposition
from ray_jobs.agent.sums import add_rows, over_weights
from ray_jobs.agent.wire import EdgeState

LATENCY = ((1.0, 3), (2.0, 1), (None, 1))
STABLE = Row(version="1", arm="stable", weight_bp=500, requests=5, failures=1, units=4, latency=LATENCY)


def test_rows_of_several_edges_are_summed_by_version_arm_and_weight() -> None:
    other = STABLE.model_copy(update={"weight_bp": 0, "requests": 2})
    assert add_rows([STABLE, other, STABLE]) == [
        other,
        STABLE.model_copy(
            update={"requests": 10, "failures": 2, "units": 8, "latency": ((1.0, 6), (2.0, 2), (None, 2))}
        ),
    ]


def test_bounds_that_only_one_edge_has_are_kept() -> None:
    new = STABLE.model_copy(update={"latency": ((1.5, 4), (None, 1))})
    assert add_rows([STABLE, new])[0].latency == ((1.0, 3), (1.5, 4), (2.0, 1), (None, 2))
    assert add_rows([STABLE, STABLE.model_copy(update={"latency": ()})])[0].latency == LATENCY


def test_one_row_for_all_weights() -> None:
    rows = over_weights([STABLE, STABLE.model_copy(update={"weight_bp": 1}), Row(version="2", arm="canary")])
    assert [(row.version, row.arm, row.weight_bp, row.requests) for row in rows] == [
        ("1", "stable", 0, 10),
        ("2", "canary", 0, 0),
    ]


def test_the_prometheus_text() -> None:
    route = RouteState(
        stable="1", canary="2", weight_bp=500, lease_s=60, lease_expires_at=130.0, weight_now_bp=500, breaker="open"
    )
    edge = EdgeState(id="a", url="http://a", ready=True, generation=3, behind=False)
    other = STABLE.model_copy(update={"requests": 900})
    readings = {"m": {"a": ModelCounters(rows=(STABLE,), in_flight={"1": 7}), "b": ModelCounters(rows=(other,))}}
    text = exposition(readings, {"m": route}, [edge], now=100.0).decode()
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    arm = (("arm", "stable"), ("edge", "a"), ("model", "m"), ("version", "1"))
    assert found["taxiway_requests_total", arm[0], ("edge", "b"), *arm[2:]] == 900
    assert found["taxiway_requests_total", *arm] == 5
    assert found["taxiway_failures_total", *arm] == 1
    buckets = [
        found["taxiway_latency_seconds_bucket", *arm[:2], ("le", le), *arm[2:]] for le in ("0.001", "0.002", "+Inf")
    ]
    assert buckets == [3, 4, 5]
    assert found["taxiway_weight_bp", ("model", "m")] == 500
    assert found["taxiway_lease_seconds", ("model", "m")] == 30
    assert found["taxiway_breaker_open", ("model", "m")] == 1
    assert found["taxiway_in_flight", ("edge", "a"), ("model", "m"), ("version", "1")] == 7
    assert found["taxiway_edge_ready", ("edge", "a")] == 1
