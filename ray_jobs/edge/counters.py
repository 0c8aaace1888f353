"""HAProxy's counters: its stick tables, read into rows."""

from __future__ import annotations

import re

from operators.core.traffic import COUNTS, Row

_KEY, _USE, _GPC = re.compile(r" key=(\S+)"), re.compile(r" use=(\d+)"), re.compile(r" gpc\d+=(\d+)")

# From 0.2 ms to a minute in steps of 20 %, in whole microseconds: the middle of a bucket is within 10 % of each answer in it.
_BOUNDS_US = tuple(round(200 * 1.2**step) for step in range(71))
LATENCY_BOUNDS_MS = (*(bound / 1000 for bound in _BOUNDS_US), None)
# HAProxy numbers its counters: those of a row first, then the histogram.
GPCS = len(COUNTS) + len(LATENCY_BOUNDS_MS)
_STEP = 8  # rules between two that end the search


def histogram_rules(variable: str, counter: int) -> list[str]:
    """Return the rules that put one answer into its bucket. They must be the last ones of their section.

    :param variable: of the answer's time in µs
    :param counter: number of the sticky counter
    """
    rules, low = [], 0
    for index, bound in enumerate(_BOUNDS_US):
        rules.append(f"sc-inc-gpc({len(COUNTS) + index},{counter}) if {{ var({variable}) -m int {low}:{bound - 1} }}")
        low = bound
        if index % _STEP == _STEP - 1:
            rules.append(f"allow if {{ var({variable}) -m int lt {bound} }}")
    rules.append(f"sc-inc-gpc({GPCS - 1},{counter}) if {{ var({variable}) -m int ge {low} }}")
    return [f"    http-after-response {rule}" for rule in rules]


def key_of(model: str, row: Row) -> str:
    """Return HAProxy's key of a row."""
    return f"{model}/{row.version}/{row.arm}/{row.weight_bp}"


def read_counters(table: str, model: str) -> list[Row]:
    """Return the rows of a model from the answer to ``show table counters``."""
    rows = []
    for line in table.splitlines():
        key = _KEY.search(line)
        if key is None or not key[1].startswith(f"{model}/"):
            continue
        _, version, arm, weight = key[1].split("/")
        counts = [int(count) for count in _GPC.findall(line)]
        named = dict(zip(COUNTS, counts, strict=False))
        latency = tuple(zip(LATENCY_BOUNDS_MS, counts[len(COUNTS) :], strict=True))
        rows.append(Row(version=version, arm=arm, weight_bp=int(weight), latency=latency, **named))
    return sorted(rows, key=lambda row: row.key)


def read_in_flight(table: str, model: str) -> dict[str, int]:
    """Return the requests under way, by version, from the answer to ``show table versions``."""
    busy = {}
    for line in table.splitlines():
        key, use = _KEY.search(line), _USE.search(line)
        if key is not None and use is not None and key[1].startswith(f"{model}/"):
            busy[key[1].split("/")[1]] = int(use[1])
    return busy
