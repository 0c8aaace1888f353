from __future__ import annotations

from functools import cache
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from operators.core.spec_judge import Slow
from operators.core.spec_release import Release
from operators.judge.evidence import Arm, Evidence, Pairs, Period
from operators.judge.phases import Phase, alpha_share, phases_of, policies
from operators.judge.policy import judge
from operators.judge.statistics.ownership import Events
from operators.planning.plan import Plan, plan
from operators.planning.plan.advice import shortcomings
from operators.planning.plan.expected import Part, expect
from operators.planning.plan.forecast import Outlook
from operators.planning.plan.poisson import at_most, quantile
from operators.planning.plan.power import Prober, smallest
from operators.planning.plan.search import duration, first_good, least_good, rounded_up
from operators.planning.plan.text import rendered
from operators.planning.plan.time_to_pass import PassingChance
from operators.planning.plan.types import Remedy
from operators.planning.simulation.label_arrivals import Labelling
from operators.planning.simulation.traffic_model import TrafficModel


def release(**changes: object) -> Release:
    spec: dict[str, object] = {
        "steps": [{"weight_pct": 5, "bake": "10s"}, {"weight_pct": 50, "bake": "10s"}],
        "judge": {
            "alpha": 0.01,
            "confidence": 0.95,
            "min_requests": 10,
            "max_wait": "5m",
            "failures": {"margin_pct": 2},
            "slow": None,
        },
    }
    return Release.model_validate({**spec, **changes})


ONE = release()
BUSY = TrafficModel(rate_per_s=40)
QUIET = TrafficModel(rate_per_s=4)


@cache
def planned(load: TrafficModel) -> Plan:
    return plan("m", ONE, load)


@pytest.mark.parametrize(
    ("count", "mean", "of"), [(0, 2.5, 1e9), (3, 2.5, 1e9), (190, 180, 1e9), (900, 1000, 1e9), (20100, 20000, 1e9)]
)
def test_chances_of_counts_are_those_of_poisson(count: int, mean: float, of: float) -> None:
    assert at_most(count, mean, of) == pytest.approx(stats.poisson.cdf(count, mean), abs=2e-4)
    assert quantile(mean, 0.8) == pytest.approx(stats.poisson.ppf(0.8, mean), abs=1 if mean > 200 else 0)


def test_where_most_units_are_bad_their_number_is_binomial_and_never_more_than_all() -> None:
    assert at_most(55, 60, 100) == pytest.approx(stats.binom.cdf(55, 100, 0.6), abs=0.01)
    assert at_most(100, 99.9, 100) == 1
    assert at_most(99, 100, 100) == 0


@given(
    stable=st.integers(0, 40),
    canary=st.integers(0, 40),
    earlier=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    units=st.integers(40, 4000),
    guard=st.sampled_from(["failures", "slow"]),
)
def test_the_answers_are_those_that_the_judge_would_give(
    stable: int, canary: int, earlier: tuple[int, int], units: int, guard: str
) -> None:
    policy = ONE.judge.model_copy(update={"slow": Slow(margin_pct=5), "alpha": 0.03})
    first, last = phases_of(ONE)
    kind = "failed" if guard == "failures" else "slow"

    def period(phase: Phase, bad: tuple[int, int]) -> Period:
        arms = {
            name: Arm.model_validate({"requests": units, kind: k})
            for name, k in zip(("canary", "stable"), bad, strict=True)
        }
        return Period(weight=phase.weight, **arms)

    evidence = Evidence(periods=(period(first, earlier), period(last, (canary, stable))))
    said = judge(policy, evidence, elapsed_s=1, harm_weight=last.harm_weight).guards[guard]
    prober = Prober(policy, BUSY, guard)
    events = [Events(*earlier, first.weight), Events(canary, stable, last.weight)]
    assert prober.fails(events) == (said.e >= said.threshold)
    assert said.interval is not None
    if said.interval[1] != pytest.approx(said.margin, rel=1e-4):
        assert prober.clears(Part(last, 300), (units, units), (canary, stable)) == said.refuted


def test_without_a_failure_the_margin_is_refuted_by_about_as_many_units_as_the_rule_says() -> None:
    # P(no failure of n units | rate = margin) = (1 - margin)^n: log(1 / (1 - confidence)) / margin units. An answer that holds at
    # all times together, whatever the rate is, costs up to twice as many.
    load = TrafficModel(rate_per_s=10, error_rate=0)
    step = phases_of(release())[1]
    prober = Prober(ONE.judge, load, "failures")
    lasts_s = smallest(lambda s: prober.refuted_usually(Part(step, s)), 1, 3600)
    assert lasts_s is not None
    units = load.seen(step.canary_share, lasts_s)
    assert 1 <= units / (log(1 / 0.05) / 0.02) <= 2


def test_the_margin_of_a_step_is_the_one_that_the_judge_takes() -> None:
    first, last = planned(BUSY).phases
    assert first.guards["failures"].margin_pct == pytest.approx(2 / 0.5)  # half of the callers come next
    assert last.guards["failures"].margin_pct == pytest.approx(2)


def test_a_version_that_fails_everything_is_found_within_a_few_units() -> None:
    first, last = planned(BUSY).phases
    assert first.dead_found_units is not None
    assert first.dead_found_units <= 5
    assert last.dead_found_s is not None
    assert last.dead_found_s < 2


def test_times_add_up_and_exposure_is_the_traffic_of_that_time() -> None:
    made = planned(BUSY)
    times = [phase.expected_s for phase in made.phases]
    assert made.promoted_s == pytest.approx(sum(t for t in times if t is not None))
    assert made.exposed_units == pytest.approx(sum(40 * p.weight_pct / 100 * (p.expected_s or 0) for p in made.phases))
    assert not made.problems
    assert not made.remedies


def test_a_caller_who_meets_it_in_two_steps_is_counted_once() -> None:
    few = plan("m", ONE, TrafficModel(rate_per_s=40, units=3000, skew=0.0))
    one, two = few.phases
    assert one.exposed_units > 0.05 * few.exposed_units
    assert two.exposed_units < few.exposed_units < 0.99 * (one.exposed_units + two.exposed_units)


def test_the_chance_of_having_passed_is_more_than_that_of_passing_at_one_moment() -> None:
    few = TrafficModel(rate_per_s=4, error_rate=0.02)
    prober = Prober(ONE.judge, few, "failures")
    step, rng = phases_of(ONE)[1], np.random.default_rng(1)
    times_s = [100.0, 120.0, 140.0, 160.0, 180.0]
    passing = PassingChance(prober)
    chances = [passing.by(Part(step, at_s)) for at_s in times_s]
    assert chances == sorted(chances)
    assert chances[-1] > prober.refuted(Part(step, times_s[-1])) + 0.02
    passed = 0
    for _ in range(400):
        bad = [0, 0]
        for before_s, at_s in zip([0.0, *times_s], times_s, strict=False):
            bad = [number + rng.poisson(2 * 0.02 * (at_s - before_s)) for number in bad]
            if prober.clears(Part(step, at_s), (2 * at_s, 2 * at_s), (bad[0], bad[1])):
                passed += 1
                break
    assert chances[-1] == pytest.approx(passed / 400, abs=0.06)


def test_more_evidence_from_the_phases_before_finds_smaller_regressions() -> None:
    guard = planned(BUSY).phases[1].guards["failures"]
    assert guard.detects_pct is not None
    assert guard.detects_with_earlier_pct is not None
    assert guard.detects_with_earlier_pct <= guard.detects_pct < 2


def test_a_plan_that_cannot_see_its_margin_is_refused_and_says_what_would_do() -> None:
    made = planned(QUIET)
    assert {problem.phase for problem in made.problems} == {"5 %", "50 %"}
    for problem in made.problems:
        assert "failures" in problem.text
        keys = {key for remedy in problem.remedies for key in remedy.changes}
        assert keys == {"judge.max_wait", "judge.failures.margin_pct"}


def changed(one: Release, remedy: Remedy) -> Release:
    """Write a remedy into a spec, as a person would."""
    spec = one.model_dump(mode="json", by_alias=True)
    for path, value in remedy.changes.items():
        *parents, key = path.split(".")
        node = spec
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[key] = value if key == "max_wait" else float(value)
    return Release.model_validate(spec)


def test_each_change_that_is_said_to_mend_the_plan_does() -> None:
    made = planned(QUIET)
    assert len(made.remedies) == 2
    for remedy in made.remedies:
        assert not plan("m", changed(ONE, remedy), QUIET).problems, remedy


def test_each_change_that_is_said_to_mend_a_phase_does_and_little_less_would_not() -> None:
    last = planned(QUIET).problems[1]
    for remedy in last.remedies:
        assert not list(shortcomings(Outlook(changed(ONE, remedy), QUIET), 1)), remedy
    waits = [remedy.changes["judge.max_wait"] for remedy in last.remedies if "judge.max_wait" in remedy.changes]
    assert waits == ["10m"]
    assert list(shortcomings(Outlook(changed(ONE, Remedy(changes={"judge.max_wait": "7m"})), QUIET), 1))


def test_too_few_requests_for_the_least_evidence_is_refused() -> None:
    judge = {**ONE.judge.model_dump(mode="json", by_alias=True), "min_requests": 5000}
    first = plan("m", release(judge=judge), BUSY).problems[0]
    assert first.text.startswith("the smaller arm gets about 600 units in 5m, but min_requests is 5,000")
    assert [remedy.changes.keys() for remedy in first.remedies] == [{"judge.max_wait"}]


def test_guards_whose_evidence_does_not_depend_on_the_load_are_named() -> None:
    judge = {**ONE.judge.model_dump(mode="json", by_alias=True), "prediction": {"margin": 1}}
    assert plan("m", release(judge=judge), BUSY).unplanned.keys() == {"prediction"}


def test_a_small_regression_that_was_asked_about_refuses_the_plan() -> None:
    one = release(steps=[{"weight_pct": 50, "bake": "10s"}])
    assert not plan("m", one, BUSY, effect=0.02).problems
    made = plan("m", one, BUSY, effect=0.001)
    assert made.effect is not None
    assert [found.phase for found in made.effect.phases] == ["50 %"]
    assert "0.1 percentage points more" in made.problems[0].text
    assert made.remedies


def test_shadow_exposes_nobody_and_the_watch_refuses_nothing() -> None:
    whole = release(shadow={"sample_pct": 20, "bake": "30s"}, watch="1m", keep_warm="1h", holdout_pct=10)
    made = plan("m", whole, BUSY)
    shadow, *_, watch = made.phases
    assert (shadow.kind, shadow.exposed_units, shadow.harmed_requests) == ("shadow", 0, 0)
    assert (watch.kind, watch.expected_s, watch.weight_pct) == ("watch", 60, 99)
    assert "watch" not in [problem.phase for problem in made.problems]
    first, step = phases_of(whole)[:2]
    assert first.weight == pytest.approx(0.2 / 1.2)
    assert step.weight == pytest.approx(0.05 / 0.9)  # held-out units are compared with nobody


def test_a_few_heavy_callers_are_worth_less_than_as_many_requests_of_many() -> None:
    few = TrafficModel(rate_per_s=40, units=500, skew=1.2)
    step = phases_of(ONE)[1]
    assert few.seen(0.5, 300) < 250
    assert BUSY.seen(0.5, 300) == 6000
    detects = [Prober(ONE.judge, load, "failures").detectable(Part(step, 300), ()) for load in (few, BUSY)]
    assert detects[0] is not None
    assert detects[1] is not None
    assert detects[0] > detects[1]


def test_a_unit_that_was_bad_before_is_not_counted_as_a_first_again() -> None:
    few = TrafficModel(rate_per_s=40, units=500, error_rate=0.02)
    one, two = phases_of(ONE)
    counts = expect(few, "failures", [Part(one, 100)], Part(two, 100), 0.0)
    assert counts.stable_first < counts.stable_bad
    assert counts.canary_first < counts.canary_bad
    # The bucket decides who moves, so both arms have had the same past if the versions are equally good.
    assert counts.canary_first / counts.canary == pytest.approx(counts.stable_first / counts.stable)


@settings(max_examples=25)
@given(
    rate=st.floats(1, 200),
    factor=st.floats(1.5, 10),
    error_rate=st.sampled_from([0.0, 0.002, 0.02]),
    units=st.sampled_from([None, 3000]),
)
def test_more_traffic_never_makes_a_plan_worse(
    rate: float, factor: float, error_rate: float, units: int | None
) -> None:
    less = Outlook(ONE, TrafficModel(rate_per_s=rate, error_rate=error_rate, units=units))
    more_units = None if units is None else int(units * factor)
    more = Outlook(ONE, TrafficModel(rate_per_s=rate * factor, error_rate=error_rate, units=more_units))
    for index in range(2):
        slow_s, fast_s = less.times_s(index)[0], more.times_s(index)[0]
        assert slow_s is None or (fast_s is not None and fast_s <= 1.02 * slow_s)
        part = Part(less.phases[index], 300)
        few, many = less.probers["failures"], more.probers["failures"]
        assert few.refuted(part) <= many.refuted(part) + 0.02
        assert few.power(part, (), 0.03) <= many.power(part, (), 0.03) + 0.02


def test_searches_give_the_first_value_that_will_do() -> None:
    assert least_good(lambda x: x >= 7, 1, 100) == pytest.approx(7, rel=0.05)
    assert least_good(lambda x: x >= 101, 1, 100) is None
    assert first_good(lambda x: x >= 3, [1, 2, 3, 4]) == 3
    assert first_good(lambda x: x >= 9, [1, 2, 3, 4]) is None
    assert (rounded_up(7.21, 2, 100), rounded_up(0.0312, 2, 1), rounded_up(98.7, 1, 99)) == (7.3, 0.032, 99)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "250ms"), (45, "45s"), (300, "5m"), (90, "1.5m"), (5400, "1.5h"), (86400, "1d")]
)
def test_durations_are_written_as_the_spec_reads_them(seconds: float, text: str) -> None:
    from operators.core.durations import parse_duration_s

    assert duration(seconds) == text
    assert parse_duration_s(text) == seconds


def labelled(*, block: str = "none", **shadow: object) -> Release:
    judge = {
        **ONE.judge.model_dump(mode="json", by_alias=True),
        "labels": {"margin_pct": 2, "min_pairs": 50, "within": "1d", "block": block},
    }
    return release(judge=judge, shadow={"sample_pct": 50, "bake": "30s", **shadow}, watch="1h", keep_warm="1h")


def test_labelled_pairs_are_few_and_the_time_until_they_come_is_known() -> None:
    whole = labelled(await_labels=True)
    shadow, watch = plan("m", whole, BUSY, labelling=Labelling(share=0.5, delay_s=100, disagree=0.06)).labels
    assert (shadow.phase, watch.phase) == ("shadow", "watch")
    assert (shadow.margin_pct, watch.margin_pct) == (pytest.approx(2), pytest.approx(2))
    assert shadow.proven_s == pytest.approx(100 + shadow.prove_pairs / (40 * 0.5 * 0.5))
    assert watch.proven_s is None  # nothing is copied any more


def test_the_pairs_that_are_planned_find_a_worse_version() -> None:
    made = plan("m", labelled(await_labels=True), BUSY, labelling=Labelling(disagree=0.06)).labels[1]
    rng = np.random.default_rng(1)
    (policy,) = policies(labelled().judge, late=True, alpha_share=alpha_share(labelled()))
    found = proven = 0
    for _ in range(200):
        worse, better = rng.poisson(made.find_pairs * 0.05), rng.poisson(made.find_pairs * 0.03)
        pairs = Pairs(total=made.find_pairs, canary_only_wrong=worse, stable_only_wrong=better)
        said = judge(policy, Evidence(pairs=pairs), elapsed_s=1).guards["labels"]
        found += said.e >= said.threshold
        worse, better = rng.poisson(made.prove_pairs * 0.03, size=2)
        pairs = Pairs(total=made.prove_pairs, canary_only_wrong=worse, stable_only_wrong=better)
        proven += judge(policy, Evidence(pairs=pairs), elapsed_s=1).guards["labels"].refuted
    assert 0.7 <= found / 200 <= 0.9
    assert 0.7 <= proven / 200 <= 0.9


def test_labels_that_come_too_late_or_that_nobody_waits_for_are_refused() -> None:
    late = plan("m", labelled(await_labels=True), BUSY, labelling=Labelling(share=0.5, delay_s=3600))
    assert "pairs are needed, which takes" in late.problems[0].text
    assert late.problems[0].remedies[0].changes == {"judge.max_wait": "68m"}
    blocks = plan("m", labelled(block="1d", await_labels=True), BUSY, labelling=Labelling(share=0.5, delay_s=100))
    made = blocks.labels[0]
    assert 5 <= made.prove_blocks <= 8 <= made.find_blocks <= 14
    assert made.found_s == 100 + made.find_blocks * 86400
    assert f"in {made.find_blocks} blocks of 1d are needed" in blocks.problems[0].text
    assert f"in {made.find_blocks} blocks of 1d fail a version" in rendered(blocks, width=100)
    short = plan("m", labelled(block="1d"), BUSY)
    assert (
        f"{made.find_blocks} blocks of 1d are needed, but the shadow copies requests for 30s only"
        in short.problems[0].text
    )
    assert short.problems[0].remedies[1].changes == {"judge.labels.block": "none"}
    assert not plan("m", labelled(block="none"), BUSY).problems
    assert (
        plan("m", labelled(block="1d"), TrafficModel(rate_per_s=0.01), labelling=Labelling()).labels[0].find_blocks > 14
    )
    nobody = plan("m", labelled().model_copy(update={"watch_s": None}), BUSY)
    assert "no phase waits for them" in nobody.problems[0].text
