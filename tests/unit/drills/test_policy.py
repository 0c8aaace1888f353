"""The spec of a copy, what a drill must keep to, and the turns that the faults take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from operators.core.errors import RejectedError
from operators.core.spec import PredictionSpec
from operators.core.spec_operations import FAULTS, Drill
from operators.drills.policy import Observed, copy_name, copy_spec, longest_ago, pass_criteria, problems
from tests.support.specs import small_spec

SPEC = small_spec(name="flight_delay")
GOOD = Observed(
    requests=200, failed_requests=0, canary_requests=60, canary_before=40, fallbacks=20, stable_after=50, to_zero_s=1.0, rolled_back_s=1.2,
    ended_by="judge", verdict="Failed",
)  # fmt: skip


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
