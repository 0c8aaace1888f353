"""The edges' counters as Prometheus text: one series for each edge, so that a restart of one changes no other series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from operators.core.traffic import ModelCounters, RouteState, Row
from ray_jobs.agent.sums import over_weights
from ray_jobs.agent.wire import EdgeState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_COUNTED = ("requests", "failures", "fallbacks", "slow", "dropped")
_ARM = ["edge", "model", "version", "arm"]


def exposition(
    readings: Mapping[str, Mapping[str, ModelCounters]],
    routes: Mapping[str, RouteState],
    edges: Iterable[EdgeState],
    now: float,
) -> bytes:
    """Return the metrics in Prometheus' text format.

    :param readings: by model and edge
    :param now: unix seconds
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once([*_arms(readings), *_routes(routes, now), *_edges(edges)]))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _arms(readings: Mapping[str, Mapping[str, ModelCounters]]) -> Iterable[Metric]:
    read = [(edge, model, counters) for model, edges in readings.items() for edge, counters in edges.items()]
    rows = [
        ((edge, model, row.version, row.arm), row)
        for edge, model, counters in read
        for row in over_weights(counters.rows)
    ]
    for name in _COUNTED:
        family = CounterMetricFamily(f"taxiway_{name}", str(Row.model_fields[name].description), labels=_ARM)
        for labels, row in rows:
            family.add_metric(labels, getattr(row, name))
        yield family
    latency = HistogramMetricFamily("taxiway_latency_seconds", "time until a version had answered", labels=_ARM)
    for labels, row in rows:
        # The edge keeps no sum: Prometheus can compute quantiles, and no mean.
        latency.add_metric(labels, _buckets(row), sum_value=None)
    yield latency
    in_flight = GaugeMetricFamily("taxiway_in_flight", "requests that are under way", labels=_ARM[:3])
    for edge, model, counters in read:
        for version, count in counters.in_flight.items():
            in_flight.add_metric([edge, model, version], count)
    yield in_flight


def _buckets(row: Row) -> list[tuple[str, float]]:
    """Return cumulative counts by upper bound in seconds."""
    total, buckets = 0, []
    for bound_ms, count in row.latency:
        total += count
        buckets.append(("+Inf" if bound_ms is None else repr(bound_ms / 1000), float(total)))
    if not buckets or buckets[-1][0] != "+Inf":
        buckets.append(("+Inf", float(total)))
    return buckets


def _routes(routes: Mapping[str, RouteState], now: float) -> Iterable[Metric]:
    weight = GaugeMetricFamily("taxiway_weight_bp", "the canary's weight in force, in 0.01 %", labels=["model"])
    lease = GaugeMetricFamily("taxiway_lease_seconds", "until the lease ends", labels=["model"])
    breaker = GaugeMetricFamily("taxiway_breaker_open", "1: the canary is taken out", labels=["model"])
    for model, route in routes.items():
        weight.add_metric([model], route.weight_now_bp)
        breaker.add_metric([model], float(route.breaker == "open"))
        if route.lease_expires_at is not None:
            lease.add_metric([model], max(route.lease_expires_at - now, 0.0))
    return [weight, lease, breaker]


def _edges(edges: Iterable[EdgeState]) -> Iterable[Metric]:
    ready = GaugeMetricFamily("taxiway_edge_ready", "1: it answers callers", labels=["edge"])
    behind = GaugeMetricFamily("taxiway_edge_behind", "1: it may have old routes", labels=["edge"])
    for edge in edges:
        ready.add_metric([edge.id], float(edge.ready))
        behind.add_metric([edge.id], float(edge.behind))
    return [ready, behind]
