"""How many labels it takes to see that accuracy fell from 90 to 88 %: pairs, against a split.

A pair is a request that shadow and stable both answered; in 6 % of them one version alone is right, in 4 % stable, in
2 % the canary. alpha 0.01, looked at after every pair. Also: the labels until a loss of a point is refuted when
nothing was lost, and how often identical versions are Failed. References: the same e-value without pairs (half of the
requests each), the fixed sample sizes that a test with one look would need for 80 % power, and an exact binomial
(McNemar) test at alpha that is looked at every 100 labels. The product's `judge` is asked at the label that settles a
release and at the one before. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from math import log, sqrt
from typing import Any

import numpy as np

from benchmarks.judging import Array, log_ownership
from operators.core.spec_judge import Judge
from operators.judge.evidence import Evidence, Outcome, Pairs
from operators.judge.policy import judge
from operators.judge.statistics import ownership, shares

ALPHA, ACCURACY, WORSE, DISCORDANT = 0.01, 0.90, 0.88, 0.06
POLICY = Judge.model_validate(
    {"alpha": ALPHA, "failures": None, "slow": None, "labels": {"within": "7d", "block": "none"}}
)
LONGEST = 12_000


def pairs(rng: np.random.Generator, releases: int, lost: float) -> tuple[Array, Array]:
    """Return of each labelled pair whether only the canary was wrong, and whether only stable was.

    :param lost: accuracy that the canary lost
    """
    u = rng.random((releases, LONGEST))
    only_canary = (DISCORDANT + lost) / 2
    return u < only_canary, (u >= only_canary) & (u < DISCORDANT)


def first(over: Array) -> Array:
    """Return after how many labels each release is settled; the longest where it is not."""
    return np.where(over.any(axis=1), over.argmax(axis=1) + 1, over.shape[1])


def owned(canary: Array, stable: Array) -> Array:
    """Return after each label whether the e-value has reached the threshold."""
    over = np.zeros(canary.shape, bool)
    for row in range(len(canary)):
        (at,) = np.nonzero(canary[row] | stable[row])
        if len(at):
            over[row, at] = log_ownership(canary[row, at][None], np.array(0.5), ownership.PAIRS)[0] >= -log(ALPHA)
    return over


def agrees_with_product(canary: Array, stable: Array, settled: Array) -> bool:
    """Return whether `judge` says Failed at the label that settles each release, and not at the one before."""
    for row, n in enumerate(settled):
        for labels, failed in ((int(n), True), (int(n) - 1, False)):
            counts = Pairs(
                total=labels,
                canary_only_wrong=int(canary[row, :labels].sum()),
                stable_only_wrong=int(stable[row, :labels].sum()),
            )
            said = judge(POLICY, Evidence(pairs=counts), elapsed_s=1)
            if (said.outcome is Outcome.FAILED) is not failed and n < LONGEST:
                return False
    return True


def unpaired(rng: np.random.Generator, releases: int) -> Array:
    """Return the labels until an even split, with the same e-value, finds the same loss; wrong answers are the events."""
    longest = 120_000
    share = (1 - ACCURACY + 1 - WORSE) / 2
    events = int(longest * share * 1.2)
    canary = rng.random((releases, events)) < (1 - WORSE) / 2 / share
    labels = rng.geometric(share, canary.shape).cumsum(axis=1)
    over = log_ownership(canary, np.full((1, events), 0.5)) >= -log(ALPHA)
    return np.where(over.any(axis=1), labels[np.arange(releases), over.argmax(axis=1)], longest)


def fixed_unpaired() -> int:
    """Return the labels that a test with one look needs: one-sided, both arms, 80 % power."""
    z = 2.3263 + 0.8416
    return round(2 * z * z * (ACCURACY * (1 - ACCURACY) + WORSE * (1 - WORSE)) / (ACCURACY - WORSE) ** 2)


def fixed_paired() -> int:
    """Return the labels that McNemar's test with one look needs."""
    d = ACCURACY - WORSE
    return round(((2.3263 * sqrt(DISCORDANT) + 0.8416 * sqrt(DISCORDANT - d * d)) / d) ** 2)


def peeked(canary: Array, stable: Array) -> float:
    """Return how often McNemar's z at alpha, looked at every 100 labels, rejects, in percent."""
    a, b = (x.cumsum(axis=1)[:, 99::100] for x in (canary, stable))
    return percent(((a - b) / np.sqrt(np.maximum(a + b, 1)) > 2.3263).any(axis=1))


def refuted(rng: np.random.Generator, releases: int) -> float:
    """Return the median of the labels until a loss of a point is refuted, when none was lost."""
    canary, stable = (x.cumsum(axis=1)[:, 99::100] for x in pairs(rng, releases, 0.0))
    level = log(1 / (1 - POLICY.confidence))
    times = []
    for row in range(releases):
        for look in range(canary.shape[1]):
            a, b, n = int(canary[row, look]), int(stable[row, look]), 100 * (look + 1)
            if shares.log_e_below(shares.Harms(a, b, n - a - b), 0.01) >= level:
                break
        times.append(n)
    return float(np.median(times))


def percent(found: Array) -> float:
    return round(100 * float(found.mean()), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="100 releases")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    releases, began = (100 if options.quick else options.releases), time.monotonic()
    rng = np.random.default_rng(options.seed)
    worse = pairs(rng, releases, ACCURACY - WORSE)
    settled = first(owned(*worse))
    same = pairs(rng, 5 * releases, 0.0)
    alone = unpaired(rng, releases)
    report: dict[str, Any] = {
        "alpha": ALPHA,
        "releases": releases,
        "median_labels": float(np.median(settled)),
        "goal": 1400,
        "p90_labels": float(np.quantile(settled, 0.9)),
        "found_pct": percent(settled < LONGEST),
        "product_agrees": agrees_with_product(*worse, settled),
        "identical_failed_pct": percent(owned(*same).any(axis=1)),
        "median_labels_until_a_point_lost_is_refuted": refuted(rng, min(releases, 100)),
        "references": {
            "unpaired_e_value_median_labels": float(np.median(alone)),
            "unpaired_one_look_labels": fixed_unpaired(),
            "paired_one_look_labels": fixed_paired(),
            "peeked_mcnemar_identical_failed_pct": peeked(*same),
        },
        "goal_met": bool(np.median(settled) <= 1400),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
