"""The smallest values that are enough, rounded as people write them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, log10

_HALVINGS = 7
_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0
NICE_S = (
    *(1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0),
    *(m * _MINUTE_S for m in (1, 1.5, 2, 3, 4, 5, 7, 10, 12, 15, 20, 25, 30, 40, 45, 50)),
    *(h * _HOUR_S for h in (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)),
    *(d * _DAY_S for d in (1, 1.5, 2, 3, 4, 5, 6, 7, 10, 14)),
)


def least_good(good: Callable[[float], bool], low: float, high: float) -> float | None:
    """Return about the smallest good value above ``low``, by halving on a logarithmic scale; None: not even ``high`` is good."""
    if high <= low or not good(high):
        return None
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def first_good(good: Callable[[float], bool], choices: Sequence[float]) -> float | None:
    """Return the first good one of some rising choices; all after it are good, too."""
    if not choices or not good(choices[-1]):
        return None
    low, high = 0, len(choices) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(choices[middle]) else (middle + 1, high)
    return choices[low]


def rounded_up(value: float, digits: int, most: float) -> float:
    """Round up to a number of digits, but not above ``most``."""
    places = digits - 1 - floor(log10(value))
    scale = 10.0**places
    return round(min(ceil(value * scale - 1e-9) / scale, most), 6)


def duration(seconds: float) -> str:
    """Write a duration as the spec does."""
    for unit, size_s in (("d", _DAY_S), ("h", _HOUR_S), ("m", _MINUTE_S)):
        if seconds >= size_s and (2 * seconds) % size_s == 0:
            return f"{seconds / size_s:g}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{1000 * seconds:.3g}ms"
