"""On which version do bad events fall?

If both versions are equally good, a bad event falls on the canary as often as its share of callers (its weight w), whatever
the traffic and its rate of errors are. If the canary fails r times as often (r: the lift), the chance is w r
/ (w r + 1 - w). The e-process is the likelihood ratio of the two, a product over events, mixed over lifts:

    LR_r = r^a / (w r + 1 - w)^(a + b)      a: events of the canary, b: of stable, at weight w

The count processes of Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022), with the
mixture of Robbins ("Statistical methods related to the law of the iterated logarithm", 1970) in place of a Dirichlet.
One-sided: for r > 1 the expected factor (p r + 1 - p) / (w r + 1 - w) is at most 1 for every chance p up to w, so "no
worse" covers "better".

Only the first event of each unit in the release may count: later ones fall on the same arm with certainty, not with chance w.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, log1p
from typing import NamedTuple

from operators.judge.statistics.numeric import first_above, log_mean

# (lift, mass). Dense at 2 and about 10; a tenth at 50 and beyond: a canary that fails everything at 10 % weight must be
# caught within five of its requests.
_LIFTS = (
    (1.25, 0.7), (1.6, 1.2), (2.0, 2.2), (2.6, 0.8), (4.0, 0.8), (7.0, 2.5), (11.0, 4.0), (18.0, 1.5), (50.0, 0.8),
    (1000.0, 0.9),
)  # fmt: skip
# For pairs: two models that are worth comparing rarely differ by more than a few times, and labels are scarce.
_LIFTS_OF_PAIRS = ((1.4, 1.0), (1.8, 2.0), (2.3, 2.0), (3.2, 1.5), (6.0, 0.7), (30.0, 0.7))
Prior = tuple[tuple[float, float, float], ...]
UNITS: Prior = tuple((lift, log(lift), mass) for lift, mass in _LIFTS)
PAIRS: Prior = tuple((lift, log(lift), mass) for lift, mass in _LIFTS_OF_PAIRS)
_FURTHEST = log(1e6)  # of a lift that an interval may reach


class Events(NamedTuple):
    """Bad events while the weight was the same.

    :param canary: how many were the canary's
    :param stable: how many were stable's
    :param weight: the canary's share of the units, above 0 and below 1
    """

    canary: int
    stable: int
    weight: float


def log_e(events: Sequence[Events], *, null_lift: float = 1.0, prior: Prior = UNITS) -> float:
    """Return the log e-value against "the canary's bad events are at most ``null_lift`` times as frequent as stable's".

    :param events: of each period; the order does not matter
    :param null_lift: 1: no worse
    :param prior: (lift, its logarithm, mass) of each that is mixed
    """
    canary = sum(period.canary for period in events)
    pooled = [
        ((period.weight * null_lift) / (period.weight * null_lift + 1 - period.weight), period.canary + period.stable)
        for period in events
    ]
    return log_mean(
        (mass, canary * log_lift - sum(n * log1p(share * (lift - 1)) for share, n in pooled))
        for lift, log_lift, mass in prior
    )


def lift_interval(events: Sequence[Events], level: float) -> tuple[float, float]:
    """Return the confidence sequence of the lift: all lifts that neither one-sided e-process refutes.

    Either end is wrong with a chance of at most ``level``, at all times together (Howard, Ramdas, McAuliffe and Sekhon,
    "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49, 2021).

    :param level: chance of error of each end
    """
    needed = -log(level)
    swapped = [Events(period.stable, period.canary, 1 - period.weight) for period in events]
    low = -first_above(lambda x: log_e(events, null_lift=exp(-x)), needed, -_FURTHEST, _FURTHEST)
    high = first_above(lambda x: log_e(swapped, null_lift=exp(-x)), needed, -_FURTHEST, _FURTHEST)
    return (0.0 if low <= -_FURTHEST else exp(low)), exp(high)
