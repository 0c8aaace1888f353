"""What the new version of a simulated release does: it is as good as stable, or bad in some way. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from operators.core.errors import ConfigurationError
from operators.planning.simulation.traffic_model import TrafficModel

LATENCY_SIGMA = 0.5  # of the logarithm of stable's latency, which is taken as normal: p99 is 3.2 times the median
_DEATH_SHARE = 0.98  # of the requests fail once a version has no memory left
_GROWN = 4.0  # how many times slower a leaking version is just before its memory is full


@dataclass(frozen=True)
class Scenario:
    """How the new version differs from stable. By default it does not.

    :param fails: share of the requests that fail in addition to stable's
    :param slower: factor on the time of an answer
    :param victims: share of the units that `fails` and `slower` apply to
    :param from_share: share of the callers from which on the new version is bad
    :param leak_s: seconds until the memory is full; until then answers take longer and longer
    :param wrong: share of the labelled answers that are wrong in addition to stable's; only labels show it
    :param outages: share of the time in which both versions fail one request in five
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
        """Whether the new version is as good as stable, so that a rollback is a false alarm."""
        return not (self.fails or self.wrong or self.leak_s) and self.slower == 1.0

    def probabilities(self, load: TrafficModel, *, since_s: Any, share: float, victim: Any) -> tuple[Any, Any]:
        """Return the probabilities that a request of the new version fails, and that it is answered slowly.

        :param since_s: seconds since it was deployed; an array
        :param share: share of the callers that it has
        :param victim: which requests come from victims, an array of bool; or the share of the victims, for a mean
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
    """Return the share of slow answers if each takes ``slower`` times as long, for a lognormal latency.

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


# name -> what the version does, the default of the value in that (None: it has none), and the fields of the `Scenario`
_KINDS: dict[str, tuple[str, float | None, Callable[[float], dict[str, float]]]] = {
    "identical": ("as good as stable", None, lambda _: {}),
    "outages": (
        "as good as stable; both fail a fifth of the requests in {:g} % of the time",
        5.0,
        lambda pct: {"outages": pct / 100},
    ),
    "crash": ("fails every request", None, lambda _: {"fails": 1.0}),
    "fails": ("fails {:g} % more requests", 5.0, lambda pct: {"fails": pct / 100}),
    "slower": ("takes {:g} times as long", 2.0, lambda times: {"slower": times}),
    "leak": ("slows down, and is out of memory after {:g} s", 900.0, lambda s: {"leak_s": s}),
    "some_units": ("always fails for {:g} % of the units", 2.0, lambda pct: {"fails": 1.0, "victims": pct / 100}),
    "late": (
        "fails {:g} % more requests once it has half of the callers",
        5.0,
        lambda pct: {"fails": pct / 100, "from_share": 0.5},
    ),
    "labels": ("{:g} % more answers are wrong", 5.0, lambda pct: {"wrong": pct / 100}),
}
DEFAULT_SCENARIOS = tuple(_KINDS)


def scenario(text: str) -> Scenario:
    """Read ``crash`` or ``fails=5``.

    :raises ConfigurationError: unknown, or a value out of its range
    """
    match = re.fullmatch(r"([a-z_]+)(?:=(\d+(?:\.\d+)?))?", text)
    if match is None or match[1] not in _KINDS:
        known = ", ".join(name if kind[1] is None else f"{name}={kind[1]:g}" for name, kind in _KINDS.items())
        raise ConfigurationError(f"--scenario {text}: unknown; write one of {known}")
    name = match[1]
    meaning, default, fields = _KINDS[name]
    if default is None:
        if match[2]:
            raise ConfigurationError(f"--scenario {text}: {name} takes no value")
        return Scenario(name, meaning, **fields(0.0))
    value = float(match[2]) if match[2] else default
    if value <= 0 or ("%" in meaning and value > 100) or (name == "slower" and value <= 1):
        raise ConfigurationError(f"--scenario {text}: {value:g} is out of range in: {meaning.format(value)}")
    return Scenario(f"{name}={value:g}", meaning.format(value), **fields(value))
