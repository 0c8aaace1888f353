"""Versions that have good days and bad days: how often the guard on labels is wrong about them, and how soon it is right.

A version loses ``mean`` points of accuracy in the long run; what it loses on one day is normal about that, ``sd`` points apart.
6 % of the pairs differ. A day has 900 labels (as the flights of the demo have) or 20,000, and is looked at eight times, for 40
days, at alpha 0.01. ``failed_pct``: releases that were ever Failed; where ``mean`` is 0 or below, each is a false rollback.
``one_by_one`` is the same guard with ``block: none``, for which each pair speaks for itself. ``skewed``: days that are slightly
bad mostly, and very good now and then, which is not the symmetry that the guard assumes.

Also how long a success takes for a version that is as good. The product's `judge` is asked about the last look of some releases
of each cell: it must say what the arrays say. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from math import log
from typing import Any

import numpy as np

from benchmarks.judging import Array, log_ownership
from operators.core.spec_judge import Judge
from operators.judge.evidence import Evidence, PairCounts, Pairs
from operators.judge.policy import judge
from operators.judge.statistics import blocks, ownership, shares

ALPHA, DAYS, LOOKS, DISCORDANT = 0.01, 40, 8, 0.06
POLICY = Judge.model_validate({"alpha": ALPHA, "failures": None, "slow": None, "labels": {"within": "1d"}})
TOLERATED = POLICY.labels.most_in_a_block if POLICY.labels else 0.0


def drawn(
    rng: np.random.Generator, releases: int, labels: int, mean: float, sd: float, *, skewed: bool
) -> tuple[Array, Array]:
    """Return at each look the pairs gained in which only the canary was wrong, and only stable; releases × looks."""
    days = rng.normal(0, 1, (releases, DAYS)) if not skewed else 1 - rng.exponential(1, (releases, DAYS))
    harm = np.repeat(np.clip(mean + sd * days, -0.5, 0.5), LOOKS, axis=1)
    differ = np.maximum(DISCORDANT, np.abs(harm))
    each = labels // LOOKS
    worse = rng.binomial(each, (differ + harm) / 2)
    return worse, rng.binomial(each - worse, (differ - harm) / 2 / (1 - (differ + harm) / 2))


def log_e(worse: Array, better: Array, each: int) -> Array:
    """Return the log e-value of the guard at each look."""
    days = (worse - better).reshape(len(worse), DAYS, LOOKS).sum(axis=2) / (each * LOOKS)
    passed = mixed_gain(days)
    along = np.concatenate([np.zeros((len(days), 1)), passed], axis=1)[:, np.arange(1, DAYS * LOOKS + 1) // LOOKS]
    a, b = worse.cumsum(axis=1), better.cumsum(axis=1)
    same = each * np.arange(1, DAYS * LOOKS + 1) - a - b
    room, masses = 1 + TOLERATED, sum(mass for _, mass in shares.PAIRS)
    beyond = np.full(a.shape, -np.inf)
    for bet, mass in shares.PAIRS:
        term = (
            b * np.log1p(-bet) + same * np.log1p(-bet * TOLERATED / room) + a * np.log1p(bet * (1 - TOLERATED) / room)
        )
        np.logaddexp(beyond, log(mass / masses) + term, out=beyond)
    return np.logaddexp(along, beyond) - log(2)


def mixed_gain(over: Array) -> Array:
    """Return the log e-value of the blocks after each of them."""
    masses = sum(mass for _, mass in blocks._BETS)
    total = np.full(over.shape, -np.inf)
    for bet, mass in blocks._BETS:
        gains = log(2) - np.logaddexp(0, -2 * bet * over)
        np.logaddexp(total, log(mass / masses) + gains.cumsum(axis=1), out=total)
    return total


def one_by_one(worse: Array, better: Array) -> Array:
    """Return the log e-value of the same guard without blocks at each look."""
    a, b = worse.cumsum(axis=1), better.cumsum(axis=1)
    masses = sum(mass for *_, mass in ownership.PAIRS)
    total = np.full(a.shape, -np.inf)
    for lift, log_lift, mass in ownership.PAIRS:
        np.logaddexp(total, log(mass / masses) + a * log_lift - (a + b) * np.log1p((lift - 1) / 2), out=total)
    return total


def differs(worse: Array, better: Array, each: int, values: Array) -> float:
    """Return the largest difference of a log e-value at the last look from the product's, over some releases."""
    largest = 0.0
    for row in range(min(5, len(worse))):
        sums = [x[row].reshape(DAYS, LOOKS).sum(axis=1) for x in (worse, better)]
        size = each * LOOKS
        days = tuple(
            PairCounts(total=size, canary_only_wrong=int(a), stable_only_wrong=int(b), answered=size)
            for a, b in zip(*sums, strict=True)
        )
        whole = Pairs(
            total=size * DAYS,
            canary_only_wrong=int(sums[0].sum()),
            stable_only_wrong=int(sums[1].sum()),
            answered=size * DAYS,
            blocks=days,
        )
        said = judge(POLICY, Evidence(pairs=whole), elapsed_s=1).guards["labels"]
        largest = max(largest, abs(log(said.e) - max(min(values[row, -1], 690), -690)) if said.e > 0 else 0.0)
    return largest


def cell(
    rng: np.random.Generator, releases: int, labels: int, mean: float, sd: float, *, skewed: bool = False
) -> dict[str, Any]:
    worse, better = drawn(rng, releases, labels, mean / 100, sd / 100, skewed=skewed)
    values = log_e(worse, better, labels // LOOKS)
    found, alone = (ended(v >= log(1 / ALPHA), labels) for v in (values, one_by_one(worse, better)))
    return {
        "labels_a_day": labels,
        "mean_points": mean,
        "sd_points": sd,
        **({"skewed": True} if skewed else {}),
        **found,
        "one_by_one": alone,
        "array_against_product": float(f"{differs(worse, better, labels // LOOKS, values):.2g}"),
    }


def ended(over: Array, labels: int) -> dict[str, Any]:
    """Summarise when releases failed."""
    failed = over.any(axis=1)
    first = np.where(failed, over.argmax(axis=1) + 1, over.shape[1]) / LOOKS
    enough = failed.mean() > 0.5
    return {
        "failed_pct": round(100 * float(failed.mean()), 2),
        "median_days": float(np.median(first)) if enough else None,
        "median_labels": round(float(np.median(first)) * labels) if enough else None,
    }


def success_days(rng: np.random.Generator, releases: int, labels: int, sd: float, margin: float = 0.01) -> float:
    """Return the median of the days until a version that is as good has refuted a loss of the margin, by the blocks."""
    worse, better = drawn(rng, releases, labels, 0.0, sd / 100, skewed=False)
    days = (worse - better).reshape(releases, DAYS, LOOKS).sum(axis=2) / (labels // LOOKS * LOOKS)
    over = mixed_gain(margin - days) >= -log(1 - POLICY.confidence)
    return float(np.median(np.where(over.any(axis=1), over.argmax(axis=1) + 1, DAYS)))


def exact(rng: np.random.Generator) -> float:
    """Return the largest difference of `log_ownership` and the sums here, which are the same function of counts."""
    worse, better = rng.integers(0, 2, (20, 320)), np.zeros((20, 320), int)
    better[worse == 0] = 1
    return float(np.abs(log_ownership(worse == 1, np.array(0.5), ownership.PAIRS) - one_by_one(worse, better)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=9)
    options = parser.parse_args()
    rng, began = np.random.default_rng(options.seed), time.monotonic()
    spreads, volumes = (0.0, 0.2, 0.5, 1.0, 1.5), (900, 20_000)
    good = [cell(rng, options.releases, n, mean, sd) for n in volumes for sd in spreads for mean in (0.0, -0.2)]
    bad = [cell(rng, options.releases // 4, n, mean, sd) for n in volumes for sd in spreads for mean in (2.0, 5.0)]
    skewed = [cell(rng, options.releases, n, 0.0, 0.5, skewed=True) for n in volumes]
    within = [row for row in good if row["sd_points"] <= 1]
    worst = max(row["failed_pct"] for row in within)
    # A share of so many releases varies by chance: a cell is over alpha if it is by more than three standard errors.
    allowed = 100 * (ALPHA + 3 * (ALPHA * (1 - ALPHA) / options.releases) ** 0.5)
    report = {
        "alpha_pct": 100 * ALPHA,
        "releases": options.releases,
        "no_worse": good,
        "worse": bad,
        "no_worse_but_skewed": skewed,
        "days_until_success": {
            f"{n} labels a day, sd {sd}": success_days(rng, 300, n, sd) for n in volumes for sd in spreads
        },
        "false_rollbacks_pct_worst_cell_up_to_1_point": worst,
        "one_by_one_pct_worst_cell_up_to_1_point": max(row["one_by_one"]["failed_pct"] for row in within),
        "arrays_differ_by": max(exact(rng), *(row["array_against_product"] for row in [*good, *bad])),
        "goal_met": worst <= allowed and all(row["failed_pct"] > 95 for row in bad if row["sd_points"] <= 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
