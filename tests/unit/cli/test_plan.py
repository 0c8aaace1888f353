from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from operators.cli import plan as commands
from operators.core.errors import ConfigurationError
from operators.core.traffic import Counters, Row
from operators.judge.evidence import Arm, Evidence, Period
from operators.traffic.client import Agent
from tests.support.readings import counted

TRAFFIC = ("--rate", "40", "--error-rate", "0.5", "--slow-rate", "1")


@pytest.fixture(autouse=True)
def _no_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAXIWAY_AGENT_URL", raising=False)
    monkeypatch.setattr("operators.stack.supervisor.is_up", lambda: False)


def taxiway(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    options = parser.parse_args(arguments)
    return int(options.run(options))


def test_a_plan_that_works_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert taxiway("plan", "flight_delay", *TRAFFIC, "--effect", "3") == 0
    printed = capsys.readouterr().out
    assert "A version like stable is promoted after" in printed
    assert "40 requests/s, 0.5 % fail, 1 % are slow, each request counts as a unit" in printed
    assert "detect 3 percentage points more failures" in printed
    assert "Refused" not in printed
    assert max(map(len, printed.splitlines())) <= 140


def test_a_plan_that_cannot_work_is_refused_with_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert taxiway("plan", "flight_delay", "--rate", "5.5") == 2
    printed = capsys.readouterr().out
    assert "Refused" in printed
    assert "At 50 %:\n  failures" in printed
    assert "  release.judge.max_wait: " in printed
    assert "0.5 % fail (assumed)" in printed


def test_a_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert taxiway("plan", "include/models/flight_delay.yaml", *TRAFFIC, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert [phase["name"] for phase in made["phases"]] == ["5 %", "25 %", "50 %"]
    assert made["load"] == {"rate_per_s": 40.0, "error_rate": 0.005, "slow_rate": 0.01, "units": None, "skew": 1.0}
    assert made["assumed"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "nosuch"), "no model 'nosuch'; known: flight_delay"),
        (("plan", "flight_delay", "--rate", "0"), "rate_per_s"),
        (("plan", "flight_delay", "--error-rate", "100"), "error_rate"),
        (("plan", "flight_delay", *TRAFFIC, "--effect", "0"), "--effect"),
        (("plan", "flight_delay", "--like", "pyproject.toml"), "--like"),
        (("simulate", "flight_delay", "--releases", "0"), "--releases"),
        (("simulate", "flight_delay", "--daily", "200"), "--daily"),
        (("simulate", "flight_delay", "--scenario", "boom"), "--scenario boom"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        taxiway(*arguments)


def test_a_simulation_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--scenario", "crash", "--scenario", "identical", "--releases", "10", "--jobs", "1")
    assert taxiway("simulate", "flight_delay", *TRAFFIC, *asked) == 0
    printed = capsys.readouterr().out
    assert "crash: fails every request; 10 rolled back at 5 % by failures." in printed
    assert "False rollbacks, identical: 0 of 10" in printed
    assert "releases, " in printed


def test_a_simulation_as_json_is_the_same_for_the_same_seed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for _ in range(2):
        assert taxiway("simulate", "flight_delay", *TRAFFIC, "--scenario", "crash", "--releases", "5", "--json") == 0
        shown.append(json.loads(capsys.readouterr().out))
    for found in shown:
        for timing in ("judge_us", "releases_per_minute"):
            del found["scenarios"][0][timing]
    assert shown[0] == shown[1]
    assert shown[0]["scenarios"][0]["rolled_back"]["count"] == 5


def test_recorded_traffic_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "traffic.csv"
    file.write_text("t,failed\n" + "\n".join(f"{n / 40},{n % 200 == 0}" for n in range(4000)))
    assert taxiway("simulate", "flight_delay", "--traffic", str(file), "--releases", "2", "--jobs", "1") == 0
    printed = capsys.readouterr().out
    assert "Traffic: 40 requests/s, 0.5 % fail, 0 % are slow" in printed
    assert "crash: fails every request; 2 rolled back at 5 % by failures." in printed
    assert "outages" not in printed


def test_more_false_rollbacks_than_alpha_fail_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from operators.planning.simulation import scenarios

    bad = scenarios.Scenario("identical", "only said to be", fails=1.0)
    monkeypatch.setattr(scenarios.Scenario, "harmless", True)
    monkeypatch.setattr(scenarios, "scenario", lambda text: bad)
    asked = ("--scenario", "identical", "--releases", "5", "--jobs", "1")
    assert taxiway("simulate", "flight_delay", *TRAFFIC, *asked) == 1
    assert "more false rollbacks" in capsys.readouterr().err


def test_the_traffic_is_that_of_a_verdict_in_the_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    period = Period(weight=0.25, stable=Arm(requests=7500, failed=15, slow=30), canary=Arm(requests=2500))
    payload = {"step": "step_25", "elapsed_s": 100.0, "evidence": Evidence(periods=(period,)).model_dump(mode="json")}
    file = tmp_path / "verdict.json"
    file.write_text(json.dumps(payload))
    assert taxiway("plan", "flight_delay", "--like", str(file), "--json", "--slow-rate", "2") == 0
    load = json.loads(capsys.readouterr().out)["load"]
    assert (load["rate_per_s"], load["error_rate"], load["slow_rate"]) == (100, pytest.approx(0.002), 0.02)


def test_the_traffic_is_measured_at_the_edge_when_it_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(requests: int) -> Counters:
        stable = Row(version="3", arm="stable", requests=requests, failures=requests // 100, slow=requests // 50)
        return counted(stable, Row(version="4", arm="shadow", requests=requests, failures=9999))

    readings = iter((row(10_000), row(10_150)))
    clock = iter((0.0, 3.0))
    monkeypatch.setenv("TAXIWAY_AGENT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TAXIWAY_AGENT_TOKEN", "secret")
    monkeypatch.setattr(Agent, "counters", lambda self, model: next(readings))
    monkeypatch.setattr("operators.cli.traffic.time.sleep", lambda s: None)
    monkeypatch.setattr("operators.cli.traffic.time.monotonic", lambda: next(clock))
    assert taxiway("plan", "flight_delay", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["load"]["rate_per_s"] == pytest.approx(50)
    assert made["load"]["error_rate"] == pytest.approx(101 / 10_150)
    assert made["assumed"] == []


def test_an_edge_that_does_not_answer_is_no_reason_to_give_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAXIWAY_AGENT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TAXIWAY_AGENT_TOKEN", "secret")
    assert taxiway("plan", "flight_delay", "--error-rate", "0.5", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["assumed"] == ["rate_per_s", "slow_rate"]
    assert "the edge could not be measured" in said.err
