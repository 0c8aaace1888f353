"""What HAProxy counted: its stick tables, read into rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

_KEY, _USE, _GPC = re.compile(r" key=(\S+)"), re.compile(r" use=(\d+)"), re.compile(r" gpc\d+=(\d+)")

# From 0.2 ms to a minute by 1.2, in whole microseconds: the middle of a bucket is within 10 % of all that is in it.
_BOUNDS_US = tuple(round(200 * 1.2**step) for step in range(71))
LATENCY_BOUNDS_MS = (*(bound / 1000 for bound in _BOUNDS_US), float("inf"))
# In the order of haproxy.cfg; the histogram comes after them.
_COUNTED = (
    "requests",
    "failures",
    "fallbacks",
    "slow",
    "units",
    "failed_units",
    "slow_units",
    "failed_first",
    "slow_first",
    "dropped",
)
GPCS = len(_COUNTED) + len(LATENCY_BOUNDS_MS)
_STEP = 8  # rules between two that end the search


def histogram_rules(variable: str, counter: int) -> list[str]:
    """Return the rules that put one answer into its bucket. They must be the last ones of their section.

    :param variable: of the answer's time in µs
    :param counter: number of the sticky counter
    """
    rules, low = [], 0
    for index, bound in enumerate(_BOUNDS_US):
        rules.append(f"sc-inc-gpc({len(_COUNTED) + index},{counter}) if {{ var({variable}) -m int {low}:{bound - 1} }}")
        low = bound
        if index % _STEP == _STEP - 1:
            rules.append(f"allow if {{ var({variable}) -m int lt {bound} }}")
    rules.append(f"sc-inc-gpc({GPCS - 1},{counter}) if {{ var({variable}) -m int ge {low} }}")
    return [f"    http-after-response {rule}" for rule in rules]


@dataclass(frozen=True)
class Counters:
    """What one version did on one arm at one weight since HAProxy started. Take differences; a restart begins at 0.

    The arms ``stable`` and ``canary`` compare. The others are no evidence: ``fallback`` (stable in the place of a canary
    that failed, was full or whose breaker was open), ``bypass`` (no canary may have it: the body is too large to be sent twice),
    ``holdout``, ``tester``, ``shadow``, and ``edge`` (version ``""``): what callers saw.

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
    def key(self) -> str:
        """Return HAProxy's key of this row."""
        return f"{self.model}/{self.version}/{self.arm}/{self.weight_bp}"

    @property
    def latency_ms_buckets(self) -> tuple[tuple[float, int], ...]:
        """Return upper bounds and the number of requests below each and above the bound before."""
        return tuple(zip(LATENCY_BOUNDS_MS, self.latency, strict=True))


def read_counters(table: str, model: str) -> list[Counters]:
    """Return the rows of a model from the answer to ``show table counters``."""
    rows = []
    for line in table.splitlines():
        key = _KEY.search(line)
        if key is None or not key[1].startswith(f"{model}/"):
            continue
        _, version, arm, weight = key[1].split("/")
        counts = [int(count) for count in _GPC.findall(line)]
        named = dict(zip(_COUNTED, counts, strict=False))
        rows.append(Counters(model, version, arm, int(weight), **named, latency=tuple(counts[len(_COUNTED) :])))
    return sorted(rows, key=lambda row: (row.version, row.arm, row.weight_bp))


def read_in_flight(table: str, model: str) -> dict[str, int]:
    """Return the requests under way, by version, from the answer to ``show table versions``."""
    found = {}
    for line in table.splitlines():
        key, use = _KEY.search(line), _USE.search(line)
        if key is not None and use is not None and key[1].startswith(f"{model}/"):
            found[key[1].split("/")[1]] = int(use[1])
    return found
