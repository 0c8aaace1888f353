"""Evidence beside the edge's counters: series from Prometheus, and what the prediction log and labels show later."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import httpx

from operators.core.errors import ServiceError
from operators.core.http import answer, async_client, unreachable
from operators.core.settings import setting
from operators.core.spec import ModelSpec
from operators.core.spec_judge import Series
from operators.judge.evidence import Evidence, Point
from operators.rollout.delayed.evidence_source import LateSource
from operators.rollout.delayed.window import needs_late
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Source

_SERVICE = "Prometheus"


def sources_for(spec: ModelSpec) -> tuple[Source, ...]:
    """Return the sources that a spec's guards need."""
    judge = spec.release.judge
    series = [SeriesSource(judge.series)] if judge.series else []
    late = [LateSource(spec)] if needs_late(judge) else []
    return (*series, *late)


class SeriesSource:
    """Asks Prometheus for one number of each arm, as often as the spec says.

    :param series: the spec's series guards, by name
    :param clock: Unix time in seconds
    """

    def __init__(self, series: dict[str, Series], clock: Callable[[], float] = time.time) -> None:
        self._series = series
        self._clock = clock

    async def add(self, evidence: Evidence, live: LivePhase) -> Evidence:
        """Append a point to each series that is due.

        :raises ServiceError: Prometheus did not answer
        :raises ServiceRefusedError: it refused the query
        """
        now = self._clock()
        fresh = {
            name: await self._point(series, live, now)
            for name, series in self._series.items()
            if now - _last_at(evidence, name) >= series.every_s
        }
        if not fresh:
            return evidence
        longer = {name: (*evidence.series.get(name, ()), point) for name, point in fresh.items()}
        return evidence.model_copy(update={"series": {**evidence.series, **longer}})

    async def close(self) -> None:
        """Nothing is kept open between two questions that are minutes apart."""

    async def _point(self, series: Series, live: LivePhase, now: float) -> Point:
        http = async_client(setting("TAXIWAY_PROMETHEUS_URL", "address of Prometheus, for the series guards"))
        try:
            stable = await _value(http, series.query.replace("{version}", live.stable))
            canary = await _value(http, series.query.replace("{version}", live.canary))
        finally:
            await http.aclose()
        return Point(t=round(now, 3), stable=stable, canary=canary)


async def _value(http: httpx.AsyncClient, query: str) -> float | None:
    """Return the one number that a query gives; None: nothing, or not a number."""
    try:
        reply = answer(await http.get("/api/v1/query", params={"query": query}), _SERVICE)
    except httpx.HTTPError as error:
        raise unreachable(_SERVICE, error) from error
    series: list[dict[str, Any]] = reply["data"]["result"]
    if len(series) > 1:
        raise ServiceError(
            f"{_SERVICE} has {len(series)} series for {query!r}; aggregate them in the query, e.g. by sum()"
        )
    value = float(series[0]["value"][1]) if series else math.nan
    return value if math.isfinite(value) else None


def _last_at(evidence: Evidence, name: str) -> float:
    points = evidence.series.get(name, ())
    return points[-1].t if points else -math.inf
