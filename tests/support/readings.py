"""Readings of the edges' counters, as the agent hands them out."""

from __future__ import annotations

from operators.core.traffic import Counters, EdgeReading, Row


def counted(*rows: Row, since: str = "one", in_flight: dict[str, int] | None = None) -> Counters:
    """Return what the only edge has counted."""
    busy = in_flight or {}
    return Counters(rows=rows, in_flight=busy, edges=(EdgeReading(edge="a", since=since, rows=rows, in_flight=busy),))
