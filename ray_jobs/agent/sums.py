"""Sums of counters. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from operators.core.traffic import Key, Row


def add_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the sums of rows, by version, arm and weight."""
    total: dict[Key, Row] = {}
    for row in rows:
        total[row.key] = total[row.key].plus(row) if row.key in total else row
    return [total[key] for key in sorted(total)]


def over_weights(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each version and arm: what they did at any weight."""
    return add_rows(row.model_copy(update={"weight_bp": 0}) for row in rows)
