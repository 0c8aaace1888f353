"""Labels that go together: what blocks of time prove, and what they do not."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from operators.core.spec_judge import Judge
from operators.judge.evidence import Evidence, Judgement, Losses, LossSums, Outcome, PairCounts, Pairs
from operators.judge.policy import judge
from operators.judge.statistics import blocks
from operators.judge.statistics.blocks import Block

PAIRS = {"failures": None, "slow": None, "labels": {"within": "1d"}}


def expected(sizes: list[float], centre: float, bound: float = 0.0) -> float:
    """Return the mean of the e-value when each block's harm is the centre plus or minus its size."""
    flips = list(product((-1, 1), repeat=len(sizes)))
    harms = [
        [Block(1000 * (centre + sign * size), 1000, 1000) for sign, size in zip(signs, sizes, strict=True)]
        for signs in flips
    ]
    return sum(math.exp(blocks.log_e_above(given, bound)) for given in harms) / len(flips)


@pytest.mark.parametrize("sizes", [[0.5], [0.01, 0.3, 0.002], [0.02] * 8, [1.0, 0.0, 0.001, 0.9]])
def test_blocks_that_are_symmetric_about_the_bound_or_less_gain_nothing(sizes: list[float]) -> None:
    assert expected(sizes, 0.0) == pytest.approx(1, rel=1e-9)
    assert expected(sizes, 0.03, bound=0.03) == pytest.approx(1, rel=1e-9)
    for below in (-1e-4, -0.02, -0.4):
        assert expected(sizes, below) <= 1 + 1e-12


def test_a_block_counts_by_what_was_answered_in_it() -> None:
    few = Block(-1, 1, 1)
    assert blocks.log_e_above([Block(30, 1000, 1000)] * 9, 0) - blocks.log_e_above(
        [Block(30, 1000, 1000)] * 9 + [few], 0
    ) == pytest.approx(0, abs=0.9)
    assert blocks.log_e_above([], 0) == 0
    assert blocks.log_e_above([Block(1e9, 10**9, 10**9)] * 10, 0) <= 10 * math.log(2) + 1e-9


def test_an_interval_has_the_harm_in_it_and_needs_blocks() -> None:
    alike = [Block(20, 1000, 1000), Block(24, 1000, 1000)]
    assert blocks.upper(alike * 2, 0.05) == 1
    assert blocks.fewest(math.log(20)) == 5
    high = blocks.upper(alike * 5, 0.05)
    assert 0.022 < high < 0.03
    assert blocks.upper([block.mirrored() for block in alike * 5], 0.05) < -0.014
    assert blocks.upper(alike * 30, 0.05) < high
    assert blocks.upper([], 0.05) == 1


@pytest.mark.parametrize("spread", [0.0, 0.002, 0.005, 0.01, 0.03])
def test_versions_that_are_no_worse_are_rarely_failed_however_much_days_differ(spread: float) -> None:
    rng = np.random.default_rng(2)
    failed = 0
    for _ in range(400):
        days = [
            Block(round(20_000 * x), 20_000, 20_000) for x in rng.normal(-0.0005, spread, 30) + rng.normal(0, 0.002, 30)
        ]
        failed += max(blocks.log_e_along([day.harm / day.size for day in days])) >= math.log(100)
    assert failed <= 10  # alpha is 1 in 100


def days(*harms: int, pairs: int = 20_000, differ: int = 1200) -> Pairs:
    """Pairs of some days: by how many the canary was wrong more often than stable."""
    each = [
        PairCounts(
            total=pairs, stable_only_wrong=(differ - harm) // 2, canary_only_wrong=(differ + harm) // 2, answered=pairs
        )
        for harm in harms
    ]
    sums = {name: sum(getattr(day, name) for day in each) for name in PairCounts.model_fields}
    return Pairs(**sums, blocks=tuple(each))


def said(pairs: Pairs, **labels: object) -> Judgement:
    policy = Judge.model_validate({**PAIRS, "labels": {"within": "1d", **labels}})
    return judge(policy, Evidence(pairs=pairs), elapsed_s=1, min_requests=0)


def test_a_bad_day_is_no_bad_version() -> None:
    one = days(400)  # 2 points worse on 20,000 pairs, which is sure beyond doubt of this day
    assert said(one, block="none").outcome is Outcome.FAILED
    assert said(one).outcome is Outcome.CONTINUE
    assert said(days(400, -380, 420, -440, 390, -400, 20, 410, 400)).outcome is Outcome.CONTINUE
    many = said(days(*[400, 380, 420, 390] * 3))
    assert many.outcome is Outcome.FAILED


def test_a_version_that_is_far_worse_does_not_have_the_days() -> None:
    assert said(days(1000)).outcome is Outcome.FAILED  # 5 points on one day, where a day may cost 3
    assert said(days(1000), block_margin_pct=8).outcome is Outcome.CONTINUE
    assert said(days(500)).outcome is Outcome.CONTINUE


def test_a_success_needs_days_too() -> None:
    four = said(days(0, 20, -20, 10))
    assert four.outcome is Outcome.CONTINUE
    assert "; 4 blocks of 24 h; at least 5 blocks of 24 h are needed" in four.reason
    assert said(days(0, 20, -20, 10), block="none").outcome is not Outcome.FAILED
    assert said(days(*[0, 20, -20, 10] * 2)).guards["labels"].refuted
    # Good on average, and now and then as bad as may be: not proven.
    assert not said(days(-500, 500, -500, 500, -500, 500, -400, 400)).guards["labels"].refuted


def test_errors_of_a_bad_day_are_no_bad_version_either() -> None:
    rule = {"margin": 0.5, "largest": 10.0, "within": "1d"}
    policy = Judge.model_validate({"failures": None, "slow": None, "loss": rule})

    def of(*means: float) -> Judgement:
        each = [LossSums(count=1000, total=1000 * m, squares=1000 * (1 + m * m), answered=1000) for m in means]
        sums = {name: sum(getattr(day, name) for day in each) for name in LossSums.model_fields}
        return judge(policy, Evidence(losses=Losses(**sums, blocks=tuple(each))), elapsed_s=1)

    assert of(0.8).outcome is Outcome.CONTINUE
    assert of(0.8, -0.8, 0.8, -0.8).outcome is Outcome.CONTINUE
    assert of(*[0.8] * 12).outcome is Outcome.FAILED
    assert of(4.0).outcome is Outcome.FAILED
    assert of(*[0.05, -0.05] * 4).guards["loss"].refuted
