"""Errors of pydantic in words: where, what, and what was probably meant."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from operators.core.explain_error import explain, suggestion


class Step(BaseModel):
    model_config = ConfigDict(extra="forbid")
    weight: float = Field(le=1, alias="weight_pct")


class Plan(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    steps: tuple[Step, ...] = Field(default=(), min_length=1)
    last: Step | None = None


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "name: is missing"),
        ({"name": 1}, "name: should be a valid string; got 1"),
        ({"name": {}}, "name: should be a valid string; got dict"),
        ({"name": "x", "nmae": 1}, "nmae: unknown key; did you mean 'name'?"),
        ({"name": "x", "zzz": 1}, "zzz: unknown key; known here: name, steps, last"),
        ({"name": "x", "steps": [{"weight_pct": 2}]}, "steps.0.weight_pct: should be less than or equal to 1; got 2"),
        ({"name": "x", "last": {"weight_pct": 1, "wait": 1}}, "last.wait: unknown key; known here: weight_pct"),
        ({"name": "x", "steps": []}, "steps: Tuple should have at least 1 item after validation, not 0; got list"),
    ],
)
def test_each_problem_says_where_what_and_what_was_meant(document: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate(document)
    assert words in explain(caught.value, Plan)


def test_a_suggestion_or_what_there_is() -> None:
    assert suggestion("cnary", ["stable", "canary"]) == "did you mean 'canary'?"
    assert suggestion("x", ["stable", "canary"]) == "known here: stable, canary"
    assert suggestion("x", ["stable"], otherwise="nothing is like it") == "nothing is like it"
