"""Looks at a phase: when they are written, when they wait, and those that an older version has left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from operators.core.spec_judge import Judge
from operators.core.traffic import Counters, Row
from operators.judge.evidence import Evidence, Outcome
from operators.judge.phases import canary_phase
from operators.judge.tally import Tally
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Look, Looker
from operators.traffic.limits import USUAL
from operators.traffic.routes import canary
from tests.support.phases import live_phase
from tests.support.readings import counted
from tests.support.release_world import FakeAgent, FakeAsyncAgent
from tests.support.specs import small_spec
from tests.support.step_world import good

OLD: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "old_phases.json").read_text())
SPEC = small_spec()


class Watched:
    """A looker at a phase, with a clock that stands until it is moved."""

    def __init__(self, live: LivePhase, policy: Judge, counters: Callable[[float], Counters]) -> None:
        agent = FakeAgent(live.stable, live.canary)
        agent.set_route(
            canary(
                live.model, SPEC.release, stable="1", version="2", weight_bp=500, limits=USUAL, holder=live.release_id
            )
        )
        self.calls = FakeAsyncAgent(agent)
        self.written: list[Evidence] = []
        self._counters = counters
        self._now = 0.0
        self._looker = Looker(live, policy, agent=self.calls, write=self.written.append, clock=lambda: self._now)

    async def look(self, now: float) -> Look:
        self._now = now
        self.calls.readings = [self._counters(now)]
        return await self._looker.look()


@pytest.mark.parametrize("bake_s", [1e9, 1.0])
def test_looks_are_written_when_something_changes_and_ever_more_rarely(bake_s: float) -> None:
    """Also those that say Successful again and again, while a freeze keeps the step waiting."""
    phase = canary_phase(SPEC.release, 0).model_copy(update={"bake_s": bake_s})
    watched = Watched(
        live_phase(phase, before=counted()),
        SPEC.release.judge,
        lambda now: good(units=20 * min(int(now) + 3, 1800)),
    )

    async def pass_hours() -> None:
        for second in range(0, 3600, 3):
            await watched.look(float(second))

    asyncio.run(pass_hours())
    assert 100 < len(watched.written) < 400
    assert watched.calls.renewals == 240  # every quarter of the lease
    assert watched.written[-1].periods[0].stable.requests == good(units=36_000).rows[0].units


@pytest.mark.parametrize(("answered", "outcome"), [(0, Outcome.CONTINUE), (900, Outcome.FAILED)])
def test_a_moment_in_which_everything_stands_still_is_not_the_canarys(answered: int, outcome: Outcome) -> None:
    """The edge cuts off the canary after half a second, and counts that; stable's answers come later, and count then."""

    def row(version: str, arm: str, units: int, failed: int = 0) -> Row:
        counts = {"failures": failed, "failed_units": failed, "failed_first": failed}
        return Row(version=version, arm=arm, weight_bp=500, requests=units, units=units, **counts)

    def counters(now: float) -> Counters:
        late = now > 0.5
        stable = row("1", "stable", 1000 + answered * late)
        return counted(stable, row("2", "canary", 50 + 20 * late, 20 * late), in_flight={"1": 380 if now else 2})

    live = live_phase(canary_phase(SPEC.release, 0), before=counted(), deadline_s=0.5)
    watched = Watched(live, SPEC.release.judge, counters)

    async def look() -> Outcome:
        return [await watched.look(now) for now in (0.0, 0.25, 0.5, 0.75, 1.0)][-1].outcome

    assert asyncio.run(look()) is outcome


@pytest.mark.parametrize("old", OLD, ids=lambda old: old["watched"]["step"])
def test_what_an_older_version_has_deferred_goes_on(old: dict[str, Any]) -> None:
    """A phase and an event of it that are in Airflow's database while Taxiway is updated."""
    live, look = LivePhase.model_validate_json(json.dumps(old["watched"])), Look.of_event(old["event"])
    kind = {"control": "watch"}.get(old["watched"]["kind"], old["watched"]["kind"])
    assert live.phase.kind == kind
    assert (live.began_at, live.phase.bake_s, live.lease_s) == (1000.0, old["watched"]["bake_s"], 60.0)
    assert look.outcome == json.loads(old["event"]["look"])["judgement"]["outcome"]
    assert look.blind == old["event"]["blind"]
    assert Look.of_event(look.event()) == look
    # What it had shown before is added to, and nothing is counted twice.
    periods = live.periods(Tally.begin(live.before))
    assert [period.weight_bp for period in periods] == list(live.phase.weights_bp)
    assert sum(period.canary.requests for period in periods) == sum(
        period["canary"]["requests"] for period in old["watched"]["earlier"]
    )
