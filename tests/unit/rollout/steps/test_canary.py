"""The steps of a canary: from the weight, through the looks, to the verdict."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.core.errors import ServiceError
from operators.core.traffic import Row
from operators.judge.evidence import Outcome
from operators.rollout.steps import triggers as step_triggers
from operators.rollout.steps.looker import Look
from operators.rollout.steps.operators import WatchOperator
from tests.support.readings import counted
from tests.support.step_world import (
    MODEL,
    RELEASE,
    StepWorld,
    bad,
    canary,
    deferred,
    end,
    event_of,
    good,
    spec_with,
)
from tests.support.tasks import context

FAILED = ("canary_5_pct", "Failed", False)
AUDIT = {"begin": "2020-01-01T00:00+00:00", "end": "2120-01-01T00:00+00:00", "reason": "audit"}


def test_a_step_gives_the_canary_its_share(world: StepWorld) -> None:
    deferred(canary(spec_with()), context())
    route = world.route
    assert (route.stable, route.canary, route.weight_bp) == ("1", "2", 500)
    assert route.holder == RELEASE["release_id"]


def test_a_bad_canary_fails_its_step_and_the_verdict_is_kept(world: StepWorld) -> None:
    world.sees(bad())
    operator = canary(spec_with())
    with pytest.raises(AirflowFailException, match=r"Failed: failures: .*20 of 20"):
        end(operator, deferred(operator, context()))
    assert world.verdicts() == [FAILED]  # written by the trigger and by the task: one row
    (look,) = world.ledger.looks(RELEASE["release_id"])
    (verdict,) = world.moves.verdicts(RELEASE["release_id"])
    assert look.evidence == verdict.evidence


def test_a_bad_canary_loses_its_traffic_before_any_task_hears_of_it(world: StepWorld) -> None:
    world.sees(bad())
    event = event_of(deferred(canary(spec_with()), context()))
    assert Look.of_event(event).outcome is Outcome.FAILED
    assert world.kinds()[-2:] == ["verdict", "weight_set"]
    assert (world.route.stable, world.route.canary) == ("1", None)


def test_overwhelming_evidence_reaches_its_task(world: StepWorld) -> None:
    """Airflow's database keeps JSON's numbers as decimals, and tasks are sent whole numbers of 64 bits."""
    row = Row(version="2", arm="canary", weight_bp=500, requests=2000, units=2000, failed_units=2000, failed_first=2000)
    world.sees(counted(bad().rows[0], row))
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


def test_a_verdict_stands_where_the_traffic_cannot_be_moved_at_once(world: StepWorld) -> None:
    world.sees(bad())
    operator = canary(spec_with())
    step = deferred(operator, context())
    world.agent.away = True
    with pytest.raises(AirflowFailException, match="Failed"):
        end(operator, step)
    assert world.verdicts() == [FAILED]
    assert world.route.canary == "2"


def test_a_good_canary_goes_on(world: StepWorld) -> None:
    world.sees(good())
    operator = canary(spec_with())
    assert end(operator, deferred(operator, context()))["outcome"] == "Successful"
    assert world.calls.renewals
    assert world.route.weight_now_bp == 500


def test_the_first_release_compares_with_nothing(world: StepWorld) -> None:
    with pytest.raises(AirflowSkipException):
        canary(spec_with(), stable=None).execute(context())
    assert world.route.canary is None


def test_a_canary_whose_lease_has_ended_is_not_a_success(world: StepWorld) -> None:
    operator = canary(spec_with(approval={"mode": "ask"}))  # and nobody is asked about a canary that has no traffic
    step = deferred(operator, context())
    world.agent.lose_lease()
    with pytest.raises(AirflowFailException, match="Inconclusive: the canary lost its traffic"):
        end(operator, step)
    assert world.verdicts() == [("canary_5_pct", "Inconclusive", True)]


def test_an_agent_that_is_away_for_a_moment_costs_nothing(world: StepWorld) -> None:
    world.sees(ServiceError("away"), ServiceError("away"), good())
    operator = canary(spec_with())
    assert end(operator, deferred(operator, context()))["outcome"] == "Successful"


def test_an_agent_that_stays_away_is_inconclusive(world: StepWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_triggers, "LONGEST_SILENCE_S", 0.0)
    world.sees(ServiceError("away"))
    operator = canary(spec_with())
    with pytest.raises(AirflowFailException, match="no evidence could be read"):
        end(operator, deferred(operator, context()))


def test_the_first_step_begins_after_the_freeze(world: StepWorld) -> None:
    step = deferred(canary(spec_with(freeze=[AUDIT])), context())
    assert step.method_name == "thaw"
    assert world.route.canary is None
    deferred(canary(spec_with()), context(), "thaw", event={})
    assert world.route.weight_bp == 500


def test_the_canary_is_watched_until_the_freeze_ends(world: StepWorld) -> None:
    deferred(canary(spec_with()), context())
    second = canary(spec_with(freeze=[AUDIT]), index=1)
    step = deferred(second, context())
    assert step.trigger.watched["phase"]["weights_bp"] == [500]  # the weight before
    world.sees(bad())
    with pytest.raises(AirflowFailException, match="Failed"):
        end(second, step)
    assert world.steps() == ["begin", "canary_5_pct", "rollback"]


def test_a_step_goes_on_with_what_its_kind_of_phase_has_shown(world: StepWorld) -> None:
    world.sees(bad())
    with pytest.raises(AirflowFailException):
        end(canary(spec_with()), deferred(canary(spec_with()), context()))
    (again,) = deferred(canary(spec_with()), context()).trigger.watched["earlier"]
    assert (again["kind"], again["weight_bp"], again["canary"]["failed"]) == ("canary", 500, 20)
    spec = spec_with(watch="60s")
    world.moves.promote(RELEASE["release_id"], "2", "1", spec)
    watch = WatchOperator(task_id="watch", spec=spec, release=RELEASE)
    assert deferred(watch, context()).trigger.watched["earlier"] == []
    assert world.ledger.holder(MODEL) == RELEASE["release_id"]
