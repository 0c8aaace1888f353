"""What HAProxy counted: its stick tables, read into rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

_KEY, _USE, _GPC = re.compile(r"key=(\S+)"), re.compile(r" use=(\d+)"), re.compile(r" gpc\d+=(\d+)")

# The bounds that haproxy.cfg counts by: from 0.25 ms to 4 s by the square root of 2, in whole microseconds.
LATENCY_BOUNDS_MS = (*(round(250 * 2 ** (step / 2)) / 1000 for step in range(29)), float("inf"))


@dataclass(frozen=True)
class Counters:
    """What one version did on one arm at one weight since HAProxy started. Take differences; a restart begins at 0.

    The arms ``stable`` and ``canary`` compare. The others are no evidence: ``fallback`` (stable in the place of a canary
    that failed, was full or whose breaker was open), ``bypass`` (no canary may have it: the body is too large to be sent twice),
    ``holdout``, ``tester``, ``shadow``, and ``edge`` (version ``""``): what callers saw.

    :param canary: version whose release it was, on both arms; ``""``: there was none
    :param weight_bp: the weight that was in force when the request was assigned
    :param failures: own failures, also those that the fallback mended: 5xx, broken connections, time-outs
    :param fallbacks: of the canary: requests that stable answered in its place
    :param slow: answers over the route's ``slow_us``
    :param units: distinct units; ``failed_units`` and ``slow_units`` of them had a failure or a slow answer at this weight
    :param failed_first: units whose first failure in the release was here; ``slow_first`` accordingly
    :param dropped: of the shadow: copies that were not made, because too many were under way
    :param latency: number of requests for each of :data:`LATENCY_BOUNDS_MS`
    """

    model: str
    version: str
    arm: str
    canary: str
    weight_bp: int
    requests: int = 0
    failures: int = 0
    fallbacks: int = 0
    slow: int = 0
    units: int = 0
    failed_units: int = 0
    slow_units: int = 0
    failed_first: int = 0
    slow_first: int = 0
    dropped: int = 0
    latency: tuple[int, ...] = ()

    @property
    def latency_ms_buckets(self) -> tuple[tuple[float, int], ...]:
        """Return upper bounds and the number of requests below each and above the bound before."""
        return tuple(zip(LATENCY_BOUNDS_MS, self.latency, strict=True))


def read_counters(table: str, model: str) -> list[Counters]:
    """Return the rows of a model from the answer to ``show table counters``."""
    found = []
    for line in table.splitlines():
        key = _KEY.search(line)
        if key is None or not key[1].startswith(f"{model}/"):
            continue
        _, version, arm = key[1].split("/")
        requests, failures, *histogram = map(int, _GPC.findall(line))
        found.append(
            Counters(model, version, arm, "", 0, requests=requests, failures=failures, latency=tuple(histogram))
        )
    return sorted(found, key=lambda row: (row.version, row.arm, row.canary, row.weight_bp))
