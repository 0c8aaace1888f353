"""The counts of a simulated edge: cumulative, of both arms in one phase, drawn for a block of looks at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from operators.judge.phases import Phase
from operators.planning.simulation.scenarios import Scenario
from operators.planning.simulation.traffic_model import TrafficModel

# Columns of a block. For stable, then for the canary: units with a request, with a failure, with a slow answer, with their first
# failure in the release, with their first slow answer in the release. Then for the canary: requests, bad requests, and callers
# that it answered for the first time.
ARM_COLUMNS = 5
REQUESTS, FAILED, SLOW, FAILED_FIRST, SLOW_FIRST = range(ARM_COLUMNS)
CANARY_REQUESTS, CANARY_BAD, CANARY_NEW = range(2 * ARM_COLUMNS, 2 * ARM_COLUMNS + 3)
COLUMNS = 2 * ARM_COLUMNS + 3
CANARY_UNITS = ARM_COLUMNS + REQUESTS

_OUTAGE_S, _OUTAGE_FAILS = 10.0, 0.2


class Feed(Protocol):
    """Where the counts of one release come from."""

    def enter(self, phase: Phase) -> None:
        """Begin a phase: its counts start at 0."""
        ...

    def leave(self, looks: int) -> None:
        """End a phase.

        :param looks: how many looks of the last block were before the end
        """
        ...

    def block(self, at_s: float, looks: int, look_s: float) -> Any:
        """Return the phase's cumulative counts at each of the next looks, an int array (looks, COLUMNS).

        :param at_s: seconds since the release began
        """
        ...


@dataclass(frozen=True)
class Pattern:
    """How the rate varies around its mean.

    :param burst: variance of the rate in windows of ten seconds, divided by the square of its mean; 0: steady
    :param daily: how far the rate rises and falls over a day, as a share of its mean
    """

    burst: float = 0.0
    daily: float = 0.0


STEADY = Pattern()


class Weather:
    """What both versions share in one release: bursts, time of day, outages.

    :param rng: numpy's generator
    """

    def __init__(self, rng: Any, pattern: Pattern, scenario: Scenario) -> None:
        self._rng, self._pattern, self._outages = rng, pattern, scenario.outages
        self._day = rng.uniform(0, 86400.0)
        self._windows: list[tuple[float, bool]] = []

    def factors(self, at_s: Any) -> tuple[Any, Any]:
        """Return for each time the factor on the mean rate, and the share of requests that both versions fail."""
        import numpy as np

        windows = (at_s // _OUTAGE_S).astype(int)
        while len(self._windows) <= (windows[-1] if len(windows) else 0):
            burst = self._pattern.burst
            self._windows.append(
                (self._rng.gamma(1 / burst, burst) if burst else 1.0, self._rng.random() < self._outages)
            )
        rates = np.array([self._windows[w][0] for w in windows])
        outages = np.array([_OUTAGE_FAILS * self._windows[w][1] for w in windows])
        day = 1 + self._pattern.daily * np.sin((at_s + self._day) * (2 * np.pi / 86400.0))
        return rates * day, outages


@dataclass
class CountFeed:
    """Counts where each request is a unit of its own: they are drawn for a whole look at once.

    :param rng: numpy's generator
    """

    rng: Any
    load: TrafficModel
    scenario: Scenario
    pattern: Pattern = STEADY
    _weather: Weather = field(init=False)
    _phase: Phase = field(init=False)
    _total: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._weather = Weather(self.rng, self.pattern, self.scenario)

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""
        self._phase, self._total = phase, None

    def leave(self, looks: int) -> None:
        """End a phase; nothing is remembered."""

    def block(self, at_s: float, looks: int, look_s: float) -> Any:
        """Draw the number of requests (Poisson), and how many of them are bad (binomial)."""
        import numpy as np

        phase, load, rng = self._phase, self.load, self.rng
        times = at_s + look_s * (np.arange(looks) + 0.5)
        factors, outages = self._weather.factors(times)
        expected = load.rate_per_s * look_s * factors
        stable, canary = rng.poisson(expected * phase.stable_share), rng.poisson(expected * phase.canary_share)
        fails, slow = self.scenario.probabilities(
            load, since_s=times, share=phase.exposed_share, victim=self.scenario.victims
        )
        gains: Any = np.zeros((looks, COLUMNS), dtype=np.int64)
        for first, requests, p_fails, p_slow in (
            (0, stable, np.full(looks, load.error_rate), np.full(looks, load.slow_rate)),
            (ARM_COLUMNS, canary, fails, slow),
        ):
            gains[:, first + REQUESTS] = requests
            gains[:, first + FAILED] = rng.binomial(requests, 1 - (1 - p_fails) * (1 - outages))
            gains[:, first + SLOW] = rng.binomial(requests, p_slow)
            gains[:, first + FAILED_FIRST : first + ARM_COLUMNS] = gains[:, first + FAILED : first + SLOW + 1]
        gains[:, CANARY_REQUESTS] = gains[:, CANARY_NEW] = canary
        gains[:, CANARY_BAD] = gains[:, ARM_COLUMNS + FAILED] + gains[:, ARM_COLUMNS + SLOW]
        totals = gains.cumsum(axis=0)
        if self._total is not None:
            totals += self._total
        self._total = totals[-1]
        return totals
