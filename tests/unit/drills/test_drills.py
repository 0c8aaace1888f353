"""What a drill is held to, and what it does with a canary, an agent and callers that do as they are told."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from operators.core.errors import RejectedError, ServiceError
from operators.core.ledger_entry import Entry
from operators.core.spec import PredictionSpec
from operators.core.spec_operations import FAULTS, Drill
from operators.core.traffic import Counters
from operators.drills import scene as scene_module
from operators.drills.copies import Cast, Original, original, require_ours
from operators.drills.load_generator import Load, single_rows
from operators.drills.operators import require_quiet
from operators.drills.policy import Observed, copy_name, copy_spec, longest_ago, pass_criteria, problems
from operators.drills.record import unfinished
from operators.drills.scene import Scene
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Look
from operators.traffic.limits import AnswerLimits
from ray_jobs import drill as job
from tests.support.release_world import FakeRegistry
from tests.support.specs import small_spec
from tests.support.waiting import until_async

SPEC = small_spec(name="flight_delay")
GOOD = Observed(
    requests=200, failed_requests=0, canary_requests=60, canary_before=40, fallbacks=20, stable_after=50, to_zero_s=1.0, rolled_back_s=1.2,
    ended_by="judge", verdict="Failed",
)  # fmt: skip


# ---------------------------------------------------------------------- policy


def test_a_copy_has_a_spec_that_the_agent_takes_and_a_name_of_its_own() -> None:
    found = copy_spec(SPEC)
    assert found.name == "flight_delay_drill"
    assert PredictionSpec.from_json(found.to_json()) == found
    assert (found.data, found.serving.replicas) == (SPEC.data, 1)
    assert [step.weight_bp for step in found.release.steps] == [5000]
    assert found.release.judge.guards == ("failures",)
    assert (found.release.drill, found.release.shadow, found.release.watch_s) == (None, None, None)


def test_a_copy_needs_a_name_that_is_short_enough() -> None:
    assert copy_name("m" * 57)
    with pytest.raises(RejectedError, match="needs a shorter name"):
        copy_name("m" * 58)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_drill_passes_that_hurt_nobody_and_ended_in_time(fault: Any) -> None:
    assert problems(fault, GOOD, pass_criteria(fault)) == ()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"failed_requests": 2, "failures": ("503: away",)},
            "2 of 200 requests failed, the limit is 0: 503: away",
        ),
        ({"canary_before": 0}, "no requests just before the fault"),
        ({"canary_requests": 0}, "got no requests"),
        ({"ended_by": None, "to_zero_s": None}, "the canary kept its weight"),
        ({"to_zero_s": 31.0}, "for 31.0 s after the fault, the limit is 30 s"),
        ({"rolled_back_s": None}, "was not rolled back"),
        ({"stable_after": 0}, "answered no caller after the rollback"),
    ],
)
def test_each_thing_that_does_not_hold_is_said(wrong: dict[str, Any], said: str) -> None:
    (found,) = problems("dead_replica", GOOD.model_copy(update=wrong), pass_criteria("dead_replica"))
    assert said in found


def test_a_bad_canary_is_to_be_found_by_the_judge() -> None:
    seen = GOOD.model_copy(update={"canary_before": 0, "verdict": "Inconclusive"})
    (found,) = problems("bad_canary", seen, pass_criteria("bad_canary"))
    assert "verdict was Inconclusive" in found


@given(st.lists(st.sampled_from(FAULTS), max_size=12))
def test_faults_take_turns(drilled: list[Any]) -> None:
    for _ in FAULTS:
        drilled = [*drilled, longest_ago(FAULTS, drilled)]
    assert sorted(drilled[-len(FAULTS) :]) == sorted(FAULTS)


def test_the_spec_is_strict() -> None:
    found = Drill.model_validate({"schedule": "0 4 * * 6"})
    assert found.faults == FAULTS
    for wrong in (
        {"schedule": "soon"},
        {"schedule": "@daily", "faults": []},
        {"schedule": "@daily", "faults": ["fire"]},
    ):
        with pytest.raises(ValidationError):
            Drill.model_validate(wrong)


# ---------------------------------------------------------------------- what is refused


def world(tags: dict[str, str] | None, model: str = "flight_delay") -> Any:
    registry = FakeRegistry("3")
    if tags is not None:
        registry.tags["3"] = tags
        registry.set_alias(model, "champion", "3")
    return SimpleNamespace(model=model, registry=registry)


TAGS = {"taxiway.smoke_key": "smoke/3.json", "taxiway.spec": SPEC.to_json()}


def test_what_is_copied_is_the_champion() -> None:
    found = original(world(TAGS))
    assert (found.version, found.uri, found.smoke_key) == ("3", "models:/flight_delay/3", "smoke/3.json")
    assert PredictionSpec.from_json(found.spec) == copy_spec(SPEC)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (None, "flight_delay has no champion to copy; release a version first"),
        ({"taxiway.spec": "x"}, "version 3 of flight_delay has no tag taxiway.smoke_key"),
        ({}, "no tag taxiway.smoke_key and no tag taxiway.spec"),
    ],
)
def test_a_model_that_cannot_be_drilled_says_why(tags: Any, said: str) -> None:
    with pytest.raises(RejectedError, match=said):
        original(world(tags))


def test_a_model_that_happens_to_be_called_so_is_left_alone() -> None:
    found = SimpleNamespace(version="1", tags={})
    registry = SimpleNamespace(versions=lambda _model: [found])
    with pytest.raises(RejectedError, match="m_drill is a model of its own"):
        require_ours(SimpleNamespace(model="m_drill", registry=registry))  # type: ignore[arg-type]
    found.tags = {"taxiway.made_by": "drill"}
    require_ours(SimpleNamespace(model="m_drill", registry=registry))  # type: ignore[arg-type]


def test_the_agent_is_not_killed_while_a_release_needs_it() -> None:
    def controller(**routes: Any) -> Any:
        found = {name: SimpleNamespace(model=name, **route) for name, route in routes.items()}
        return SimpleNamespace(agent=SimpleNamespace(routes=lambda: found))

    quiet, moving = {"weight_now_bp": 0, "shadow": None}, {"weight_now_bp": 500, "shadow": None}
    require_quiet(controller(other=quiet, m_drill=moving), "m_drill")
    for busy in (moving, {"weight_now_bp": 0, "shadow": "2"}):
        with pytest.raises(RejectedError, match="a release of other is under way"):
            require_quiet(controller(other=busy), "m_drill")


def test_only_a_copys_replicas_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def actor(class_name: str, pid: int) -> Any:
        return SimpleNamespace(class_name=class_name, pid=pid, node_id="n", name=None, ray_namespace="serve")

    actors = [actor("ServeReplica:m_drill-2:version", 1), actor("ServeReplica:m_drill-21:version", 2), actor("ServeReplica:m-2:version", 3)]  # fmt: skip
    monkeypatch.setattr(job, "_actors", lambda: actors)
    assert job._replicas("m_drill-2") == [("n", 1)]
    with pytest.raises(Exception, match="'m-2' is not an application of a copy"):
        job._replicas("m-2")
    with pytest.raises(Exception, match="cannot do 'reboot'"):
        job.work({"do": "reboot"}, "key")


# ---------------------------------------------------------------------- rows


def row(kind: str, drill_id: str, seq: int, **more: Any) -> Entry:
    facts = {"drill_id": drill_id, "copy_name": "m_drill", "fault": "bad_canary", "dag_id": "drill", "run_id": drill_id}
    return Entry(
        model="m", seq=seq, at=datetime.now(UTC), kind=kind, release_id=None, key=f"{drill_id}/{kind}",
        payload={**facts, **more}, previous_hash="", hash="",
    )  # fmt: skip


def test_a_drill_is_unfinished_until_it_is_cleaned_up() -> None:
    rows = [
        row("drill_started", "a", 1),
        row("drill_started", "b", 2),
        row("drill", "a", 3),
        row("drill_cleaned", "a", 4),
    ]
    assert [(drill.drill_id, drill.seq) for drill in unfinished(rows)] == [("b", 2)]


# ---------------------------------------------------------------------- load


def test_rows_are_sent_one_by_one() -> None:
    body = {
        "inputs": [
            {"name": "a", "shape": [2], "datatype": "FP64", "data": [1, 2]},
            {"name": "b", "shape": [2], "datatype": "BYTES", "data": ["x", None]},
        ]
    }
    first, second = (json.loads(one) for one in single_rows(json.dumps(body).encode()))
    assert [tensor["data"] for tensor in first["inputs"]] == [[1], ["x"]]
    assert [tensor["data"] for tensor in second["inputs"]] == [[2], [None]]
    assert second["inputs"][1]["shape"] == [1]


def test_callers_count_what_they_see() -> None:
    """Against a server that answers in turn: stable, canary, in the canary's place, and not at all."""
    kinds = [("200 OK", "stable"), ("200 OK", "canary"), ("200 OK", "fallback"), ("503 Away", "")]
    units: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(2)
            units.extend(
                line.split(": ")[1] for line in head.decode().split("\r\n") if line.startswith("X-Taxiway-Unit")
            )
            status, arm = kinds[(len(units) - 1) % 4]
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\nX-Taxiway-Arm: {arm}\r\n\r\n{{}}".encode())
            await writer.drain()

    async def play() -> Load:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        load = Load(f"http://127.0.0.1:{port}/infer", [b"{}"], rate_per_s=500)
        async with load:
            await until_async(lambda: len(units) >= 40)
        server.close()
        return load

    tally = asyncio.run(play()).tally
    assert tally.sent == len(units) == len(set(units))
    quarter, rest = divmod(tally.sent, 4)
    assert tally.failed == quarter
    assert tally.failures[0] == "503: {}"
    assert (len(tally.stable), tally.fallbacks) == (quarter + (rest > 0), quarter + (rest > 2))
    assert len(tally.canary) == tally.fallbacks + quarter + (rest > 1)


# ---------------------------------------------------------------------- the scene


def look(outcome: Outcome, *, blind: bool = False) -> Look:
    judgement = Judgement(outcome=outcome, reason="so it is", guards={})
    return Look(evidence=Evidence(), judgement=judgement, elapsed_s=1.0, blind=blind)


class Stage:
    """Controller, agent, cluster, callers and watch in one.

    `looks` are given out in turn, the last one for ever; `struck` is what is seen once something was killed.
    """

    def __init__(self, fault: str, looks: list[Any], *, away: int = 0, struck: Any = None) -> None:
        self.struck, self.drains = struck, fault == "dead_controller"
        self.looks, self.away, self.told = looks, away, [fault]
        self.weight_bp = 0
        self.live: LivePhase | None = None
        self.tally = SimpleNamespace(sent=9, failed=0, failures=[], fallbacks=0, canary=[], stable=[])
        self.registry = SimpleNamespace(version=lambda _model, version: version)
        self.agent = SimpleNamespace(
            counters=lambda _model: Counters(),
            route=lambda _model: SimpleNamespace(weight_now_bp=self._drain()),
        )
        self.ledger = None
        drill = {
            "drill_id": "m/drill/d/r#1", "model": "flight_delay", "copy_name": "flight_delay_drill", "fault": fault, "dag_id": "d",
            "run_id": "r", "seq": 1,
        }  # fmt: skip
        about = Original(version="3", uri="u", smoke_key="k", spec=copy_spec(SPEC).to_json())
        self.cast = Cast.model_validate({"drill": drill, "original": about.model_dump(), "stable": "1", "canary": "2"})

    def _drain(self) -> int:
        self.told.append("polled")
        return 0 if self.drains and self.told.count("polled") > 2 else self.weight_bp

    # the controller
    def begin(self, run: str, _version: Any) -> Any:
        self.told.append(f"begun {run}")
        return SimpleNamespace(release_id=f"{run}#1")

    def set_route(
        self, _release: str, step: str, _spec: Any, *, stable: str, version: str, weight_bp: int, limits: AnswerLimits
    ) -> Any:
        self.weight_bp = weight_bp
        self.told.append(f"{step} {stable} {version}")
        return SimpleNamespace(at=datetime.now(UTC), route=SimpleNamespace(canary_timeout_ms=limits.canary_timeout_ms))

    def record_verdict(self, _release: str, _step: str, **said: Any) -> None:
        self.told.append(f"verdict {said['judgement'].outcome}")

    def roll_back(self, _release: str, version: str, stable: str, _reason: str, *, drain_s: float) -> None:
        if self.away:
            self.away -= 1
            raise ServiceError("the agent is away")
        self.told.append(f"rolled back {version} to {stable}")

    # the cluster
    def start(self, deed: str, **given: Any) -> None:
        self.told.append(f"{deed} {given.get('app', '')}".strip())

    def struck_at(self, deed: str) -> float | None:
        self.told.append("asked")
        return datetime.now(UTC).timestamp() if self.told.count("asked") > 1 else None

    def stop(self) -> None:
        self.told.append("stopped")

    # the callers
    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.told.append("callers gone")

    # the watch
    async def look(self) -> Any:
        self.told.append("looked")
        if self.struck is not None and self.told.count("asked") > 1:
            return self.struck
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    async def close(self) -> None:
        self.told.append("closed")


def play(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Observed:
    for name in ("_BEFORE_S", "_AFTER_S", "_POLL_S", "LOOK_EVERY_S"):
        monkeypatch.setattr(scene_module, name, 0.001)
    for name, seconds in (("_HEALTHY_S", 0.01), ("_STRIKE_S", 0.5), ("_END_S", 0.2)):
        monkeypatch.setattr(scene_module, name, seconds)

    def loop(_spec: str, live: dict[str, Any], _log: Any) -> Stage:
        stage.live = LivePhase.model_validate(live)
        return stage

    monkeypatch.setattr(scene_module, "LookLoop", loop)
    one: Any = stage
    return asyncio.run(Scene(stage.cast, one, one, one, logging.getLogger("drill")).play())


def test_a_bad_canary_is_rolled_back_by_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("bad_canary", [None, look(Outcome.CONTINUE), look(Outcome.FAILED)])
    seen = play(stage, monkeypatch)
    assert (seen.ended_by, seen.verdict) == ("judge", "Failed")
    assert stage.told[1:] == [
        "begun m/drill/d/r#1", "canary_50_pct 1 2", "looked", "looked", "looked", "verdict Failed", "polled", "rolled back 2 to 1",
        "closed", "callers gone",
    ]  # fmt: skip


def test_without_a_controller_nobody_looks_until_the_weight_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("dead_controller", [look(Outcome.CONTINUE)])
    seen = play(stage, monkeypatch)
    assert (seen.ended_by, seen.verdict) == ("lease", None)
    told = stage.told
    assert "looked" in told
    assert told[told.index("polled") :] == ["polled"] * 4 + ["rolled back 2 to 1", "closed", "callers gone"]


def test_a_rollback_is_asked_for_until_the_agent_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("dead_agent", [look(Outcome.CONTINUE)], away=3)
    seen = play(stage, monkeypatch)
    assert seen.ended_by == "hand"
    assert "kill_agent" in stage.told
    assert "rolled back 2 to 1" in stage.told
    assert stage.away == 0


def test_a_lease_that_ended_before_the_agent_was_back_is_what_ended_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("dead_agent", [look(Outcome.CONTINUE)], away=3)
    stage.drains, stage.told = True, [*stage.told, "polled", "polled"]
    assert play(stage, monkeypatch).ended_by == "lease"


def test_a_rollback_that_broke_off_half_way_is_still_the_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("bad_canary", [look(Outcome.FAILED)], away=3)
    stage.drains, stage.told = True, [*stage.told, "polled"]
    seen = play(stage, monkeypatch)
    assert (seen.ended_by, stage.told.count("polled")) == ("judge", 2)


def test_an_agent_that_stays_away_is_no_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = play(Stage("dead_agent", [look(Outcome.CONTINUE)], away=10_000), monkeypatch)
    assert (seen.ended_by, seen.rolled_back_s) == (None, None)
    assert "the release was not rolled back" in problems("dead_agent", seen, pass_criteria("dead_agent"))


def test_replicas_are_killed_until_the_release_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("dead_replica", [look(Outcome.CONTINUE)], struck=look(Outcome.FAILED))
    seen = play(stage, monkeypatch)
    assert (seen.ended_by, seen.verdict) == ("judge", "Failed")
    told = stage.told
    assert told.index("kill_replicas flight_delay_drill-2") < told.index("verdict Failed") < told.index("stopped")


def test_a_verdict_that_never_comes_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = play(Stage("bad_canary", [look(Outcome.CONTINUE)]), monkeypatch)
    assert (seen.ended_by, seen.to_zero_s, seen.verdict) == (None, None, None)


def test_a_canary_that_is_lost_before_the_fault_is_no_drill(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("dead_controller", [look(Outcome.INCONCLUSIVE, blind=True)])
    with pytest.raises(RejectedError, match="lost before the fault: so it is"):
        play(stage, monkeypatch)
    assert stage.told[-2:] == ["closed", "callers gone"]
