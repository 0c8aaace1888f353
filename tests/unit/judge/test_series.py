from __future__ import annotations

import math
import random

import pytest

from operators.core.spec_judge import Series
from operators.judge import series
from operators.judge.evidence import GuardResult, Point
from operators.judge.wording import Rules

N = 240


def made(seed: int = 1, *, level: float = 1.0, noise: float = 1.0, unit: float = 1.0, n: int = N) -> list[Point]:
    """A series with a daily swing and 5 % noise in either arm; the canary's level and noise are multiples of stable's."""
    chance = random.Random(seed)
    points = []
    for t in range(n):
        base = 100 + 20 * math.sin(t / 40)
        stable, canary = base + chance.gauss(0, 5), level * base + noise * chance.gauss(0, 5)
        points.append(Point(t=float(t), stable=unit * stable, canary=unit * canary))
    return points


def read(points: list[Point], *, weight: float = 0.5, **rule: object) -> GuardResult:
    guard = Series.model_validate({"query": "up", **rule})
    return series.report(guard, points, Rules(200, 0.05, 1.0), weight=weight).result


def failed(points: list[Point], **more: object) -> int | None:
    """Return after how many points the guard fails the release."""
    return next((n for n in range(2, len(points) + 1) if read(points[:n], **more).e >= 200), None)  # type: ignore[arg-type]


def test_identical_series_never_fail_and_keep_the_margin() -> None:
    for seed in range(40):
        assert failed(made(seed, n=60)) is None
    assert read(made()).refuted


def test_a_level_over_the_margin_fails_and_one_inside_does_not() -> None:
    at = failed(made(level=1.3))
    assert at is not None
    assert at <= 20
    assert failed(made(level=0.7)) is None
    assert failed(made(level=1.05)) is None
    assert failed(made(level=0.7), better="higher") is not None
    assert failed(made(level=1.3), better="higher") is None
    for level in (0.7, 1.3):
        assert failed(made(level=level), better="equal") is not None
        assert not read(made(level=level), better="equal").refuted


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_does_not_matter(unit: float) -> None:
    for level in (1.0, 1.2):
        one, two = read(made(level=level)), read(made(level=level, unit=unit))
        assert one.e == two.e
        assert one.interval == pytest.approx(two.interval)


def test_a_spike_at_the_start_does_not_matter() -> None:
    points = made()
    for arm in ("stable", "canary"):
        spiked = [p.model_copy(update={arm: 1e6}) if p.t in (0, 1, 7) else p for p in points]
        assert read(spiked).refuted
        assert read(spiked).e < 5
        worse = [p.model_copy(update={arm: 1e6}) if p.t in (0, 1, 7) else p for p in made(level=1.3)]
        assert failed(worse) is not None


def test_more_noise_with_the_same_median_fails_where_mann_whitney_sees_nothing() -> None:
    from scipy.stats import mannwhitneyu

    points = made(noise=3.0)
    assert failed(points) is not None
    assert mannwhitneyu([p.canary for p in points], [p.stable for p in points]).pvalue > 0.2


def test_noise_of_fewer_requests_is_not_the_canarys_fault() -> None:
    for seed in range(20):
        assert failed(made(seed, noise=3.0, n=80), weight=0.1) is None  # 9 times fewer requests: 3 times the noise
    assert failed(made(noise=12.0), weight=0.1) is not None


def test_what_both_arms_go_through_cancels() -> None:
    chance = random.Random(3)
    steps = [chance.choice([1.0, 3.0, 10.0]) for _ in range(N // 20)]
    points = [
        p.model_copy(update={"stable": p.stable * steps[i // 20], "canary": p.canary * steps[i // 20]})
        for i, p in enumerate(made())
        if p.stable is not None and p.canary is not None
    ]
    assert failed(points) is None


def test_a_series_of_zeros_is_good_and_one_that_leaves_zero_is_bad() -> None:
    zeros = [Point(t=float(t), stable=0.0, canary=0.0) for t in range(60)]
    assert read(zeros).refuted
    assert failed([p.model_copy(update={"canary": 1.0}) for p in zeros]) is not None
    assert read(zeros).model_dump_json() == read(zeros).model_dump_json()


def test_gaps_are_left_out_and_a_stale_end_is_missing() -> None:
    points = made()
    gaps = [p.model_copy(update={"canary": None}) if int(p.t) % 3 == 0 and p.t < N - 1 else p for p in points]
    assert read(gaps).refuted
    assert not read(gaps).missing
    assert "lacks a value" in read([*points, Point(t=1e9, stable=None, canary=1.0)]).missing
    assert "no points" in read([]).missing
    assert "do not yet prove" in read(points[:3]).missing
    assert read(points[:3]).interval is None


def test_the_interval_is_of_the_median_and_holds_it() -> None:
    low, high = read(made(level=1.2)).interval or (0.0, 0.0)
    assert 0.15 < low < high < 0.25  # stable's median until then moves with the swing
