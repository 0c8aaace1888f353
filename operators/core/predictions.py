"""Where the prediction log keeps its files: who writes them and who reads them agree on it here. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

ARMS = ("stable", "canary", "fallback", "bypass", "shadow", "holdout", "tester")
"""Who answered, and why. fallback: stable, because the canary had failed or was full; bypass: stable, for a request that cannot
be sent twice; holdout: stable, for a unit that never sees a canary; tester: the version that the caller asked for."""


def hour_prefix(model: str, version: str, written_at: datetime) -> str:
    """Return the folder of the files that a version's replicas wrote in one hour.

    The hour is that of the writing, not of the predictions: what is new is always in the newest hours, also when a store was
    away and rows came late. So a reader who has seen an hour that is over never looks into it again.

    :param written_at: in UTC
    """
    return f"predictions/{model}/version={version}/date={written_at:%Y-%m-%d}/hour={written_at:%H}"


def hours(begin: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the beginning of each hour that overlaps ``begin <= time <= end``."""
    hour = begin.replace(minute=0, second=0, microsecond=0)
    while hour <= end:
        yield hour
        hour += timedelta(hours=1)
