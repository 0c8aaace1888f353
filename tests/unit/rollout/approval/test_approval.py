"""A person decides, and the canary is watched meanwhile."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.rollout.approval import operators as approval_operators
from operators.rollout.approval import triggers as approval_triggers
from operators.rollout.approval.operators import GO_ON, ROLL_BACK, ApproveOperator
from tests.support.step_world import RELEASE, StepWorld, bad, canary, deferred, end, event_of, good, spec_with
from tests.support.tasks import context

_HITL = "airflow.providers.standard.triggers.hitl"
TASK = "ask_at_5_pct"


def approve(mode: str = "ask", outcome: str = "Inconclusive", **approval: Any) -> ApproveOperator:
    spec = spec_with(approval={"mode": mode, **approval})
    verdict = {"step": "canary_5_pct", "outcome": outcome, "reason": "7 canary units | few"}
    return ApproveOperator(task_id=TASK, spec=spec, release=RELEASE, verdict=verdict, index=0)


@pytest.fixture(autouse=True)
def at_5_pct(world: StepWorld) -> None:
    deferred(canary(spec_with()), context())


@pytest.fixture(autouse=True)
def form(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(approval_operators, "upsert_hitl_detail", lambda **form: shown.append(form))
    return shown


def given() -> dict[str, Any]:
    return context(task_instance=SimpleNamespace(id="0189b2a6-0000-7000-8000-000000000000"))


def test_a_decided_step_asks_nobody() -> None:
    with pytest.raises(AirflowSkipException):
        approve(outcome="Successful").execute(given())


def test_the_owner_is_asked_with_the_evidence(form: list[dict[str, Any]]) -> None:
    step = deferred(approve(), given())
    assert form[0]["assigned_users"] == [{"id": "flight-operations", "name": "flight-operations"}]
    assert "7 canary units | few" in form[0]["subject"]
    assert form[0]["defaults"] == [ROLL_BACK]
    assert step.trigger.serialize()[0].endswith("approval.triggers.ApprovalTrigger")


def test_anyone(form: list[dict[str, Any]]) -> None:
    deferred(approve(approvers=["anyone"]), given())
    assert form[0]["assigned_users"] is None


@pytest.mark.parametrize("chosen", [GO_ON, ROLL_BACK])
def test_the_answer_is_kept_and_obeyed(world: StepWorld, chosen: str) -> None:
    operator = approve()
    step = deferred(operator, given())
    event = {
        "chosen_options": [chosen],
        "params_input": {},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": "eve", "name": "eve"},
    }
    if chosen == GO_ON:
        assert operator.answered(given(), event, **(step.kwargs or {}))["by"] == "eve"
    else:
        with pytest.raises(AirflowFailException, match="eve decided to roll back"):
            operator.answered(given(), event, **(step.kwargs or {}))
    row = world.moves.approval(RELEASE["release_id"], TASK)
    assert row is not None
    assert (row.answer, row.by) == ("go_on" if chosen == GO_ON else "roll_back", "eve")


def test_an_answer_that_was_given_stands(world: StepWorld, form: list[dict[str, Any]]) -> None:
    world.moves.approve(RELEASE["release_id"], TASK, answer="go_on", by="eve")
    assert approve().execute(given()) == {"answer": "go_on", "by": "eve"}
    assert not form


def test_a_form_is_shown_once_in_a_release(form: list[dict[str, Any]]) -> None:
    task = given()
    deferred(approve(), task)
    # Answered too early for Airflow, it is tried again; to show the form again would throw the answer away.
    step = deferred(approve(), task)
    assert step.method_name == "answered"
    assert len(form) == 1
    again = approve()
    again.release = {**RELEASE, "release_id": "small/run#2"}
    deferred(again, task)
    assert len(form) == 2


def test_an_answer_waits_until_airflow_has_heard_of_the_deferral(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert event_of(deferred(approve(), given()))["chosen_options"] == [GO_ON]
    assert 6 < max(slept) <= 7


def test_a_canary_that_turns_bad_meanwhile_waits_for_nobody(world: StepWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SimpleNamespace(response_received=False, chosen_options=None)
    monkeypatch.setattr(f"{_HITL}.get_hitl_detail_content_detail", lambda **_: asked)
    world.sees(good(units=40), bad())
    operator = approve()
    with pytest.raises(AirflowFailException, match="Failed while a person was asked"):
        end(operator, deferred(operator, given()))
    assert world.route.canary is None
