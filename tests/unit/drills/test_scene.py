"""The drill itself, with a canary, an agent and callers that do as they are told."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from operators.core.errors import RejectedError, ServiceError
from operators.core.rows import VerdictRow
from operators.core.traffic import Counters
from operators.drills import scene as scene_module
from operators.drills.copies import Cast, Original
from operators.drills.policy import Observed, copy_spec, pass_criteria, problems
from operators.drills.scene import Scene
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Look
from operators.traffic.limits import AnswerLimits
from tests.support.specs import small_spec

SPEC = small_spec(name="flight_delay")


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

    def record_verdict(self, _release: str, row: VerdictRow) -> None:
        self.told.append(f"verdict {row.outcome}")

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
