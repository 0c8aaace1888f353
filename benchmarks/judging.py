"""What the judge's benchmarks share: the product's e-values on arrays, and the rules that others use."""

from __future__ import annotations

from typing import Any

import numpy as np

from operators.judge.statistics import ownership

Array = np.ndarray[Any, np.dtype[Any]]


def log_ownership(canary: Array, weights: Array, prior: ownership.Prior = ownership.UNITS) -> Array:
    """Return the log e-value after each bad event, as `ownership.log_e` does for one moment.

    :param canary: whether each bad event was the canary's, in their order; releases × events
    :param weights: the canary's weight at each event; the same shape, or one for all releases
    """
    top = np.full(np.broadcast(canary, weights).shape, -np.inf)
    total = sum(mass for _, _, mass in prior)
    for lift, _, mass in prior:
        steps = np.where(canary, np.log(lift), 0.0) - np.log1p(weights * (lift - 1))
        np.logaddexp(top, np.log(mass / total) + np.cumsum(steps, axis=-1), out=top)
    return top


def difference_to_product(canary: Array, weights: Array) -> float:
    """Return the largest relative difference between the array's last log e-value and the product's own function."""
    ours = log_ownership(canary, weights)[:, -1]
    weights = np.broadcast_to(weights, canary.shape)
    worst = 0.0
    for row in range(min(len(canary), 20)):
        events = [
            ownership.Events(int(canary[row][at].sum()), int((~canary[row][at]).sum()), float(w))
            for w in np.unique(weights[row])
            if (at := weights[row] == w).any()
        ]
        worst = max(worst, abs(ours[row] - ownership.log_e(events)) / max(1.0, abs(ours[row])))
    return worst


def flagger(rng: np.random.Generator, rate: float, errors: float, releases: int) -> tuple[float, float]:
    """Return how many releases Flagger's documented analysis rolls back, and the median minutes until then.

    Every 60 s: success rate of the canary in the last minute at least 99 %, else (or without requests) a failed
    check; five failed checks roll back; a good check raises the weight by 2 %, up to 50 %.

    :param rate: requests a second to both arms
    :param errors: the canary's share of failures
    """
    weights = np.arange(0.02, 0.51, 0.02)
    step, failed, ended = np.zeros(releases, int), np.zeros(releases, int), np.zeros(releases, int)
    minutes = np.zeros(releases)
    while not ended.all():
        live = ended == 0
        n = rng.poisson(rate * 60 * weights[np.minimum(step, len(weights) - 1)])
        good = (n > 0) & (rng.binomial(n, errors) <= 0.01 * n + 1e-12)
        failed += live & ~good
        step += live & good
        minutes += live
        ended = np.where(live & (failed >= 5), 2, np.where(live & (step >= len(weights)), 1, ended))
    back = ended == 2
    return float(back.mean()), float(np.median(minutes[back])) if back.any() else float("nan")


def z_scores(canary_bad: Array, canary: Array, stable_bad: Array, stable: Array) -> Array:
    """Return the two-proportion z statistic of cumulative counts; 0 where it is not defined."""
    n_c, n_s = np.maximum(canary, 1), np.maximum(stable, 1)
    pooled = (canary_bad + stable_bad) / (n_c + n_s)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_s))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((canary_bad / n_c - stable_bad / n_s) / spread)
