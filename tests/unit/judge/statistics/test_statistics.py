from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.judge.statistics import means, normal, ownership, sample_ratio, shares
from operators.judge.statistics.numeric import e_value, first_above, log_mean
from operators.judge.statistics.ownership import Events

# Ownership: exact, by counting every path


def paths(weights: tuple[float, ...], chance: float | None = None) -> list[tuple[float, tuple[bool, ...]]]:
    """Every way in which bad events may fall to the arms, with its probability; chance: in place of the weights."""
    return [
        (math.prod((chance or w) if mine else 1 - (chance or w) for w, mine in zip(weights, path, strict=True)), path)
        for path in itertools.product([False, True], repeat=len(weights))
    ]


def counted(weights: tuple[float, ...], path: tuple[bool, ...]) -> list[Events]:
    return [
        Events(
            sum(m for w, m in zip(weights, path, strict=False) if w == weight),
            sum(not m for w, m in zip(weights, path, strict=False) if w == weight),
            weight,
        )
        for weight in sorted(set(weights))
    ]


@pytest.mark.parametrize("prior", [ownership.UNITS, ownership.PAIRS])
@pytest.mark.parametrize("weights", [(0.1,) * 8, (0.01, 0.01, 0.1, 0.1, 0.1, 0.5, 0.5, 0.9)])
def test_e_is_1_on_average_if_the_versions_are_the_same_whatever_the_weights(
    weights: tuple[float, ...], prior: ownership.Prior
) -> None:
    mean = sum(p * math.exp(ownership.log_e(counted(weights, path), prior=prior)) for p, path in paths(weights))
    assert mean == pytest.approx(1.0, abs=1e-9)
    better = sum(p * math.exp(ownership.log_e(counted(weights, path))) for p, path in paths(weights, 0.009))
    assert better < 1


def test_the_chance_to_ever_reach_a_threshold_is_below_its_inverse() -> None:
    weights = (0.05, 0.1, 0.1, 0.2, 0.2, 0.3, 0.5, 0.5, 0.5, 0.5)
    for threshold in (2, 5, 20):
        reached = sum(
            p
            for p, path in paths(weights)
            if any(ownership.log_e(counted(weights[:n], path[:n])) >= math.log(threshold) for n in range(1, 11))
        )
        assert 0 < reached <= 1 / threshold


def test_weights_that_follow_what_was_seen_cost_nothing() -> None:
    # The weight rises after an event of stable's and falls after one of the canary's: predictable, so still exact.
    def mean(depth: int, weight: float, events: list[Events]) -> float:
        if depth == 0:
            return math.exp(ownership.log_e(events))
        mine = mean(depth - 1, weight / 2, [*events, Events(1, 0, weight)])
        other = mean(depth - 1, min(0.9, weight * 1.5), [*events, Events(0, 1, weight)])
        return weight * mine + (1 - weight) * other

    assert mean(9, 0.2, []) == pytest.approx(1.0, abs=1e-9)


events = st.builds(Events, st.integers(0, 500), st.integers(0, 500), st.floats(0.001, 0.999))


@given(st.lists(events, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_only_sums_by_weight_matter(rows: list[Events], shuffler: random.Random) -> None:
    mixed = list(rows)
    shuffler.shuffle(mixed)
    once = ownership.log_e(rows)
    assert ownership.log_e(mixed) == pytest.approx(once, rel=1e-9, abs=1e-9)
    halves = [half for e in rows for half in (Events(e.canary, 0, e.weight), Events(0, e.stable, e.weight))]
    assert ownership.log_e(halves) == pytest.approx(once, rel=1e-9, abs=1e-9)


@given(events)
def test_an_event_of_the_canarys_speaks_against_it_and_one_of_stables_for_it(row: Events) -> None:
    assert ownership.log_e([row._replace(canary=row.canary + 1)]) > ownership.log_e([row])
    assert ownership.log_e([row._replace(stable=row.stable + 1)]) < ownership.log_e([row])


@given(st.lists(events, max_size=3))
def test_the_interval_of_the_lift_agrees_with_the_test(rows: list[Events]) -> None:
    low, high = ownership.lift_interval(rows, 0.05)
    assert 0 <= low <= high
    assert (low > 1) == (ownership.log_e(rows) > math.log(20)) or low == pytest.approx(1, rel=1e-4)


def test_large_counts_stay_finite() -> None:
    assert ownership.log_e([Events(10**9, 10**9, 0.5)]) < 0
    assert e_value(ownership.log_e([Events(10**9, 0, 0.01)])) > 1e290
    assert math.isfinite(e_value(ownership.log_e([Events(10**9, 0, 0.01)])))


def test_one_heavy_caller_breaks_counts_of_requests_and_not_those_of_units() -> None:
    """Sticky callers of which one in twenty always fails, and one of these sends most requests; the weight rises."""
    steps, threshold, alarms = (0.05, 0.25, 0.5), math.log(100), {"units": 0, "requests": 0}
    chance = random.Random(4)
    for _ in range(300):
        callers = [(chance.random(), 200 if n == 0 else 3) for n in range(20) if n == 0 or chance.random() < 0.05]
        units, requests, seen = [], [], set()
        for weight in steps:
            mine = [(n, bucket < weight, bad) for n, (bucket, bad) in enumerate(callers)]
            requests.append(Events(sum(b for _, m, b in mine if m), sum(b for _, m, b in mine if not m), weight))
            new = [(n, m) for n, m, _ in mine if n not in seen]
            seen |= {n for n, _ in new}
            units.append(Events(sum(m for _, m in new), sum(not m for _, m in new), weight))
            for name, rows in (("units", units), ("requests", requests)):
                alarms[name] += ownership.log_e(rows) >= threshold and len(rows) == len(steps)
    assert alarms["units"] <= 3  # alpha is 0.01
    assert alarms["requests"] > 60


# Shares


@pytest.mark.parametrize(
    ("stable", "harm", "weight"), [(0.1, 0.1, 0.3), (0.0, 0.2, 0.1), (0.4, -0.2, 0.5), (0.9, 0.1, 0.7)]
)
def test_e_against_harm_is_1_on_average_at_that_harm(stable: float, harm: float, weight: float) -> None:
    canary, n = stable + harm, 7
    chances = [weight * canary, (1 - weight) * stable]
    chances.append(1 - sum(chances))
    mean = sum(
        math.factorial(n)
        / math.prod(math.factorial(k) for k in counts)
        * math.prod(p**k for p, k in zip(chances, counts, strict=True))
        * math.exp(shares.log_e_below(shares.Harms(*counts, 1 / weight, 1 / (1 - weight)), harm))
        for counts in itertools.product(range(n + 1), repeat=3)
        if sum(counts) == n
    )
    assert mean == pytest.approx(1.0, abs=1e-9)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 3000), st.floats(0.01, 0.99))
def test_the_interval_of_the_harm_agrees_with_the_test_and_holds_the_estimate(
    a: int, b: int, n: int, weight: float
) -> None:
    harms = shares.Harms(a, b, n, 1 / weight, 1 / (1 - weight))
    low, high = shares.interval(harms, 0.05)
    assert -1 <= low <= min(1, max(-1, harms.mean)) <= high <= 1
    if high < 1:
        assert shares.log_e_below(harms, high) >= math.log(20)
        assert shares.log_e_below(harms, high - 1e-3) < math.log(20) + 1e-6 or high - 1e-3 < max(-1, harms.mean)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 500), st.floats(-0.9, 0.8), st.floats(0.01, 0.1))
def test_e_against_harm_rises_with_the_harm(a: int, b: int, n: int, delta: float, more: float) -> None:
    harms = shares.Harms(a, b, n, 10.0, 1 / 0.9)
    assert shares.log_e_below(harms, delta + more) >= shares.log_e_below(harms, delta) - 1e-9


def test_silence_proves_about_five_over_the_units() -> None:
    # At 95 % nothing can prove less than 3 / n; the mixture of bets and Ville's inequality cost the rest.
    for n in (200, 1000, 5000):
        high = shares.interval(shares.of_units(0, n, 0, 9 * n, 0.1), 0.05)[1]
        assert 3 / n < high < 4.5 / n


# Means


@given(st.floats(0.05, 0.95), st.floats(0.02, 0.98), st.integers(1, 7))
@settings(max_examples=40)
def test_e_of_means_is_at_most_1_on_average(weight: float, share: float, n: int) -> None:
    """Numbers that are 0 or 1 with the same chance in both arms: every way in which they may fall."""
    cells = [(weight * share, 1, 0, 0), (weight * (1 - share), 0, 1, 0), ((1 - weight) * share, 0, 0, 1)]
    mean = 0.0
    for counts in itertools.product(range(n + 1), repeat=3):
        rest = n - sum(counts)
        if rest < 0:
            continue
        ways = math.factorial(n) / math.prod(math.factorial(k) for k in (*counts, rest))
        p = (
            ways
            * math.prod(c[0] ** k for c, k in zip(cells, counts, strict=True))
            * ((1 - weight) * (1 - share)) ** rest
        )
        ones = {"canary": (counts[0], counts[0] + counts[1]), "stable": (counts[2], counts[2] + rest)}
        arms = {name: numbers(k, size) for name, (k, size) in ones.items()}
        mean += p * math.exp(means.log_e_above(means.weighted([means.Split(**arms, weight=weight)]), 0.0))
    assert mean <= 1 + 1e-9


def numbers(ones: int, size: int) -> means.Numbers:
    share = ones / size if size else 0.0
    return means.Numbers(size, share, size * share * (1 - share))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(-0.9, 0.9))
def test_e_from_moments_is_below_the_capital_of_the_bets(values: list[float], bound: float) -> None:
    sums = means.Sums(len(values), math.fsum(values), math.fsum(x * x for x in values), -1.0, 1.0)
    room = max(bound, 0) + 1
    capital = log_mean((1.0, sum(math.log1p(bet * (x - bound) / room) for x in values)) for bet, _ in means._BETS)
    assert means.log_e_above([[sums]], bound) <= capital + 1e-9


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=200))
def test_the_interval_of_a_mean_holds_it(values: list[float]) -> None:
    sums = means.Sums(len(values), math.fsum(values), math.fsum(x * x for x in values), -1.0, 1.0)
    low, high = means.interval([[sums]], 0.05)
    assert -1 <= low <= math.fsum(values) / len(values) + 1e-6
    assert high >= math.fsum(values) / len(values) - 1e-6


def test_the_interval_of_a_mean_narrows_as_the_root_of_the_numbers() -> None:
    chance = random.Random(2)
    widths = []
    for n in (1000, 16000):
        values = [chance.uniform(-0.2, 0.3) for _ in range(n)]
        sums = means.Sums(n, math.fsum(values), math.fsum(x * x for x in values), -1.0, 1.0)
        low, high = means.interval([[sums]], 0.05)
        assert low < 0.05 < high
        widths.append(high - low)
    assert 3 < widths[0] / widths[1] < 5


# Normal


def test_the_half_normal_mixture_is_the_integral_that_it_stands_for() -> None:
    differences = [normal.Difference(0.3, 50.0), normal.Difference(0.1, 20.0)]
    bound, scale, steps = 0.05, 0.2, 4000
    score = sum((d.mean - bound) * d.information for d in differences)
    width = 8 * scale / steps
    total = sum(
        width * 2 * math.exp(-theta * theta / (2 * scale * scale)) / (scale * math.sqrt(2 * math.pi))
        * math.exp(theta * score - theta * theta * 70 / 2)
        for theta in (width * (k + 0.5) for k in range(steps))
    )  # fmt: skip
    assert normal.log_e_above(differences, bound, scale) == pytest.approx(math.log(total), rel=1e-5)


def test_the_half_normal_mixture_is_smooth_far_below() -> None:
    for z in (-7.9999, -8.0001, -20.0, -30.0):
        assert normal._log_half_normal(z) == pytest.approx(0.5 * math.log(2 / math.pi) - math.log(-z), abs=0.02)


@given(st.floats(-5, 5), st.floats(0.1, 1e6), st.floats(0.01, 10))
def test_the_interval_of_a_difference_agrees_with_the_test(mean: float, information: float, scale: float) -> None:
    differences = [normal.Difference(mean, information)]
    low, high = normal.interval(differences, 0.05, scale)
    assert low <= mean <= high
    assert normal.log_e_above(differences, low, scale) == pytest.approx(math.log(20), abs=0.01)
    assert high - mean == pytest.approx(mean - low, rel=1e-3, abs=1e-6)


# Sample ratio


@pytest.mark.parametrize("weight", [0.01, 0.3, 0.9])
def test_e_of_the_split_is_1_on_average(weight: float) -> None:
    n = 40
    mean = sum(
        math.comb(n, k) * weight**k * (1 - weight) ** (n - k) * math.exp(sample_ratio.log_e(k, n - k, weight))
        for k in range(n + 1)
    )
    assert mean == pytest.approx(1.0, abs=1e-6)


def test_a_split_that_is_off_is_found() -> None:
    assert sample_ratio.log_e(10_000, 90_000, 0.1) < 0
    assert sample_ratio.log_e(0, 150, 0.1) > math.log(1000)
    assert sample_ratio.log_e(11_000, 89_000, 0.1) > math.log(1000)
    assert sample_ratio.log_e(5_150_000, 4_850_000, 0.5) > math.log(1000)


# Numeric


def test_log_mean_survives_large_and_small() -> None:
    assert log_mean([(1.0, 1e4), (1.0, -1e4)]) == pytest.approx(1e4 - math.log(2))
    assert log_mean([(2.0, -math.inf), (2.0, -math.inf)]) == -math.inf


@given(st.floats(-5, 5), st.floats(0.01, 50))
def test_first_above_finds_the_crossing_from_above(root: float, steepness: float) -> None:
    found = first_above(lambda x: steepness * (x - root + (x - root) ** 3), 0.0, -10, 10)
    assert root - 1e-5 <= found <= root + 1e-4
    assert first_above(lambda x: x, 100, 0, 10) == 10
    assert first_above(lambda x: x, -1, 0, 10) == 0
