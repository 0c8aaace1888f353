"""How many canary requests a regression costs until the judge fails it, against the information bound and rules in use.

10 % weight, alpha 0.001, one guard, looked at after every bad event, 400 releases each: a canary that fails
everything, 0.5 → 5 %, 1 → 2 %. The bound is what no test that knows neither share can beat on average: log(1/alpha)
over the information of one request, w KL(p_c, p) + (1 - w) KL(p_s, p), p the mean share (Grünwald, de Heide and
Koolen, "Safe testing", 2024). Each release's verdict is also asked of the product's `judge`, at the event that
settles it and at the one before.

References, same traffic at 100 requests a second: Flagger's documented analysis, Argo Rollouts' documented one
(success rate of at least 95 % every 5 minutes, more than 3 failures), and a z-test at 5 %, looked at every 100
requests, with what each costs when nothing is wrong.

`published` scores the e-values against figures of others: Turner, Ly and Grünwald's 2×2 designs (safestats) and
Spotify's comparison of sequential tests. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from math import log
from typing import Any

import numpy as np

from benchmarks.judging import Array, flagger, log_ownership, z_scores
from operators.core.spec_judge import Judge
from operators.judge.evidence import Arm, Evidence, Outcome, Period
from operators.judge.policy import judge
from operators.judge.statistics import normal, shares

WEIGHT, ALPHA, RATE = 0.1, 0.001, 100
POLICY = Judge(alpha=ALPHA, slow=None)
# (stable's share of failures, the canary's, goal: median of canary requests)
CASES = ((0.005, 1.0, 5), (0.005, 0.05, 150), (0.01, 0.02, 2800))


def bound(stable: float, canary: float, weight: float, alpha: float) -> float:
    """Return the information bound in requests to both arms."""

    def kl(p: float, q: float) -> float:
        return p * log(p / q) + ((1 - p) * log((1 - p) / (1 - q)) if p < 1 else 0.0)

    mean = weight * canary + (1 - weight) * stable
    return -log(alpha) / (weight * kl(canary, mean) + (1 - weight) * kl(stable, mean))


def detect(
    rng: np.random.Generator,
    stable: float,
    canary: float,
    releases: int,
    *,
    weight: float = WEIGHT,
    alpha: float = ALPHA,
) -> dict[str, Array]:
    """Return of each release the requests until the threshold is reached, and the counts at that event and the one before.

    :param stable: stable's share of failures
    :param canary: the canary's
    """
    share = weight * canary + (1 - weight) * stable
    longest = int(12 * bound(stable, canary, weight, alpha) * share) + 40
    whose = rng.random((releases, longest)) < weight * canary / share
    until = rng.geometric(share, whose.shape).cumsum(axis=1)
    over = log_ownership(whose, np.full((1, longest), weight)) >= -log(alpha)
    assert over.any(axis=1).all(), "a release was not settled; make it longer"
    at, rows = over.argmax(axis=1), np.arange(releases)
    bad = whose.cumsum(axis=1)
    requests = until[rows, at]
    # Of the requests without a failure, the canary has this share.
    fine = rng.binomial(requests - at - 1, weight * (1 - canary) / (1 - share)) if share < 1 else 0
    return {
        "requests": requests,
        "canary_requests": bad[rows, at] + fine,
        "canary_bad": bad[rows, at],
        "stable_bad": at + 1 - bad[rows, at],
        "last_was_canarys": whose[rows, at],
    }


def agrees_with_product(found: dict[str, Array]) -> bool:
    """Return whether `judge` says Failed at the event that settled each release, and not at the one before."""
    for row in range(len(found["requests"])):
        canary, stable = int(found["canary_requests"][row]), int(found["requests"][row] - found["canary_requests"][row])
        bad, other, last = (int(found[key][row]) for key in ("canary_bad", "stable_bad", "last_was_canarys"))
        for back, outcome in ((0, True), (1, False)):
            arms = [
                Arm(requests=canary, failed=bad - (back and last)),
                Arm(requests=stable, failed=other - (back and not last)),
            ]
            said = judge(
                POLICY, Evidence(periods=(Period(weight=WEIGHT, canary=arms[0], stable=arms[1]),)), elapsed_s=1
            )
            if (said.outcome is Outcome.FAILED) is not outcome:
                return False
    return True


def references(rng: np.random.Generator, stable: float, canary: float, releases: int) -> dict[str, Any]:
    """Return what rules in use cost with this canary, and how often they roll back one that is like stable."""
    back, minutes = flagger(rng, RATE, canary, releases)
    looks = 3000
    n_c, n_s = (np.full((releases, looks), int(100 * w)).cumsum(axis=1) for w in (WEIGHT, 1 - WEIGHT))

    def z_over(p_canary: float) -> Array:
        k_c = rng.binomial(int(100 * WEIGHT), p_canary, n_c.shape).cumsum(axis=1)
        k_s = rng.binomial(int(100 * (1 - WEIGHT)), stable, n_s.shape).cumsum(axis=1)
        return z_scores(k_c, n_c, k_s, n_s) > 1.645

    over = z_over(canary)
    n_argo = int(RATE * 300 * WEIGHT)
    argo_fails = rng.binomial(n_argo, canary, (releases, 4)) > 0.05 * n_argo
    median = float(np.median((over.argmax(axis=1) + 1)[over.any(axis=1)])) * 100 * WEIGHT
    return {
        "flagger": {
            "rolled_back_pct": round(100 * back, 1),
            "identical_rolled_back_pct": round(100 * flagger(rng, RATE, stable, releases)[0], 1),
            "median_minutes": None if np.isnan(minutes) else minutes,
            "median_canary_requests": None if np.isnan(minutes) else ramped(minutes),
        },
        "argo": {
            "rolled_back_pct": round(100 * float(argo_fails.all(axis=1).mean()), 1),
            "median_canary_requests": 4 * n_argo,
        },
        "peeked_z": {
            "rolled_back_pct": round(100 * float(over.any(axis=1).mean()), 1),
            "identical_rolled_back_pct": round(100 * float(z_over(stable).any(axis=1).mean()), 1),
            "median_canary_requests": median,
        },
    }


def ramped(minutes: float) -> float:
    """Return the canary's requests in Flagger's ramp if no check was good: it stays at 2 %."""
    return minutes * 60 * RATE * 0.02


# What others published, reproduced and scored against


# Alternatives δ, and the published number of pairs for 80 % power and the mean until the test stops: Turner, Ly and Grünwald,
# "Generic E-variables for exact sequential k-sample tests", JSPI 230, 2024, vignette data of safestats; alpha 0.05,
# worst over p.
SAFESTATS = ((0.9, 7.2, 5.27), (0.729, 13.2, 8.05), (0.557, 24.0, 14.59), (0.386, 69.0, 33.04), (0.3, 98.2, 56.03))


def safestats(
    rng: np.random.Generator, delta: float, runs: int, *, prior: float = 0.18, longest: int = 600
) -> tuple[float, float]:
    """Return the 80 % quantile and the mean of the pairs that the published test needs, the worst over p.

    One observation of each arm at a time; the e-value's factor is p_a(y_a) p_b(y_b) / (p_0(y_a) p_0(y_b)) with the
    means of Beta posteriors of what was before, p_0 their mean.
    """
    quantile = mean = 0.0
    for p in np.linspace(0.02, 0.98 - delta, 5):
        y = rng.random((2, runs, longest)) < np.array([p, p + delta])[:, None, None]
        before = np.concatenate([np.zeros((2, runs, 1)), y.cumsum(axis=2)[:, :, :-1]], axis=2)
        theta = (prior + before) / (2 * prior + np.arange(longest))
        middle = theta.mean(axis=0)
        factors = sum(
            np.log(np.where(y[i], theta[i], 1 - theta[i]) / np.where(y[i], middle, 1 - middle)) for i in (0, 1)
        )
        quantile, mean = worse((quantile, mean), stopped(np.cumsum(factors, axis=1), 0.05))
    return quantile, mean


def ours_in_pairs(rng: np.random.Generator, delta: float, runs: int, *, longest: int = 600) -> tuple[float, float]:
    """Return the same of the judge's two e-values for shares: whose event it was, and the bet on the difference of a pair."""
    quantile = mean = 0.0
    for p in np.linspace(0.02, 0.98 - delta, 5):
        y = rng.random((2, runs, longest)) < np.array([p, p + delta])[:, None, None]
        worse_, better = y[1] & ~y[0], y[0] & ~y[1]
        n = np.arange(1, longest + 1)
        up, down = worse_.cumsum(axis=1), better.cumsum(axis=1)
        bets = [
            np.log(mass) + up * np.log1p(bet) + down * np.log1p(-bet) + 0 * n for bet, mass in normalised(shares.UNITS)
        ]
        quantile, mean = worse((quantile, mean), stopped(np.logaddexp.reduce(bets), 0.05))
    return quantile, mean


def normalised(prior: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    total = sum(mass for _, mass in prior)
    return [(bet, mass / total) for bet, mass in prior]


def stopped(log_e: Array, alpha: float) -> tuple[float, float]:
    """Return the 80 % quantile of the times at which the threshold is reached, and the mean time until that quantile at most."""
    over = log_e >= -log(alpha)
    times = np.where(over.any(axis=1), over.argmax(axis=1) + 1, log_e.shape[1])
    quantile = float(np.quantile(times, 0.8, method="inverted_cdf"))
    return quantile, float(np.minimum(times, quantile).mean())


def worse(one: tuple[float, float], two: tuple[float, float]) -> tuple[float, float]:
    return max(one[0], two[0]), max(one[1], two[1])


def spotify(rng: np.random.Generator, runs: int, *, effect: float = 0.2, scale: float = 0.2) -> dict[str, float]:
    """Return our figures in Schultzberg and Ankargren's comparison (2023): 500 in each arm, sd 1, one-sided 5 %, every look."""
    n = np.arange(1, 501)

    def over(mean: float) -> tuple[Array, Array]:
        difference = (rng.normal(mean, 1, (runs, 500)) - rng.normal(0, 1, (runs, 500))).cumsum(axis=1) / n
        information = n / 2
        ours = half_normal(difference * information, information, scale) >= log(20)
        naive = difference * np.sqrt(information) > 1.645
        return ours, naive

    with_effect, _ = over(effect)
    none, naive_none = over(0.0)
    times = np.where(with_effect.any(axis=1), with_effect.argmax(axis=1) + 1, 500)
    return {
        "power": round(float(with_effect.any(axis=1).mean()), 3),
        "mean_total": round(2 * float(times.mean()), 1),
        "false_alarms": round(float(none.any(axis=1).mean()), 3),
        "naive_z_false_alarms": round(float(naive_none.any(axis=1).mean()), 3),
    }


def half_normal(score: Array, information: Array, scale: float) -> Array:
    """Return `normal.log_e_above` on arrays, by the product's own function on a grid of z."""
    grid = np.linspace(-12, 40, 5001)
    table = np.array([normal._log_half_normal(float(z)) for z in grid])
    spread = 1 + scale * scale * information
    return -np.log(spread) / 2 + np.interp(scale * score / np.sqrt(spread), grid, table)


def published(rng: np.random.Generator, runs: int) -> dict[str, Any]:
    rows = []
    for delta, quantile, mean in SAFESTATS:
        theirs, ours = safestats(rng, delta, runs), ours_in_pairs(rng, delta, runs)
        rows.append(
            {
                "delta": delta,
                "published": [quantile, mean],
                "reproduced": [round(x, 2) for x in theirs],
                "ours_one_sided": [round(x, 2) for x in ours],
            }
        )
    return {
        "safestats_pairs_80pct_and_mean": rows,
        "spotify_stream": {
            "ours": spotify(rng, runs),
            "published": {"GAVI250": [0.768, 600, 0.023], "mSPRT25": [0.77, None, None], "naive_z_false_alarms": 0.386},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="100 releases")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    releases, began = (100 if options.quick else options.releases), time.monotonic()
    rng = np.random.default_rng(options.seed)
    rows = []
    for stable, canary, goal in CASES:
        found = detect(rng, stable, canary, releases)
        median = float(np.median(found["canary_requests"]))
        least = bound(stable, canary, WEIGHT, ALPHA)
        rows.append(
            {
                "errors_pct": [stable * 100, canary * 100],
                "median_canary_requests": median,
                "goal": goal,
                "p90_canary_requests": float(np.quantile(found["canary_requests"], 0.9)),
                "mean_requests": round(float(found["requests"].mean()), 1),
                "bound_requests": round(least, 1),
                "mean_over_bound": round(float(found["requests"].mean()) / least, 3),
                "product_agrees": agrees_with_product(found),
                "goal_met": median <= goal,
                "references": references(rng, stable, canary, releases),
            }
        )
    report = {
        "weight": WEIGHT,
        "alpha": ALPHA,
        "releases": releases,
        "cases": rows,
        "bound_goal_met": all(row["mean_over_bound"] <= 1.5 for row in rows[1:]),
        "published": published(rng, 400 if options.quick else 4000),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
