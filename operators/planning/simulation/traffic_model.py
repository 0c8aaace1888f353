"""The traffic that a release is planned for, and the units that it has by a time. Pure, no numpy."""

from __future__ import annotations

from functools import lru_cache
from math import exp

from pydantic import Field

from operators.core.frozen import Exact

_FEW_UNITS = (
    8  # the heaviest callers, each a group of its own; the others are grouped with callers of about the same rate
)


class TrafficModel(Exact):
    """Steady traffic, and how stable answers it.

    :param rate_per_s: requests per second
    :param error_rate: share of the requests that fail on stable
    :param slow_rate: share of the requests that stable answers slowly
    :param units: distinct callers; None: each request is a caller of its own
    :param skew: exponent of Zipf's law of their requests; 0: all send equally many
    """

    rate_per_s: float = Field(20.0, gt=0)
    error_rate: float = Field(0.005, ge=0, lt=1)
    slow_rate: float = Field(0.01, ge=0, lt=1)
    units: int | None = Field(None, ge=2)
    skew: float = Field(1.0, ge=0, le=3)

    def base(self, guard: str) -> float:
        """Return the share of stable's requests that are bad events of a guard, ``failures`` or ``slow``."""
        return self.error_rate if guard == "failures" else self.slow_rate

    def seen(self, share: float, duration_s: float) -> float:
        """Return how many distinct units send at least one request.

        :param share: share of all units that is looked at
        """
        return self.bad(share, 1.0, duration_s)

    def bad(self, share: float, probability: float, duration_s: float, hazard_s: float = 0.0) -> float:
        """Return how many distinct units have at least one bad event, and had none before.

        :param probability: that a request is bad
        :param hazard_s: the time before: seconds times the probability that a request was bad then
        """
        if self.units is None:
            return self.rate_per_s * share * probability * duration_s
        return share * sum(
            count * exp(-rate * hazard_s) * (1 - exp(-rate * probability * duration_s))
            for count, rate in _groups(self.units, self.skew, self.rate_per_s)
        )


@lru_cache(maxsize=32)
def _groups(units: int, skew: float, rate_per_s: float) -> tuple[tuple[int, float], ...]:
    """Return (number of units, requests a second of each), heaviest first, ranks in groups that grow by an eighth."""
    groups: list[tuple[int, float]] = []
    first = 1
    while first <= units:
        size = min(max(1, first // _FEW_UNITS), units - first + 1)
        groups.append((size, (first + (size - 1) / 2) ** -skew))
        first += size
    total = sum(size * weight for size, weight in groups)
    return tuple((size, weight / total * rate_per_s) for size, weight in groups)
