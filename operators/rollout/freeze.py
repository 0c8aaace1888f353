"""Whether releases are frozen now. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from operators.core.spec_operations import Freeze, Outage


def frozen_until(freezes: Sequence[Freeze | Outage], now: datetime) -> tuple[datetime, str] | None:
    """Return when the last of the freezes that hold now ends, and its reason; None: releases may go on.

    :param now: with a time zone
    """
    ends = [end for freeze in freezes if (end := _end(freeze, now)) is not None and end[0] > now]
    return max(ends, key=lambda end: end[0]) if ends else None


def _end(freeze: Freeze | Outage, now: datetime) -> tuple[datetime, str] | None:
    if isinstance(freeze, Outage):
        return (freeze.end, freeze.reason) if freeze.begin <= now else None
    from croniter import croniter

    # The wall clock of the zone, without its offset: a freeze that begins on Friday at 16:00 does so in summer too.
    zone = ZoneInfo(freeze.timezone)
    local = now.astimezone(zone).replace(tzinfo=None)
    began: datetime = croniter(freeze.start, local + timedelta(microseconds=1)).get_prev(datetime)
    return (began + timedelta(seconds=freeze.lasts_s)).replace(tzinfo=zone), freeze.reason
