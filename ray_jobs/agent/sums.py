"""Sums of counters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ray_jobs.agent.wire import Row

_NUMBERS = (
    "requests", "failures", "fallbacks", "slow", "units", "failed_units", "slow_units", "failed_first", "slow_first",
    "dropped",
)  # fmt: skip


def add_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the sums of rows, by version, arm and weight."""
    total: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        key = (row.version, row.arm, row.weight_bp)
        total[key] = _add(total[key], row) if key in total else row
    return [total[key] for key in sorted(total)]


def over_weights(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each version and arm: what they did at any weight."""
    return add_rows(row.model_copy(update={"weight_bp": 0}) for row in rows)


def _add(left: Row, right: Row) -> Row:
    sums = {name: getattr(left, name) + getattr(right, name) for name in _NUMBERS}
    return left.model_copy(update={**sums, "latency": _merge(left.latency, right.latency)})


def _merge(
    left: Sequence[tuple[float | None, int]], right: Sequence[tuple[float | None, int]]
) -> list[tuple[float | None, int]]:
    """Add two histograms; their bounds may differ while edges are being replaced."""
    total: dict[float | None, int] = {}
    for bound, count in (*left, *right):
        total[bound] = total.get(bound, 0) + count
    return sorted(total.items(), key=lambda item: float("inf") if item[0] is None else item[0])
