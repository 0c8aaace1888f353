"""The tasks of a release with traffic, against an agent and a controller that remember what they were asked."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from operators.core.errors import ConfigurationError, RejectedError, ServiceError, ServiceRefusedError
from operators.core.rows import ApprovalRow
from operators.core.spec import PredictionSpec
from operators.core.traffic import Counters, Route, Row
from operators.judge.evidence import Evidence, Outcome
from operators.judge.phases import canary_phase
from operators.judge.tally import Tally
from operators.rollout import operators as rollout_operators
from operators.rollout.approval import operators as approval_operators
from operators.rollout.approval import triggers as approval_triggers
from operators.rollout.approval.operators import GO_ON, ROLL_BACK, ApproveOperator
from operators.rollout.model_traffic import Move
from operators.rollout.steps import operators as step_operators
from operators.rollout.steps import triggers as step_triggers
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Look, Looker
from operators.rollout.steps.operators import CanaryStepOperator, WatchOperator
from tests.support.phases import live_phase
from tests.support.readings import counted
from tests.support.specs import small_spec
from tests.support.tasks import context

_HITL = "airflow.providers.standard.triggers.hitl"
RELEASE = {
    "release_id": "m/run#1",
    "version": "2",
    "stable": "1",
    "began_at": 1000.0,
    "smoke_keys": [],
    "model_uri": "x",
}


def spec_with(**release: Any) -> PredictionSpec:
    return small_spec(release=release)


def canary_route(stable: str, version: str, weight_bp: int) -> Route:
    return Route(model="m", stable=stable, canary=version, weight_bp=weight_bp, lease_s=60)


class World:
    """Agent and controller in one; `seen` is what the counters say, look after look (the last one for ever)."""

    def __init__(self, *seen: Counters | Exception) -> None:
        self.seen = list(seen) or [counted()]
        self.told: list[tuple[Any, ...]] = []
        self.routes: list[Route] = []
        self.renewals = 0
        self.lease_ended = False
        self.refusal: Exception | None = None
        self.agent = SimpleNamespace(counters=lambda _model: counted())
        self.ledger = SimpleNamespace(looks=self._looks)
        self.traffic = self

    def _looks(self, _release_id: str, *, last: int) -> list[Any]:
        looks = [told[2] for told in self.told if told[0] == "look"]
        return [SimpleNamespace(evidence=look.model_dump(mode="json")) for look in looks[-last:]]

    async def counters(self, _model: str) -> Counters:
        found = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def renew(self, _model: str, _holder: str) -> None:
        if self.lease_ended:
            raise ServiceRefusedError("the lease has ended")
        self.renewals += 1

    def moves_of(self, _release_id: str) -> list[Any]:
        return []

    def set_route(self, release_id: str, step: str, release: Any, **route: Any) -> Move:
        self.routes.append(canary_route(route["stable"], route["version"], route["weight_bp"]))
        return Move(step=step, route=self.routes[-1], at=datetime.fromtimestamp(1000, UTC))

    def watch(self, release_id: str) -> Move:
        return Move(step="promote", route=Route(model="m", stable="2"), at=datetime.fromtimestamp(1000, UTC))

    def end_watch(self, release_id: str, version: str, release: Any) -> None:
        self.told.append(("end_watch", version))

    def approval(self, _release_id: str, step: str) -> ApprovalRow | None:
        given = [told for told in self.told if told[0] == "approval"]
        return ApprovalRow(step=step, answer=given[0][1], by=given[0][2]) if given else None

    def verdicts(self, _release_id: str) -> list[Any]:
        return []

    def record_look(self, release_id: str, step: str, evidence: Evidence) -> None:
        self.told.append(("look", step, evidence))

    def record_verdict(self, release_id: str, step: str, **facts: Any) -> None:
        self.told.append(("verdict", step, facts["judgement"].outcome, facts.get("blind")))

    def take_out(self, release_id: str, version: str, stable: str) -> None:
        if isinstance(self.refusal, Exception):
            raise self.refusal
        self.told.append(("take_out", release_id, version, stable))

    def approve(self, release_id: str, step: str, *, answer: str, by: str) -> None:
        self.told.append(("approval", answer, by))

    async def aclose(self) -> None:
        self.told.append(("closed",))

    def close(self) -> None:
        pass


def bad() -> Counters:
    return counted(
        Row(version="1", arm="stable", weight_bp=500, requests=300, units=300),
        Row(version="2", arm="canary", weight_bp=500, requests=20, units=20, failed_units=20, failed_first=20),
    )


def good(weight_bp: int = 500, units: int = 4000) -> Counters:
    share = weight_bp / 10_000
    return counted(
        Row(version="1", arm="stable", weight_bp=weight_bp, requests=units, units=round(units * (1 - share))),
        Row(version="2", arm="canary", weight_bp=weight_bp, requests=units, units=round(units * share)),
    )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    monkeypatch.setattr(step_operators, "release_moves_of", lambda _model: found)
    monkeypatch.setattr(
        step_triggers,
        "AsyncAgent",
        lambda: SimpleNamespace(counters=found.counters, renew=found.renew, close=found.aclose),
    )
    monkeypatch.setattr("operators.rollout.release_moves.ReleaseMoves", lambda _traffic: found)
    monkeypatch.setattr("operators.rollout.model_traffic.ModelTraffic", lambda _model: found)
    for module in (step_triggers, approval_triggers):
        monkeypatch.setattr(module, "LOOK_EVERY_S", 0.001)
        monkeypatch.setattr(module, "SETTLE_S", 0.0)
    return found


def deferred(operator: Any, given: Any, method: str = "execute", **kwargs: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        getattr(operator, method)(given, **kwargs)
    return caught.value


def event_of(step: TaskDeferred) -> Any:
    _, kept = step.trigger.serialize()
    trigger = type(step.trigger)(**kept)

    async def first() -> Any:
        async for event in trigger.run():
            return event.payload
        raise AssertionError("no event")

    return asyncio.run(asyncio.wait_for(first(), 60))


def end(operator: Any, step: TaskDeferred) -> Any:
    return getattr(operator, step.method_name)(context(), event_of(step), **(step.kwargs or {}))


def canary(spec: PredictionSpec, index: int = 0) -> CanaryStepOperator:
    return CanaryStepOperator(task_id="canary_5_pct", spec=spec, release=RELEASE, index=index)


def test_a_bad_canary_fails_its_step_and_the_verdict_is_kept(world: World) -> None:
    world.seen = [bad()]
    operator = canary(spec_with())
    with pytest.raises(AirflowFailException, match=r"Failed: failures: .*20 of 20"):
        end(operator, deferred(operator, context()))
    assert world.routes == [canary_route("1", "2", 500)]
    assert ("verdict", "canary_5_pct", Outcome.FAILED, False) in world.told
    assert [told[0] for told in world.told][:2] == ["look", "verdict"]


def test_a_bad_canary_loses_its_traffic_before_any_task_hears_of_it(world: World) -> None:
    world.seen = [bad()]
    event = event_of(deferred(canary(spec_with()), context()))
    assert Look.of_event(event).outcome is Outcome.FAILED
    kept, taken = ("verdict", "canary_5_pct", Outcome.FAILED, False), ("take_out", "m/run#1", "2", "1")
    assert world.told.index(kept) < world.told.index(taken)


def test_overwhelming_evidence_reaches_its_task(world: World) -> None:
    """Airflow's database keeps JSON's numbers as decimals, and tasks are sent whole numbers of 64 bits."""
    row = Row(version="2", arm="canary", weight_bp=500, requests=2000, units=2000, failed_units=2000, failed_first=2000)
    world.seen = [counted(bad().rows[0], row)]
    operator = canary(spec_with())
    step = deferred(operator, context())
    event = event_of(step)
    assert max(guard.e for guard in Look.of_event(event).judgement.guards.values()) > 2.0**64
    assert all(abs(n) < 2**63 for n in numbers([event, step.kwargs]))
    with pytest.raises(AirflowFailException, match="2,000 of 2,000"):
        getattr(operator, step.method_name)(context(), event, **(step.kwargs or {}))


def numbers(value: Any) -> list[float]:
    """Return every number in a JSON value."""
    if isinstance(value, dict):
        return numbers(list(value.values()))
    if isinstance(value, list):
        return [n for each in value for n in numbers(each)]
    return [value] if isinstance(value, int | float) else []


def test_a_verdict_stands_where_the_traffic_cannot_be_moved_at_once(world: World) -> None:
    world.seen, world.refusal = [bad()], ServiceError("away")
    operator = canary(spec_with())
    with pytest.raises(AirflowFailException, match="Failed"):
        end(operator, deferred(operator, context()))


def test_a_good_canary_goes_on(world: World) -> None:
    world.seen = [good()]
    operator = canary(spec_with())
    assert end(operator, deferred(operator, context()))["outcome"] == "Successful"
    assert world.renewals


def test_the_first_release_compares_with_nothing(world: World) -> None:
    operator = CanaryStepOperator(task_id="c", spec=spec_with(), release={**RELEASE, "stable": None}, index=0)
    with pytest.raises(AirflowSkipException):
        operator.execute(context())


def test_a_canary_whose_lease_has_ended_is_not_a_success(world: World) -> None:
    world.lease_ended = True
    operator = canary(spec_with(approval={"mode": "ask"}))  # and nobody is asked about a canary that has no traffic
    with pytest.raises(AirflowFailException, match="Inconclusive: the canary lost its traffic"):
        end(operator, deferred(operator, context()))
    assert ("verdict", "canary_5_pct", Outcome.INCONCLUSIVE, True) in world.told


def test_an_agent_that_is_away_for_a_moment_costs_nothing(world: World) -> None:
    world.seen = [ServiceError("away"), ServiceError("away"), good()]
    operator = canary(spec_with())
    assert end(operator, deferred(operator, context()))["outcome"] == "Successful"


def test_an_agent_that_stays_away_is_inconclusive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_triggers, "LONGEST_SILENCE_S", 0.0)
    world.seen = [ServiceError("away")]
    operator = canary(spec_with())
    with pytest.raises(AirflowFailException, match="no evidence could be read"):
        end(operator, deferred(operator, context()))


def test_a_step_begins_after_the_freeze_and_the_canary_is_watched_until_then(world: World) -> None:
    day = {"begin": "2020-01-01T00:00+00:00", "end": "2120-01-01T00:00+00:00", "reason": "audit"}
    first = canary(spec_with(freeze=[day]))
    step = deferred(first, context())
    assert step.method_name == "thaw"
    assert not world.routes
    second = canary(spec_with(freeze=[day]), index=1)
    step = deferred(second, context())
    assert step.trigger.watched["phase"]["weights_bp"] == [500]  # the weight before
    world.seen = [bad()]
    with pytest.raises(AirflowFailException, match="Failed"):
        end(second, step)
    assert not world.routes


def test_after_the_freeze_the_step_begins(world: World) -> None:
    operator = canary(spec_with())
    deferred(operator, context(), "thaw", event={})
    assert len(world.routes) == 1


def test_the_watch_ends_well_unless_harm_is_proven(world: World) -> None:
    operator = WatchOperator(task_id="watch", spec=spec_with(watch="60s"), release=RELEASE)
    assert end(operator, deferred(operator, context()))["outcome"] in {"Continue", "Inconclusive"}
    assert ("end_watch", "2") in world.told
    harm = Row(version="2", arm="stable", weight_bp=100, units=9900, failed_units=4000, failed_first=4000)
    fine = Row(version="1", arm="canary", weight_bp=100, units=100)
    world.told.clear()
    world.seen = [counted(harm, fine)]
    with pytest.raises(AirflowFailException, match="Failed"):
        end(operator, deferred(operator, context()))
    assert ("end_watch", "2") not in world.told


class TestApproval:
    def operator(self, mode: str = "ask", outcome: str = "Inconclusive", **approval: Any) -> ApproveOperator:
        spec = spec_with(approval={"mode": mode, **approval})
        verdict = {"step": "canary_5_pct", "outcome": outcome, "reason": "7 canary units | few"}
        return ApproveOperator(task_id="ask_at_5_pct", spec=spec, release=RELEASE, verdict=verdict, index=0)

    @pytest.fixture(autouse=True)
    def form(self, monkeypatch: pytest.MonkeyPatch, world: World) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = []
        monkeypatch.setattr(approval_operators, "upsert_hitl_detail", lambda **form: shown.append(form))
        return shown

    def given(self) -> dict[str, Any]:
        return context(task_instance=SimpleNamespace(id="0189b2a6-0000-7000-8000-000000000000"))

    def test_a_decided_step_asks_nobody(self) -> None:
        with pytest.raises(AirflowSkipException):
            self.operator(outcome="Successful").execute(self.given())

    def test_the_owner_is_asked_with_the_evidence(self, form: list[dict[str, Any]]) -> None:
        step = deferred(self.operator(), self.given())
        assert form[0]["assigned_users"] == [{"id": "flight-operations", "name": "flight-operations"}]
        assert "7 canary units | few" in form[0]["subject"]
        assert form[0]["defaults"] == [ROLL_BACK]
        assert step.trigger.serialize()[0].endswith("approval.triggers.ApprovalTrigger")

    def test_anyone(self, form: list[dict[str, Any]]) -> None:
        deferred(self.operator(approvers=["anyone"]), self.given())
        assert form[0]["assigned_users"] is None

    @pytest.mark.parametrize("chosen", [GO_ON, ROLL_BACK])
    def test_the_answer_is_kept_and_obeyed(self, world: World, chosen: str) -> None:
        operator = self.operator()
        step = deferred(operator, self.given())
        event = {
            "chosen_options": [chosen],
            "params_input": {},
            "responded_at": datetime.now(UTC),
            "responded_by_user": {"id": "eve", "name": "eve"},
        }
        if chosen == GO_ON:
            assert operator.answered(self.given(), event, **(step.kwargs or {}))["by"] == "eve"
        else:
            with pytest.raises(AirflowFailException, match="eve decided to roll back"):
                operator.answered(self.given(), event, **(step.kwargs or {}))
        assert world.told[-1] == ("approval", "go_on" if chosen == GO_ON else "roll_back", "eve")

    def test_an_answer_that_was_given_stands(self, world: World, form: list[dict[str, Any]]) -> None:
        world.told.append(("approval", "go_on", "eve"))
        assert self.operator().execute(self.given()) == {"answer": "go_on", "by": "eve"}
        assert not form

    def test_a_form_is_shown_once_in_a_release(self, form: list[dict[str, Any]]) -> None:
        given = self.given()
        deferred(self.operator(), given)
        # Answered too early for Airflow, it is tried again; to show the form again would throw the answer away.
        step = deferred(self.operator(), given)
        assert step.method_name == "answered"
        assert len(form) == 1
        again = self.operator()
        again.release = {**RELEASE, "release_id": "m/run#2"}
        deferred(again, given)
        assert len(form) == 2

    def test_an_answer_waits_until_airflow_has_heard_of_the_deferral(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept: list[float] = []
        at_once = SimpleNamespace(
            response_received=True, chosen_options=[GO_ON], params_input={}, responded_at=None, responded_by_user=None
        )
        monkeypatch.setattr(f"{_HITL}.get_hitl_detail_content_detail", lambda **_: at_once)
        monkeypatch.setattr(approval_triggers, "SETTLE_S", 7.0)
        real = asyncio.sleep

        async def sleep(seconds: float, *args: Any) -> None:
            slept.append(seconds)
            await real(0)

        monkeypatch.setattr(approval_triggers.asyncio, "sleep", sleep)
        assert event_of(deferred(self.operator(), self.given()))["chosen_options"] == [GO_ON]
        assert 6 < max(slept) <= 7

    def test_a_canary_that_turns_bad_meanwhile_waits_for_nobody(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = SimpleNamespace(response_received=False, chosen_options=None)
        monkeypatch.setattr(f"{_HITL}.get_hitl_detail_content_detail", lambda **_: asked)
        world.seen = [good(units=40), bad()]
        operator = self.operator()
        with pytest.raises(AirflowFailException, match="Failed while a person was asked"):
            end(operator, deferred(operator, self.given()))


@pytest.mark.parametrize("error", [RejectedError("put aside"), ConfigurationError("no address")])
def test_a_release_that_was_put_aside_does_not_try_again(error: Exception) -> None:
    spec = spec_with(watch="60s", approval={"mode": "manual"})
    tasks = [
        canary(spec),
        WatchOperator(task_id="watch", spec=spec, release=RELEASE),
        ApproveOperator(task_id="approve", spec=spec, release=RELEASE, verdict={}, index=0),
        rollout_operators.BeginReleaseOperator(task_id="begin", spec=spec, version=""),
        rollout_operators.PromoteOperator(task_id="promote", spec=spec, release=RELEASE),
    ]
    for task in tasks:
        decided = task.retry_policy.evaluate(exception=error, try_number=1, max_tries=5, context=None)
        assert decided.action is RetryAction.FAIL
        away = task.retry_policy.evaluate(exception=ServiceError("away"), try_number=1, max_tries=5, context=None)
        assert away.action is RetryAction.DEFAULT
    own = canary(spec).__class__(task_id="own", spec=spec, release=RELEASE, index=0, retry_policy=None)
    assert own.retry_policy is None


@pytest.mark.parametrize("bake_s", [1e9, 1.0])
def test_looks_are_written_when_something_changes_and_ever_more_rarely(bake_s: float) -> None:
    """Also those that say Successful again and again, while a freeze keeps the step waiting."""
    clock, written = [0.0], []
    spec = spec_with()
    world = World()
    units = [0]

    async def counters(_model: str) -> Counters:
        return good(units=units[0])

    phase = canary_phase(spec.release, 0).model_copy(update={"bake_s": bake_s})
    live = live_phase(phase, before=counted())
    looker = Looker(
        live,
        spec.release.judge,
        agent=SimpleNamespace(counters=counters, renew=world.renew),  # type: ignore[arg-type]
        write=written.append,
        clock=lambda: clock[0],
    )

    async def pass_hours() -> None:
        for second in range(0, 3600, 3):
            clock[0] = float(second)
            units[0] += 60 if second < 1800 else 0
            await looker.look()

    asyncio.run(pass_hours())
    assert 100 < len(written) < 400
    assert world.renewals == 240  # every quarter of the lease
    assert written[-1].periods[0].stable.requests == good(units=36_000).rows[0].units


@pytest.mark.parametrize(("answered", "outcome"), [(0, Outcome.CONTINUE), (900, Outcome.FAILED)])
def test_a_moment_in_which_everything_stands_still_is_not_the_canarys(answered: int, outcome: Outcome) -> None:
    """The edge cuts off the canary after half a second, and counts that; stable's answers come later, and count then."""
    clock, spec, world = [0.0], spec_with(), World()

    def row(version: str, arm: str, units: int, failed: int = 0) -> Row:
        counts = {"failures": failed, "failed_units": failed, "failed_first": failed}
        return Row(version=version, arm=arm, weight_bp=500, requests=units, units=units, **counts)

    async def counters(_model: str) -> Counters:
        late = clock[0] > 0.5
        stable = row("1", "stable", 1000 + answered * late)
        canary = row("2", "canary", 50 + 20 * late, 20 * late)
        return counted(stable, canary, in_flight={"1": 380 if clock[0] else 2})

    live = live_phase(canary_phase(spec.release, 0), before=counted(), deadline_s=0.5)
    agent = SimpleNamespace(counters=counters, renew=world.renew)
    looker = Looker(live, spec.release.judge, agent=agent, write=lambda _: None, clock=lambda: clock[0])  # type: ignore[arg-type]

    async def look() -> Outcome:
        found = Outcome.CONTINUE
        for clock[0] in (0.0, 0.25, 0.5, 0.75, 1.0):
            found = (await looker.look()).judgement.outcome
        return found

    assert asyncio.run(look()) is outcome


OLD: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "old_phases.json").read_text())


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


def test_a_step_goes_on_with_what_its_kind_of_phase_has_shown(world: World) -> None:
    world.seen = [bad()]
    with pytest.raises(AirflowFailException):
        end(canary(spec_with()), deferred(canary(spec_with()), context()))
    (again,) = deferred(canary(spec_with()), context()).trigger.watched["earlier"]
    assert (again["kind"], again["weight_bp"], again["canary"]["failed"]) == ("canary", 500, 20)
    watch = WatchOperator(task_id="watch", spec=spec_with(watch="60s"), release=RELEASE)
    assert deferred(watch, context()).trigger.watched["earlier"] == []
