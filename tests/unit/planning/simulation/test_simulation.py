from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from operators.core.errors import ConfigurationError
from operators.core.spec_judge import Failures, Judge, Slow
from operators.core.spec_release import Release
from operators.judge.evidence import Arm, Evidence, Period
from operators.judge.phases import Phase, phases_of
from operators.judge.policy import judge
from operators.planning.plan import plan
from operators.planning.plan.forecast import Outlook
from operators.planning.simulation.feeds import (
    CANARY_BAD,
    CANARY_REQUESTS,
    CANARY_UNITS,
    COLUMNS,
    CountFeed,
    Pattern,
    Weather,
)
from operators.planning.simulation.label_arrivals import LabelFeed, Labelling
from operators.planning.simulation.phase_judge import GO_ON, Clock, PhaseJudge, SimulatedLook, Verdict
from operators.planning.simulation.recorded_traffic import load_like, read_recording
from operators.planning.simulation.report import share_of, summarise
from operators.planning.simulation.requests import zipf_feed
from operators.planning.simulation.runner import Batch, Setting, simulate
from operators.planning.simulation.scenarios import DEFAULT_SCENARIOS, Scenario, scenario, slow_share
from operators.planning.simulation.traffic_model import TrafficModel


def release(**changes: object) -> Release:
    spec: dict[str, object] = {
        "steps": [{"weight_pct": 10, "bake": "20s"}, {"weight_pct": 50, "bake": "20s"}],
        "judge": {
            "alpha": 0.05,
            "confidence": 0.9,
            "min_requests": 30,
            "max_wait": "4m",
            "failures": {"margin_pct": 3},
        },
    }
    return Release.model_validate({**spec, **changes})


LOAD = TrafficModel(rate_per_s=40, error_rate=0.01, slow_rate=0.01)
STICKY = TrafficModel(rate_per_s=40, error_rate=0.01, slow_rate=0.01, units=800, skew=1.2)
SETTING = Setting(release(), LOAD)


def run(setting: Setting, text: str, releases: int, seed: int = 1, jobs: int = 1) -> Batch:
    return simulate(setting, scenario(text), releases=releases, seed=seed, jobs=jobs)


def each_look(judge: PhaseJudge, looks: Sequence[SimulatedLook]) -> tuple[int, Verdict]:
    """Ask the judge at each look, in place of `first_verdict`."""
    for index, look in enumerate(looks):
        judge.clock.looks += 1
        verdict = judge.verdict(look)
        if verdict is not GO_ON:
            return index, verdict
    return len(looks) - 1, GO_ON


def both_ways(setting: Setting, text: str, releases: int) -> tuple[Batch, Batch]:
    quick = run(setting, text, releases)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("operators.planning.simulation.engine.first_verdict", each_look)
        return quick, run(setting, text, releases)


@pytest.mark.parametrize("text", DEFAULT_SCENARIOS)
@pytest.mark.parametrize("load", [LOAD, STICKY])
def test_asking_only_where_it_matters_gives_what_asking_at_each_look_gives(text: str, load: TrafficModel) -> None:
    setting = Setting(release(watch="20s", keep_warm="1h"), load)
    quick, thorough = both_ways(setting, text, 2)
    assert quick.runs == thorough.runs
    assert quick.clock.looks == thorough.clock.looks


@pytest.mark.parametrize("text", ["identical", "labels=6", "labels=40"])
@pytest.mark.parametrize("block", ["15s", "none"])
def test_it_does_so_with_labels_too(text: str, block: str) -> None:
    judge = release().judge.model_dump(mode="json", by_alias=True)
    labels = {"margin_pct": 6, "within": "1h", "block": block}
    for awaits in (True, False):
        held = release(
            judge={**judge, "labels": labels}, shadow={"sample_pct": 100, "bake": "60s", "await_labels": awaits}
        )
        setting = Setting(held, LOAD, labelling=Labelling(share=0.5, delay_s=30))
        quick, thorough = both_ways(setting, text, 3)
        assert quick.runs == thorough.runs
        assert quick.clock.looks == thorough.clock.looks


def test_labels_of_the_shadow_that_come_during_a_step_end_it() -> None:
    judge = release().judge.model_dump(mode="json", by_alias=True)
    labels = {"margin_pct": 3, "within": "1h"}
    held = release(judge={**judge, "labels": labels}, shadow={"sample_pct": 100, "bake": "20s"})
    seeing = Setting(held, LOAD, labelling=Labelling(share=0.5, delay_s=30))
    found = summarise(run(seeing, "labels=40", 20), LOAD)
    assert found.rolled_back.share == 1
    assert set(found.ends) == {"rolled back at 10 % by labels"}


def test_the_same_seed_gives_the_same_releases_whatever_the_number_of_processes() -> None:
    one, two, other = run(SETTING, "crash", 100), run(SETTING, "crash", 100, jobs=2), run(SETTING, "crash", 100, seed=2)
    assert one.runs == two.runs
    assert one.runs != other.runs


@pytest.mark.parametrize(
    ("setting", "text", "promoted"),
    [
        (SETTING, "identical", 0.9),
        (SETTING, "outages=20", 0.8),
        (replace(SETTING, pattern=Pattern(burst=4.0, daily=0.9)), "outages=20", 0.6),
        (Setting(release(), STICKY), "identical", 0.0),  # 800 callers are too few to prove anything; a plan says so
    ],
)
def test_a_version_like_stable_is_rolled_back_no_more_often_than_alpha(
    setting: Setting, text: str, promoted: float
) -> None:
    found = summarise(run(setting, text, 40), LOAD)
    assert found.false_alarms is not None
    assert found.false_alarms.low <= 0.05
    assert found.promoted.share >= promoted


def test_a_heavy_caller_would_be_blamed_on_the_version_if_each_of_its_failures_counted() -> None:
    # The reference of the test above: 20 callers by Zipf's law, 5 % of their requests fail, and each failure counts. When chance
    # puts a heavy caller on the canary, its failures look like the canary's.
    policy, blamed, fails = release().judge, 0, np.arange(1, 21) ** -1.2
    fails = np.round(100 * fails / fails.sum()).astype(int)
    for number in range(200):
        on_canary = np.random.default_rng(number).random(20) < 0.1
        canary, stable = int(fails[on_canary].sum()), int(fails[~on_canary].sum())
        arms = {"stable": Arm(requests=1800, failed=stable), "canary": Arm(requests=200, failed=canary)}
        said = judge(policy, Evidence(periods=(Period(weight=0.1, **arms),)), elapsed_s=1)
        blamed += said.guards["failures"].e >= said.guards["failures"].threshold
    assert share_of(blamed, 200).low > 0.05


def test_a_dead_version_is_found_within_the_planned_time() -> None:
    planned = plan("m", release(), LOAD).phases[0]
    found = summarise(run(SETTING, "crash", 60), LOAD)
    assert found.rolled_back.share == 1
    assert found.found_s is not None
    assert found.found_units is not None
    assert planned.dead_found_s is not None
    assert found.found_s.median <= planned.dead_found_s + 1  # it is looked at once a second
    assert found.found_units.median <= (planned.dead_found_units or 0) + 4  # what comes in that second
    assert found.harmed_requests <= 2 * found.found_units.mean


def test_a_plan_and_a_simulation_say_the_same() -> None:
    one = release(steps=[{"weight_pct": 50, "bake": "20s"}])
    planned = plan("m", one, LOAD).phases[0]
    good = summarise(run(Setting(one, LOAD), "identical", 60), LOAD)
    assert good.promoted_after_s is not None
    assert good.promoted_after_s.mean == pytest.approx(planned.expected_s, rel=0.3)
    detects_pct = planned.guards["failures"].detects_pct
    assert detects_pct is not None
    # With next to no margin nothing is promoted, so all of max_wait is used.
    strict = one.judge.model_copy(update={"failures": Failures(margin_pct=0.01)})
    setting = Setting(one.model_copy(update={"judge": strict}), LOAD)
    bad = summarise(run(setting, f"fails={detects_pct / 0.99:.4f}", 60), LOAD)
    assert bad.rolled_back.high >= 0.8
    assert bad.rolled_back.low <= 0.92  # it is about the smallest


def test_shadow_steps_and_watch_have_their_own_evidence_and_part_of_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, float]] = []

    class Noted(PhaseJudge):
        def __init__(self, policy: Judge, phase: Phase, earlier: tuple[Period, ...], clock: Clock) -> None:
            super().__init__(policy, phase, earlier, clock)
            threshold = self.ask(SimulatedLook([0] * COLUMNS, 1.0)).guards["failures"].threshold
            asked.append((phase.name, len(earlier), threshold))

    monkeypatch.setattr("operators.planning.simulation.engine.PhaseJudge", Noted)
    whole = release(shadow={"sample_pct": 50, "bake": "20s"}, watch="20s", keep_warm="1h")
    assert run(Setting(whole, LOAD), "identical", 1).runs[0].end == "promoted"
    threshold = 3 * 2 / 0.05  # three phases of two guards
    earlier = [("shadow", 0), ("10 %", 0), ("50 %", 1), ("watch", 0)]
    assert asked == [(name, count, pytest.approx(threshold)) for name, count in earlier]
    outlook = Outlook(whole, LOAD)
    assert outlook.probers["failures"].threshold == pytest.approx(threshold)
    assert [len(outlook.before(index)) for index in range(4)] == [count for _, count in earlier]


def test_what_only_labels_show_is_found_by_labels_alone() -> None:
    judge = {
        "alpha": 0.05,
        "confidence": 0.9,
        "min_requests": 30,
        "max_wait": "10m",
        "failures": {"margin_pct": 3},
        "slow": None,
    }
    labelled = release(
        judge={**judge, "labels": {"margin_pct": 3, "within": "1h", "block": "none"}},
        shadow={"sample_pct": 100, "bake": "20s", "await_labels": True},
    )
    blind = Setting(release(judge=judge), LOAD)
    assert summarise(run(blind, "labels=10", 20), LOAD).promoted.share > 0.8
    seeing = Setting(labelled, LOAD, labelling=Labelling(share=0.5, delay_s=30))
    found = summarise(run(seeing, "labels=40", 20), LOAD)
    assert found.rolled_back.share == 1
    assert found.ends == {"rolled back at shadow by labels": 20}
    assert found.exposed_requests.mean == 0
    assert summarise(run(seeing, "identical", 20), LOAD).promoted.share > 0.7


def test_guards_that_cannot_be_simulated_are_named_and_keep_their_part_of_alpha() -> None:
    judge = {"alpha": 0.03, "failures": {}, "slow": {}, "prediction": {"margin": 1}}
    setting = Setting(release(judge=judge), LOAD)
    assert setting.left_out == ("prediction",)
    assert setting.policy.guards == ("failures", "slow")
    assert setting.policy.alpha == pytest.approx(0.02)


def test_late_harm_is_timed_from_when_it_begins() -> None:
    found = run(SETTING, "late=30", 20).runs
    assert {one.phase for one in found} == {"50 %"}
    assert all(one.found_s is not None and one.found_s < 20 <= one.lasted_s for one in found)


def test_units_count_once_and_first_bad_events_belong_to_one_arm() -> None:
    feed = zipf_feed(np.random.default_rng(1), STICKY.model_copy(update={"error_rate": 0.3}), Scenario("x", "x"))
    firsts = 0
    for index, phase in enumerate(phases_of(release())):
        feed.enter(phase)
        rows = feed.block(100.0 * index, 100, 1.0)
        feed.leave(100)
        assert (np.diff(rows, axis=0) >= 0).all()
        stable, canary = rows[-1, :5], rows[-1, 5:10]
        assert stable[0] + canary[0] <= 800
        assert (stable[3:] <= stable[1:3]).all()
        assert (canary[3:] <= canary[1:3]).all()
        assert rows[-1, CANARY_REQUESTS] > rows[-1, CANARY_UNITS]
        firsts += stable[3] + canary[3]
    assert 0 < firsts <= 800


def test_what_came_after_the_end_of_a_phase_has_not_happened() -> None:
    feed = zipf_feed(np.random.default_rng(1), STICKY.model_copy(update={"error_rate": 0.9}), Scenario("x", "x"))
    first, second = phases_of(release())
    feed.enter(first)
    rows = feed.block(0.0, 50, 1.0)
    feed.leave(1)
    feed.enter(second)
    more = feed.block(1.0, 50, 1.0)
    counted = rows[0, 3] + rows[0, 8] + more[-1, 3] + more[-1, 8]
    assert rows[-1, 3] + rows[-1, 8] > rows[0, 3] + rows[0, 8]
    seen = more[-1, 1] + more[-1, 6]
    assert counted >= seen  # all units that failed in the second phase are new, but for those of one second


def test_counts_are_those_of_the_traffic() -> None:
    weight = phases_of(release())[0]
    feed = CountFeed(np.random.default_rng(1), LOAD, scenario("fails=10"), Pattern(burst=1.0))
    feed.enter(weight)
    rows = np.vstack([feed.block(0.0, 20000, 1.0), feed.block(20000.0, 20000, 1.0)])
    last = rows[-1]
    assert last[0] + last[5] == pytest.approx(40 * 40000, rel=0.1)
    assert last[5] / (last[0] + last[5]) == pytest.approx(0.1, rel=0.02)
    assert last[1] / last[0] == pytest.approx(0.01, rel=0.05)
    assert last[6] / last[5] == pytest.approx(1 - 0.99 * 0.9, rel=0.03)
    assert last[CANARY_BAD] == last[6] + last[7]


def test_bursts_and_days_change_the_rate_but_not_its_mean() -> None:
    weather = Weather(np.random.default_rng(1), Pattern(burst=4.0, daily=0.5), scenario("outages=10"))
    rates, outages = weather.factors(np.arange(0.0, 10 * 86400.0, 10.0))
    assert rates.mean() == pytest.approx(1, abs=0.05)
    assert rates.var() == pytest.approx(4 * (1 + 0.5**2 / 2) + 0.5**2 / 2, rel=0.1)
    assert (outages > 0).mean() == pytest.approx(0.1, rel=0.1)


def test_labels_come_late_and_stop_with_the_shadow() -> None:
    feed = LabelFeed(np.random.default_rng(1), Labelling(share=0.5, delay_s=100, disagree=0.2), 40, wrong=0.1)
    assert feed.at(100).total == 0
    assert feed.at(1100).total == pytest.approx(20000, rel=0.05)
    feed.stop(1100)
    last = feed.at(5000)
    assert last.total == pytest.approx(22000, rel=0.05)
    assert last.stable_only_wrong == pytest.approx(0.1 * last.total, rel=0.1)
    assert last.canary_only_wrong == pytest.approx(0.2 * last.total, rel=0.1)


def test_pairs_are_given_by_blocks_of_time() -> None:
    feed = LabelFeed(np.random.default_rng(1), Labelling(share=1, delay_s=0, disagree=0.2), 10, wrong=0.0, block_s=60)
    assert feed.at(59).blocks == ()
    assert len(feed.at(60).blocks) == 1
    whole = feed.at(150)
    assert [block.total for block in whole.blocks] == pytest.approx([600, 600], rel=0.2)
    feed.stop(200)
    last = feed.at(1000)
    assert last.blocks[:2] == whole.blocks
    assert len(last.blocks) == 3  # the fourth was not copied to its end
    assert sum(block.total for block in last.blocks) < last.total


def test_slower_answers_are_slow_as_a_lognormal_latency_says() -> None:
    assert slow_share(0.05, np.array([1.0, 2.0])) == pytest.approx([0.05, 0.3977], abs=1e-3)
    assert slow_share(0.0, np.array([5.0])) == pytest.approx([0.0])


@pytest.mark.parametrize("text", ["nonsense", "fails=0", "fails=101", "slower=1", "crash=3", "fails=-1", "fails=x"])
def test_a_scenario_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--scenario"):
        scenario(text)


def test_a_share_has_the_interval_of_wilson() -> None:
    some = share_of(5, 100)
    assert (some.low, some.high) == (pytest.approx(0.0215, abs=1e-4), pytest.approx(0.1118, abs=1e-4))
    assert share_of(0, 50).low == 0
    assert share_of(50, 50).high == 1


def recording(folder: Path, name: str = "traffic.csv") -> Path:
    path = folder / name
    rng = np.random.default_rng(1)
    times = np.sort(rng.random(20000) * 500)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("t", "unit", "status", "latency_ms"))
        for at_s, status, latency in zip(times, rng.random(20000), rng.lognormal(2, 0.5, 20000), strict=True):
            writer.writerow(
                (f"{at_s:.3f}", f"caller-{int(at_s * 7919) % 5000}", 500 if status < 0.01 else 200, f"{latency:.2f}")
            )
    return path


def test_recorded_traffic_is_played_and_a_bad_version_found_in_it(tmp_path: Path) -> None:
    import duckdb

    path = recording(tmp_path)
    recorded = read_recording(path, Slow())
    load = recorded.load()
    assert load.rate_per_s == pytest.approx(40, rel=0.01)
    assert load.error_rate == pytest.approx(0.01, rel=0.2)
    assert 0 < load.slow_rate < 0.05
    parquet = tmp_path / "traffic.parquet"
    duckdb.sql(f"COPY (SELECT to_timestamp(t) AS t, unit, status, latency_ms FROM '{path}') TO '{parquet}'")
    again = read_recording(parquet, Slow())
    assert (np.sort(again.requests.unit) == np.sort(recorded.requests.unit)).all()
    assert again.lasts_s == pytest.approx(recorded.lasts_s)
    setting = Setting(release(), load, recording=recorded)
    assert summarise(run(setting, "fails=20", 10), load).rolled_back.share == 1
    assert summarise(run(setting, "identical", 10), load).rolled_back.count == 0


def test_a_recording_begins_again_at_its_end(tmp_path: Path) -> None:
    from operators.planning.simulation.requests import RecordedSource

    recorded = read_recording(recording(tmp_path), None)
    source = RecordedSource(recorded, offset_s=490.0)
    found = source.between(0.0, 1020.0)
    assert len(found.at_s) == pytest.approx(2.04 * 20000, rel=0.02)
    assert (np.diff(found.at_s) >= 0).all()
    assert 0 <= found.at_s[0] < 1
    assert found.at_s[-1] < 1020
    assert not recorded.requests.slow.any()


@pytest.mark.parametrize(
    ("text", "said"), [("x,y\n1,2\n", "no column t"), ("t\n1\n", "1 requests"), ("t\nabc\nd\n", "--traffic")]
)
def test_a_recording_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        read_recording(path, None)
    with pytest.raises(ConfigurationError, match="no such file"):
        read_recording(tmp_path / "none.csv", None)


def test_the_traffic_of_a_real_release_is_read_from_its_verdict() -> None:
    period = Period(weight=0.25, stable=Arm(requests=3000, failed=30, slow=60), canary=Arm(requests=1000, failed=900))
    verdict = {"step": "step_25", "elapsed_s": 100.0, "evidence": Evidence(periods=(period,)).model_dump(mode="json")}
    load = load_like(verdict, holdout_share=0.2)
    assert load.rate_per_s == pytest.approx(50)
    assert (load.error_rate, load.slow_rate) == (pytest.approx(0.01), pytest.approx(0.02))
    with pytest.raises(ConfigurationError, match="no requests"):
        load_like({"elapsed_s": 1.0, "evidence": {}})
