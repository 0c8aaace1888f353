"""The edges' counters as Prometheus text: one series for each edge, so that the restart of one is no gain of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from ray_jobs.agent.sums import over_weights
from ray_jobs.agent.wire import EdgeState, Reading, RouteNow, Row

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_COUNTED = {
    "requests": "requests that a version answered, or failed to",
    "failures": "of which failed, also where the fallback mended it",
    "fallbacks": "of which stable answered in the canary's place",
    "slow": "of which took longer than the route's slow_us",
    "dropped": "copies for the shadow that were not made",
}
_ARM = ["edge", "model", "version", "arm"]


def exposition(
    readings: Mapping[str, Mapping[str, Reading]],
    routes: Mapping[str, RouteNow],
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


def _arms(readings: Mapping[str, Mapping[str, Reading]]) -> Iterable[Metric]:
    found = [(edge, model, reading) for model, edges in readings.items() for edge, reading in edges.items()]
    rows = [
        ((edge, model, row.version, row.arm), row) for edge, model, said in found for row in over_weights(said.rows)
    ]
    for name, meaning in _COUNTED.items():
        family = CounterMetricFamily(f"taxiway_{name}", meaning, labels=_ARM)
        for labels, row in rows:
            family.add_metric(labels, getattr(row, name))
        yield family
    latency = HistogramMetricFamily("taxiway_latency_seconds", "time until a version had answered", labels=_ARM)
    for labels, row in rows:
        # The edge keeps no sum; without one Prometheus has no mean, and every quantile.
        latency.add_metric(labels, _buckets(row), sum_value=None)
    yield latency
    in_flight = GaugeMetricFamily("taxiway_in_flight", "requests that are under way", labels=_ARM[:3])
    for edge, model, said in found:
        for version, count in said.in_flight.items():
            in_flight.add_metric([edge, model, version], count)
    yield in_flight


def _buckets(row: Row) -> list[tuple[str, float]]:
    """Return cumulative counts by upper bound in seconds."""
    total, found = 0, []
    for bound_ms, count in row.latency:
        total += count
        found.append(("+Inf" if bound_ms is None else repr(bound_ms / 1000), float(total)))
    if not found or found[-1][0] != "+Inf":
        found.append(("+Inf", float(total)))
    return found


def _routes(routes: Mapping[str, RouteNow], now: float) -> Iterable[Metric]:
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
