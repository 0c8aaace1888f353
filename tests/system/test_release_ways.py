"""The ways that a release can go, on a real stack under real calls: shadow and late labels, a watch that turns back, one
release that puts another aside, one that waits, answers in no time, a drill that is killed.

Some minutes; left out unless asked for: ``pytest -m long tests/system/test_release_ways.py``. With Chromium it looks at the
console inside Airflow's page; `TAXIWAY_TEST_PICTURES` is a folder for what it sees. With Prometheus, whose program
`TAXIWAY_TEST_PROMETHEUS` names, a series guard is one of the judge's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from operators.core.errors import ServiceError, ServiceRefusedError
from operators.core.settings import storage_url
from operators.core.spec_judge import Series
from operators.core.storage import Storage
from operators.demo.airflow import Airflow
from operators.drills.policy import STEP
from operators.judge.evidence import Evidence
from operators.registry.client import CHAMPION
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.release_moves import ReleaseMoves
from operators.rollout.steps.sources import SeriesSource
from tests.support import browser, prometheus
from tests.support.ports import free_port
from tests.support.waiting import until
from tests.support.ways import SMOKE_KEY, Way, log_models, smoke_body, write_include
from tests.system.conftest import running

pytestmark = [pytest.mark.system, pytest.mark.long]
LATE, TURNS, ASKED = "ways_late", "ways_turns", "ways_asked"
COPY = f"{TURNS}_drill"
# Failures of a version in the last seconds; none is 0.
QUERY = f'sum(rate(taxiway_failures_total{{model="{TURNS}",version="{{version}}"}}[10s])) or vector(0)'
_SERIES = f"    series: {{failing: {{query: '{QUERY}', every: 1s, margin_pct: 50}}}}"
_EVERY_MINUTE, _ONCE_A_WEEK = "* * * * *", "0 4 * * 1"
MODELS = {
    LATE: (
        "    labels: {margin_pct: 5, within: 10m, min_pairs: 20}",
        """
  steps: [{weight_pct: 50, bake: 2s}]
  shadow: {sample_pct: 100, bake: 3s, min_requests: 20}
  watch: 170s
  keep_warm: 170s
""",
    ),
    TURNS: (
        _SERIES if prometheus.PROMETHEUS else "",
        f"""
  steps: [{{weight_pct: 20, bake: 12s}}]
  when_busy: supersede
  watch: 30s
  keep_warm: 1h
  drill: {{schedule: "{_EVERY_MINUTE}", faults: [dead_controller]}}
""",
    ),
    ASKED: (
        "",
        """
  steps: [{weight_pct: 50, bake: 2s}]
  approval: {mode: manual, approvers: [anyone], respond_within: 60s}
  when_busy: wait
  watch: 6s
  keep_warm: 1h
""",
    ),
}


@dataclass
class Played:
    """What happens at the same time: each way in a thread of its own."""

    stack: Any
    airflow: Airflow
    ways: dict[str, Way]
    late: Future[dict[str, Any]]
    turns: Future[dict[str, Any]]
    asked: Future[dict[str, Any]]
    drill: Future[dict[str, Any]]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder, scratch = Path(tempfile.mkdtemp(prefix="tw-ways-")), tmp_path_factory.mktemp("ways")
    write_include(folder / "include", MODELS)
    with ExitStack() as open_, pytest.MonkeyPatch.context() as patch:
        threads = open_.enter_context(ThreadPoolExecutor(8))
        importing = threads.submit(__import__, "mlflow")
        port = free_port()
        if prometheus.PROMETHEUS:
            patch.setenv("TAXIWAY_PROMETHEUS_URL", f"http://127.0.0.1:{port}")
        stack = open_.enter_context(running(folder))
        if prometheus.PROMETHEUS:
            token = stack.secrets.agent_token
            open_.enter_context(prometheus.scraping(stack.url("agent"), token, port=port, folder=scratch))
        airflow = Airflow(stack.airflow_url, "admin", stack.secrets.airflow_password)
        storage = Storage(storage_url())
        storage.put_bytes(SMOKE_KEY, smoke_body())
        importing.result()
        uris: dict[str, str] = {}
        ways = {}
        for name in MODELS:
            spec_path = folder / "include" / "models" / f"{name}.yaml"
            ways[name] = Way(stack, airflow, spec_path, storage, uris)
        uris.update(log_models(ways[LATE].spec, scratch))
        ways[LATE].register("right", "wrong")
        ways[TURNS].register("right", "right", "right")
        ways[ASKED].register("right", "right", "right")
        for way in ways.values():
            airflow.wait_for_dag(way.dag)
        began = {name: threads.submit(first, way) for name, way in ways.items()}
        yield Played(
            stack,
            airflow,
            ways,
            late=threads.submit(play_late, ways[LATE], began[LATE]),
            turns=threads.submit(play_turns, ways[TURNS], began[TURNS]),
            asked=threads.submit(play_asked, ways[ASKED], began[ASKED]),
            drill=threads.submit(play_drill, ways[TURNS], began[TURNS]),
        )


def first(way: Way) -> None:
    state, tasks = way.end(way.release("1"))
    assert state == "success", tasks


def play_late(way: Way, began: Future[None]) -> dict[str, Any]:
    """A version that is wrong, which nobody knows until the labels come, after its promotion."""
    began.result()
    callers = way.call(rate=20)
    run = way.release("2")
    promoted = f"{way.release_of(run)}/promoted"
    until(lambda: way.to.ledger.entry(promoted), "it is promoted", 150)
    until(lambda: way.airflow.tasks(way.dag, run)["watch"] == "deferred", "it is watched")
    warm, alias = way.to.agent.route(way.model), way.to.registry.alias(way.model, CHAMPION)
    way.write_labels()
    state, tasks = way.end(run)
    time.sleep(2)
    return {"run": run, "state": state, "tasks": tasks, "tally": callers.stop(), "warm": warm, "alias": alias}


def play_turns(way: Way, began: Future[None]) -> dict[str, Any]:
    """A release that another one puts aside half-way, and one that is put aside while it is watched."""
    began.result()
    callers = way.call(rate=20)

    def has_traffic(version: str) -> bool:
        route = way.to.agent.route(way.model)
        return route is not None and route.canary == version and route.weight_now_bp > 0

    one = way.release("2")
    until(lambda: has_traffic("2"), "version 2 is a canary")
    time.sleep(3)
    two = way.release("3")
    until(lambda: way.to.ledger.end(way.release_of(one)), "the first release is put aside")
    aside_at = time.monotonic()
    ended_one = way.end(one)
    took_s = time.monotonic() - aside_at
    until(lambda: has_traffic("3"), "version 3 is a canary")
    time.sleep(4)
    series = asyncio.run(ask_prometheus()) if prometheus.PROMETHEUS else {}
    until(lambda: way.to.ledger.entry(f"{way.release_of(two)}/promoted"), "version 3 is promoted")
    until(lambda: way.airflow.tasks(way.dag, two)["watch"] == "deferred", "version 3 is watched")
    three = way.release("2")
    until(lambda: way.to.ledger.end(way.release_of(two)), "the watch is put aside")
    ended = (ended_one, way.end(two), way.end(three))
    tally = callers.stop()
    return {"runs": (one, two, three), "ended": ended, "took_s": took_s, "tally": tally, "series": series}


async def ask_prometheus() -> dict[str, Any]:
    """Ask as a series guard does: well, with a query of several series, and with one that is none."""
    arms: Any = SimpleNamespace(stable="1", canary="3")

    async def ask(query: str) -> Any:
        guard = Series.model_validate({"query": query, "every": "1s"})
        return await SeriesSource({"it": guard}).add(Evidence(), arms)

    about = f'model="{TURNS}",version="{{version}}"'
    said: dict[str, Any] = {
        "good": (await ask(f"sum(rate(taxiway_requests_total{{{about}}}[15s]))")).series["it"][0],
        "nothing": (await ask(f'sum(taxiway_requests_total{{{about},arm="none"}})')).series["it"][0],
    }
    for name, query in (("several", "up or taxiway_weight_bp"), ("wrong", "sum(")):
        try:
            said[name] = await ask(query)
        except (ServiceError, ServiceRefusedError) as error:
            said[name] = error
    return said


def play_asked(way: Way, began: Future[None]) -> dict[str, Any]:
    """Two releases at once, of which one waits; one is answered when its form is there, one when its task is deferred."""
    began.result()
    callers = way.call(rate=20)
    one, two = way.release("2"), way.release("3")
    states = [way.answer(one, "approve", "Go on")]
    ended_one = way.end(one)
    states.append(way.answer(two, "approve", "Roll back", deferred=True))
    ended_two = way.end(two)
    tries = [way.tries(run, "approve") for run in (one, two)]
    tally = callers.stop()
    return {"runs": (one, two), "ended": (ended_one, ended_two), "tally": tally, "states": states, "tries": tries}


def play_drill(way: Way, began: Future[None]) -> dict[str, Any]:
    """The drill on schedule: its task is killed half-way; then a person clears it."""
    began.result()
    dag = f"{way.model}.drill"
    way.airflow.wait_for_dag(dag)
    run = until(lambda: runs_of(way.airflow, dag), "the drill has begun on schedule", 100)[0]
    way.spec_path.write_text(way.spec_path.read_text().replace(_EVERY_MINUTE, _ONCE_A_WEEK))  # that one will do
    copy = ReleaseMoves(ModelTraffic(COPY))

    def at_step() -> bool:
        moved = [row.payload["step"] for row in copy.ledger.entries(COPY, kind="weight_set")]
        return STEP in moved

    until(at_step, "the drill has a canary", 150, every_s=0.1)
    time.sleep(1)
    tasks = f"/api/v2/dags/{dag}/dagRuns/{quote(run)}/taskInstances"
    os.kill(way.airflow.call("GET", f"{tasks}/drill")["pid"], signal.SIGKILL)
    killed = way.airflow.follow(dag, run, timeout_s=120, on_change=lambda *_: None)
    after_kill = left_of(copy)
    body = {
        "dry_run": False,
        "dag_run_id": run,
        "task_ids": ["drill"],
        "only_failed": False,
        "include_downstream": True,
    }
    way.airflow.call("POST", f"/api/v2/dags/{dag}/clearTaskInstances", {**body, "reset_dag_runs": True})
    again = way.airflow.follow(dag, run, timeout_s=150, on_change=lambda *_: None)
    return {"run": run, "killed": killed, "after_kill": after_kill, "again": again, "after": left_of(copy)}


def runs_of(airflow: Airflow, dag: str) -> list[str]:
    found = airflow.call("GET", f"/api/v2/dags/{dag}/dagRuns?limit=10")["dag_runs"]
    return [run["dag_run_id"] for run in found if run["run_type"] == "scheduled"]


def left_of(copy: ReleaseMoves) -> dict[str, Any]:
    """Return what is left of a drill's copy."""

    def apps() -> list[str]:
        return [name for name in copy.agent.apps() if name.startswith(f"{COPY}-")]

    end = time.monotonic() + 30
    while apps() and time.monotonic() < end:
        time.sleep(0.5)
    return {
        "apps": apps(),
        "route": copy.agent.route(COPY),
        "versions": copy.registry.versions(COPY),
        "holder": copy.ledger.holder(COPY),
    }


NOTHING: dict[str, Any] = {"apps": [], "route": None, "versions": [], "holder": None}


# ---------------------------------------------------------------------- shadow, then a watch that turns back


def test_labels_that_come_after_the_promotion_roll_it_back(played: Played) -> None:
    way, found = played.ways[LATE], played.late.result()
    expected = {"shadow": "success", "canary_50_pct": "success", "promote": "success"}
    assert found["state"] == "failed"
    assert {name: found["tasks"][name] for name in expected} == expected
    assert (found["tasks"]["watch"], found["tasks"]["roll_back"]) == ("failed", "success")
    assert way.story(found["run"]) == [
        "release_started", "route begin 0", "route shadow 0", "verdict shadow Successful", "route canary_50_pct 5000",
        "verdict canary_50_pct Successful", "route promote 100", "promoted", "verdict watch Failed", "route rollback 0",
        "quarantined", "rolled_back",
    ]  # fmt: skip
    verdict = way.to.verdicts(way.release_of(found["run"]))[-1].payload()
    pairs = verdict["evidence"]["pairs"]
    assert pairs["canary_only_wrong"] == pairs["total"] > 10, pairs
    assert pairs["stable_only_wrong"] == 0
    assert verdict["judgement"]["reason"].startswith("labels"), verdict["judgement"]["reason"]


def test_the_old_version_was_warm_and_has_everything_again(played: Played) -> None:
    way, found = played.ways[LATE], played.late.result()
    warm = found["warm"]
    assert (warm.stable, warm.canary, warm.weight_now_bp, warm.from_top) == ("2", "1", 100, True)
    assert found["alias"].version == "2"
    assert way.agreed() == {"1"}
    assert [row.version for row in way.to.traffic.quarantine.standing()] == ["2"]
    until(lambda: f"{LATE}-2" not in way.to.agent.apps(), "the wrong version is gone", 60)


def test_nobody_noticed_shadow_promotion_and_return(played: Played) -> None:
    tally = played.late.result()["tally"]
    assert tally.failed == 0, tally.failures
    assert set(tally.answered) == {"1", "2"}


# ---------------------------------------------------------------------- one puts the other aside


def test_the_newer_release_puts_the_older_one_aside(played: Played) -> None:
    way, found = played.ways[TURNS], played.turns.result()
    one, two, three = found["runs"]
    states = [state for state, _ in found["ended"]]
    tasks = [tasks for _, tasks in found["ended"]]
    assert states == ["failed", "failed", "success"], tasks
    assert (tasks[0]["canary_20_pct"], tasks[0]["roll_back"]) == ("failed", "skipped")
    assert (tasks[1]["promote"], tasks[1]["watch"], tasks[1]["roll_back"]) == ("success", "failed", "skipped")
    assert way.story(one) == ["release_started", "route begin 0", "route canary_20_pct 2000", "abandoned"]
    promoted = [
        "release_started", "route begin 0", "route canary_20_pct 2000", "verdict canary_20_pct Successful",
        "route promote 100", "promoted",
    ]  # fmt: skip
    assert way.story(two) == [*promoted, "abandoned"]
    assert way.story(three) == [*promoted, "verdict watch Successful", "route watch_end 0", "watch_ended"]
    by = [way.to.ledger.end(way.release_of(run)).payload.get("by") for run in (one, two)]
    assert by == [way.release_of(two), way.release_of(three)]


def test_their_rows_never_interleave(played: Played) -> None:
    way, found = played.ways[TURNS], played.turns.result()
    seqs = [way.seqs(run) for run in found["runs"]]
    assert max(seqs[0]) < min(seqs[1])
    assert max(seqs[1]) < min(seqs[2])


def test_the_one_put_aside_ends_at_once_and_is_no_reject(played: Played) -> None:
    way, found = played.ways[TURNS], played.turns.result()
    assert found["took_s"] < 45
    assert way.to.traffic.quarantine.standing() == ()
    apps = way.to.agent.apps()
    assert f"{TURNS}-3" in apps  # version 2 may have to go back to it
    assert way.agreed() == {"2"}


def test_nobody_noticed_who_was_put_aside(played: Played) -> None:
    tally = played.turns.result()["tally"]
    assert tally.failed == 0, tally.failures
    assert set(tally.answered) == {"1", "2", "3"}


@pytest.mark.skipif(not prometheus.PROMETHEUS, reason="there is no Prometheus here")
def test_a_real_prometheus_answers_the_series_guard(played: Played) -> None:
    way, found = played.ways[TURNS], played.turns.result()
    said = found["series"]
    print(said)
    good = said["good"]
    assert 5 < good.stable < 25
    assert 0.2 < good.canary < 10
    assert (said["nothing"].stable, said["nothing"].canary) == (None, None)
    assert isinstance(said["several"], ServiceError)
    assert "aggregate them in the query" in str(said["several"])
    assert isinstance(said["wrong"], ServiceRefusedError)
    assert "parse error" in str(said["wrong"])
    verdict = way.to.verdicts(way.release_of(found["runs"][1]))[0].payload()
    assert len(verdict["evidence"]["series"]["failing"]) >= 8
    assert verdict["judgement"]["guards"]["failing"]["refuted"] is True


# ---------------------------------------------------------------------- one waits, and a person is quick


def test_the_second_release_waits_for_the_end_of_the_first(played: Played) -> None:
    way, found = played.ways[ASKED], played.asked.result()
    one, two = found["runs"]
    (state_one, tasks_one), (state_two, tasks_two) = found["ended"]
    assert (state_one, state_two) == ("success", "failed"), (tasks_one, tasks_two)
    assert max(way.seqs(one)) < min(way.seqs(two))
    assert way.story(one)[-1] == "watch_ended"
    assert way.story(two)[-1] == "rolled_back"


def test_an_answer_of_the_first_instant_is_obeyed_and_nobody_is_asked_twice(played: Played) -> None:
    way, found = played.ways[ASKED], played.asked.result()
    one, two = found["runs"]
    print(found["states"], found["tries"])
    assert [said for said in way.story(one) if "approval" in said] == ["approval go_on by admin"]
    assert [said for said in way.story(two) if "approval" in said] == ["approval roll_back by admin"]
    assert found["ended"][1][1]["approve"] == "failed"
    end = way.to.ledger.end(way.release_of(two))
    assert end.payload["reason"] == "approve: admin decided to roll back"
    assert way.to.traffic.quarantine.standing() == ()
    assert way.agreed() == {"2"}
    tally = found["tally"]
    assert tally.failed == 0, tally.failures


# ---------------------------------------------------------------------- a drill on schedule


def test_a_drill_that_was_killed_is_written_down_and_cleaned_up(played: Played) -> None:
    found = played.drill.result()
    state, tasks = found["killed"]
    assert (state, tasks["drill"], tasks["clean_up"]) == ("failed", "failed", "success")
    assert found["after_kill"] == NOTHING
    told = drill_rows(played, found["run"])
    assert [(row["passed"], row["fault"]) for row in told][:1] == [(False, "dead_controller")]
    assert "was killed" in told[0]["problems"][0]


def test_cleared_it_drills_again_from_the_beginning(played: Played) -> None:
    found = played.drill.result()
    state, tasks = found["again"]
    assert (state, set(tasks.values())) == ("success", {"success"}), tasks
    assert found["after"] == NOTHING
    told = drill_rows(played, found["run"])
    assert [row["passed"] for row in told] == [False, True], told
    assert (told[1]["ended_by"], told[1]["failed_requests"]) == ("lease", 0)
    edge = played.stack.url("edge")
    assert httpx.post(f"{edge}/v2/models/{COPY}/infer", json={}, timeout=10).status_code == 404


def drill_rows(played: Played, run: str) -> list[dict[str, Any]]:
    rows = played.ways[TURNS].to.ledger.entries(TURNS, kind="drill")
    return [row.payload for row in rows if run in row.key]


# ---------------------------------------------------------------------- all of it


@pytest.mark.skipif(not browser.CHROMIUM, reason="there is no Chromium here")
def test_the_console_opens_inside_airflow(played: Played, tmp_path: Path) -> None:
    for way in (played.late, played.turns, played.asked, played.drill):
        way.exception()  # that it has ended is enough
    password = {"username": "admin", "password": played.stack.secrets.airflow_password}
    token = httpx.post(f"{played.stack.airflow_url}/auth/token", json=password, timeout=10).json()["access_token"]
    shot = Path(os.environ.get("TAXIWAY_TEST_PICTURES", tmp_path)) / "console.png"
    text = browser.look(
        f"{played.stack.airflow_url}/plugin/taxiway",
        cookies={"_token": token},
        js="document.querySelector('iframe')?.contentDocument?.body?.innerText",
        until=TURNS,
        screenshot=shot,
    )
    print(shot, text, sep="\n")
    for model in MODELS:
        assert model in text


def test_the_record_holds(played: Played) -> None:
    from operators.cli.main import main

    for way in (played.late, played.turns, played.asked, played.drill):
        way.result()
    assert main(["verify"]) == 0
    for model in (*MODELS, COPY):
        assert played.ways[LATE].to.ledger.broken_links(model) == []
