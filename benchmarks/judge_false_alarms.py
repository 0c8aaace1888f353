"""How often identical versions are rolled back: the judge, looked at after every bad event, against rules in use.

A release has three steps of 10 minutes, at 5, 25 and 50 %. Failures and slow answers are two guards that share alpha.
For each cell, 1,000 releases: the share that is ever Failed, which must stay at or below alpha. Then traffic that is
not independent: bursts of failures, callers that are sticky and unlike each other (a unit's first bad event counts,
and for contrast every request), and one caller that sends half of the requests and always fails. Last, the guards on
numbers and on series. The references see the same traffic: a z-test at 5 % looked at every minute, and Flagger's
documented analysis (success rate of at least 99 %, five failed checks). Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from math import log
from typing import Any

import numpy as np

from benchmarks.judging import Array, difference_to_product, flagger, log_ownership, z_scores
from operators.core.spec_judge import Judge, Series
from operators.judge import series
from operators.judge.evidence import Point
from operators.judge.statistics import means, normal
from operators.judge.wording import Rules

STEPS = np.repeat([0.05, 0.25, 0.5], 10)  # weight in each minute
POLICY = Judge()
THRESHOLD = len(POLICY.guards) / POLICY.alpha
SLOW = 0.02  # share of slow answers


def ever(canary: Array, weights: Array) -> Array:
    """Return which releases reach the threshold at any event."""
    return (log_ownership(canary, weights) >= np.log(THRESHOLD)).any(axis=1)


def events_of(rng: np.random.Generator, per_minute: Array) -> tuple[Array, Array]:
    """Return whose each bad event is and the weights, for counts per minute; releases are padded with events of stable's.

    :param per_minute: bad events, releases × minutes
    """
    longest = max(1, int(per_minute.sum(axis=1).max()))
    weights = np.full((len(per_minute), longest), 0.5)
    real = np.zeros((len(per_minute), longest), dtype=bool)
    for row, counts in enumerate(per_minute):
        n = int(counts.sum())
        weights[row, :n] = np.repeat(STEPS, counts)
        real[row, :n] = True
    return (rng.random(weights.shape) < weights) & real, weights


def independent(rng: np.random.Generator, rate: float, errors: float, releases: int) -> dict[str, Any]:
    """Traffic without memory: the judge with both guards, and the references."""
    back, differs = np.zeros(releases, bool), 0.0
    z_back = np.zeros(releases, bool)
    for start in range(0, releases, 100):
        part = slice(start, min(start + 100, releases))
        size = (part.stop - start, len(STEPS))
        for share in (errors, SLOW):
            canary, weights = events_of(rng, rng.poisson(rate * 60 * share, size))
            back[part] |= ever(canary, weights)
        differs = max(differs, difference_to_product(canary[:2], weights[:2]))
        n_c, n_s = rng.poisson(rate * 60 * STEPS, size), rng.poisson(rate * 60 * (1 - STEPS), size)
        sums = [x.cumsum(axis=1) for x in (rng.binomial(n_c, errors), n_c, rng.binomial(n_s, errors), n_s)]
        z_back[part] = (z_scores(*sums) > 1.645).any(axis=1)
    return {
        "requests_per_s": rate,
        "errors_pct": errors * 100,
        "judge_pct": percent(back),
        "flagger_pct": round(100 * flagger(rng, rate, errors, releases)[0], 2),
        "peeked_z_pct": percent(z_back),
        "array_against_product": differs,
    }


def bursty(rng: np.random.Generator, releases: int) -> dict[str, Any]:
    """Incidents: most minutes are quiet, in one of ten up to thousands fail."""
    quiet = rng.poisson(3, (releases, len(STEPS)))
    incident = (rng.random(quiet.shape) < 0.1) * rng.poisson(rng.lognormal(5, 1.2, quiet.shape))
    back = np.concatenate(
        [ever(*events_of(rng, part)) for part in np.array_split(quiet + incident, max(1, releases // 50))]
    )
    return {"traffic": "bursts", "judge_pct": percent(back)}


def sticky(rng: np.random.Generator, releases: int, *, callers: int, heaviest: float) -> dict[str, Any]:
    """Callers keep their arm for a step and fail as they do: a few always, most never.

    :param heaviest: share of the requests that one caller sends
    """
    units_back = requests_back = 0
    for _ in range(releases):
        rates = rng.pareto(1.1, callers) + 0.02
        rates *= (1 - heaviest) / rates.sum()
        rates[0] += heaviest
        failing = np.where(rng.random(callers) < 0.05, rng.choice([1.0, 0.3, 0.05], callers), 0.0)
        failing[0] = max(failing[0], float(heaviest > 0.1))
        buckets = rng.random(callers)
        bad = rng.poisson(rates[:, None] * failing[:, None] * 3000, (callers, len(STEPS)))  # of 3,000 requests a minute
        unit, minute = np.nonzero(bad)
        order = np.argsort(minute + rng.random(len(minute)), kind="stable")
        unit, minute = unit[order], minute[order]
        _, first = np.unique(unit, return_index=True)
        first.sort()
        for chosen, times, name in (
            (unit[first], minute[first], "units"),
            (np.repeat(unit, bad[unit, minute]), np.repeat(minute, bad[unit, minute]), "requests"),
        ):
            back = len(chosen) and ever((buckets[chosen] < STEPS[times])[None], STEPS[times][None])[0]
            units_back += bool(back) and name == "units"
            requests_back += bool(back) and name == "requests"
    return {
        "traffic": f"{callers} sticky callers, the heaviest sends at least {heaviest:.0%}",
        "judge_pct": round(100 * units_back / releases, 2),
        "if_every_request_counted_pct": round(100 * requests_back / releases, 2),
    }


def other_guards(rng: np.random.Generator, releases: int) -> dict[str, Any]:
    """The guards on numbers, each with all of alpha, looked at 60 times, and what a test without correction does with them.

    10 % canary, 20,000 values: skewed ones (lognormal), and rare ones, of which 1 % is not 0. Series: 240 moments
    whose noise lasts (autocorrelation 0.7), a canary with three times the noise because of its tenth of the requests.
    """
    found: dict[str, Any] = {}
    for name, values in (
        ("skewed", lambda n: np.minimum(rng.lognormal(-3, 1, n), 1.0)),
        ("rare", lambda n: np.where(rng.random(n) < 0.01, rng.random(n), 0.0)),
    ):
        business, prediction, z = (np.zeros(releases, bool) for _ in range(3))
        for release in range(releases):
            y, canary = values(20_000), rng.random(20_000) < 0.1
            sums = np.stack([part.cumsum() for mine in (canary, ~canary) for part in (mine, mine * y, mine * y * y)])
            for look in np.geomspace(1000, 20_000, 60).astype(int) - 1:
                c, s = (moments(*sums[i : i + 3, look]) for i in (0, 3))
                split = means.Split(c, s, 0.1)
                business[release] |= means.log_e_above(means.weighted([split]), 0.0) >= -log(POLICY.alpha)
                variance = c.m2 / c.size / c.size + s.m2 / s.size / s.size
                difference = normal.Difference(c.mean - s.mean, 1 / variance)
                prediction[release] |= normal.log_e_above([difference], 0.0, 0.02) >= -log(POLICY.alpha)
                z[release] |= (c.mean - s.mean) / variance**0.5 > 2.3263
        found[f"{name}_business_pct"] = percent(business)
        # Against a difference of 0; the guard itself fails only beyond the margin.
        found[f"{name}_prediction_pct"] = percent(prediction)
        found[f"{name}_peeked_z_pct"] = percent(z)
    return found | series_guard(rng, max(1, releases // 5))


def moments(size: float, total: float, squares: float) -> means.Numbers:
    """Return the numbers' moments from their sums."""
    return means.Numbers(int(size), total / size, max(0.0, squares - total * total / size))


def series_guard(rng: np.random.Generator, releases: int) -> dict[str, Any]:
    from scipy.signal import lfilter
    from scipy.stats import mannwhitneyu

    rule = Series.model_validate({"query": "up"})
    guard, rank = np.zeros(releases, bool), np.zeros(releases, bool)
    for release in range(releases):
        noise = lfilter([(1 - 0.7**2) ** 0.5], [1, -0.7], rng.normal(0, 1, (2, 300)))[:, 60:]
        stable, canary = 100 + 3 * noise[0], 100 + 9 * noise[1]
        rows = enumerate(zip(stable.tolist(), canary.tolist(), strict=True))
        points = [Point(t=float(t), stable=s, canary=c) for t, (s, c) in rows]
        for look in range(10, 241, 10):
            reading = series.report(rule, points[:look], Rules(1 / POLICY.alpha, 0.05, 1.0), weight=0.1).result
            guard[release] |= reading.e >= reading.threshold
            rank[release] |= mannwhitneyu(canary[:look], stable[:look]).pvalue < 0.02
    return {"series_pct": percent(guard), "series_releases": releases, "series_peeked_mann_whitney_pct": percent(rank)}


def percent(back: Array) -> float:
    return round(100 * float(back.mean()), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="100 releases, up to 50 requests a second")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    releases, began = (100 if options.quick else options.releases), time.monotonic()
    rng = np.random.default_rng(options.seed)
    rates = (1, 5, 50) if options.quick else (1, 5, 50, 500)
    cells = [independent(rng, rate, errors, releases) for rate in rates for errors in (0.001, 0.005, 0.02)]
    correlated = [
        bursty(rng, releases),
        sticky(rng, releases, callers=2000, heaviest=0.0),
        sticky(rng, releases, callers=300, heaviest=0.5),
    ]
    others = other_guards(rng, releases)
    shares = [row["judge_pct"] for row in [*cells, *correlated]]
    # A share of so many releases varies by chance; a cell is over alpha if it is by more than three standard errors.
    allowed = 100 * (POLICY.alpha + 3 * (POLICY.alpha * (1 - POLICY.alpha) / releases) ** 0.5)
    report = {
        "alpha_pct": POLICY.alpha * 100,
        "threshold": THRESHOLD,
        "releases_per_cell": releases,
        "independent": cells,
        "correlated": correlated,
        "other_guards": others,
        "judge_pct_all_cells": round(sum(shares) / len(shares), 3),
        "judge_pct_worst_cell": max(shares),
        "goal_met": sum(shares) / len(shares) <= 100 * POLICY.alpha and max(shares) <= allowed,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
