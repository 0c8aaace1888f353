"""Ways in which a new version can be bad, and one in which it is not. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from operators.core.errors import ConfigurationError
from operators.planning.simulation.traffic_model import TrafficModel

LATENCY_SIGMA = 0.5  # of the logarithm of stable's latency, which is taken as normal: p99 is 3.2 times the median
_DEATH_SHARE = 0.98  # a version without memory left answers next to nothing
_GROWN = 4.0  # how many times slower a leaking version is just before its memory is full


@dataclass(frozen=True)
class Scenario:
    """What the new version does other than stable. The default is: nothing.

    :param fails: share of the requests that fail on top
    :param slower: how many times longer an answer takes
    :param victims: share of the units that the two above apply to
    :param from_share: of the callers the new version must have before it goes wrong
    :param leak_s: answers take longer and longer, and after so many seconds the memory is full
    :param wrong: share of the labelled answers that are wrong on top; no counter shows it
    :param outages: share of the time in which both versions fail one request in five: nobody's fault
    """

    name: str
    meaning: str
    fails: float = 0.0
    slower: float = 1.0
    victims: float = 1.0
    from_share: float = 0.0
    leak_s: float | None = None
    wrong: float = 0.0
    outages: float = 0.0

    @property
    def harmless(self) -> bool:
        """Whether the new version is as good as stable: a rollback is a false alarm."""
        return not (self.fails or self.wrong or self.leak_s) and self.slower == 1.0

    def probabilities(self, load: TrafficModel, *, since_s: Any, share: float, victim: Any) -> tuple[Any, Any]:
        """Return the probabilities that a request of the new version fails, and that it is answered slowly.

        :param since_s: seconds since it was deployed; an array
        :param share: of the callers that it has
        :param victim: which requests are of a victim: an array of bool, or the share of the victims for a mean
        :returns: arrays
        """
        import numpy as np

        fails, slower = np.full(np.shape(since_s), self.fails), np.full(np.shape(since_s), self.slower)
        if share < self.from_share:
            fails, slower = np.zeros_like(fails), np.ones_like(slower)
        if self.leak_s:
            age = since_s / self.leak_s
            slower = slower * (1 + (_GROWN - 1) * np.minimum(age, 1.0))
            fails = np.where(age >= 1, _DEATH_SHARE, fails)
        hit_fails = 1 - (1 - load.error_rate) * (1 - fails)
        hit_slow = slow_share(load.slow_rate, slower)
        part = np.asarray(victim, dtype=float)
        return load.error_rate + part * (hit_fails - load.error_rate), load.slow_rate + part * (
            hit_slow - load.slow_rate
        )


def slow_share(base: float, slower: Any) -> Any:
    """Return the share of slow answers once they take ``slower`` times longer, for a lognormal latency.

    :param base: the share before
    :param slower: array
    """
    import numpy as np

    if not 0 < base < 1:
        return np.full(np.shape(slower), base)
    normal, factors = NormalDist(), np.asarray(slower, dtype=float)
    limit = normal.inv_cdf(1 - base)
    distinct, where = np.unique(factors, return_inverse=True)
    shares = [1 - normal.cdf(limit - float(np.log(factor)) / LATENCY_SIGMA) for factor in distinct]
    return np.asarray(shares)[where].reshape(factors.shape)


# name -> (what its value is, default value, how to make it)
_KINDS: dict[str, tuple[str, float | None]] = {
    "identical": ("", None),
    "outages": ("% of the time in which both versions fail a fifth of all requests", 5.0),
    "crash": ("", None),
    "fails": ("% of the requests that fail on top", 5.0),
    "slower": ("times longer for each answer", 2.0),
    "leak": ("seconds until its memory is full", 900.0),
    "some_units": ("% of the units, for which it always fails", 2.0),
    "late": ("% of the requests that fail on top, once half of the callers are on it", 5.0),
    "labels": ("% of the answers that are wrong on top, which only labels show", 5.0),
}
DEFAULT_SCENARIOS = tuple(_KINDS)


def scenario(text: str) -> Scenario:
    """Read ``crash`` or ``fails=5``.

    :raises ConfigurationError: unknown, or a value out of its range
    """
    match = re.fullmatch(r"([a-z_]+)(?:=(\d+(?:\.\d+)?))?", text)
    if match is None or match[1] not in _KINDS:
        known = ", ".join(name if default is None else f"{name}={default:g}" for name, (_, default) in _KINDS.items())
        raise ConfigurationError(f"--scenario {text}: unknown; write one of {known}")
    name = match[1]
    unit, default = _KINDS[name]
    if default is None:
        if match[2]:
            raise ConfigurationError(f"--scenario {text}: {name} takes no value")
        return _plain(name)
    value = float(match[2]) if match[2] else default
    if value <= 0 or (unit.startswith("%") and value > 100) or (name == "slower" and value <= 1):
        raise ConfigurationError(f"--scenario {text}: the value is {unit}; {value:g} is out of range")
    return _with_value(name, value)


def _plain(name: str) -> Scenario:
    if name == "crash":
        return Scenario(name, "fails every request", fails=1.0)
    return Scenario(name, "as good as stable")


def _with_value(name: str, value: float) -> Scenario:
    label, share = f"{name}={value:g}", value / 100
    made = {
        "outages": lambda: Scenario(label, f"as good as stable; both fail in {value:g} % of the time", outages=share),
        "fails": lambda: Scenario(label, f"fails {value:g} % more requests", fails=share),
        "slower": lambda: Scenario(label, f"takes {value:g} times as long", slower=value),
        "leak": lambda: Scenario(label, f"slows down, out of memory after {value:g} s", leak_s=value),
        "some_units": lambda: Scenario(label, f"always fails for {value:g} % of the units", fails=1.0, victims=share),
        "late": lambda: Scenario(
            label, f"fails {value:g} % more from half of the callers on", fails=share, from_share=0.5
        ),
        "labels": lambda: Scenario(label, f"{value:g} % more answers are wrong", wrong=share),
    }
    return made[name]()
