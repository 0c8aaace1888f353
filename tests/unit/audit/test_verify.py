"""A verdict is made again from its row alone, and one that was changed does not hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operators.audit.verify import again, difference, verify
from operators.core.ledger_schema import Entry
from operators.core.spec_judge import Judge
from operators.judge.digest import judge_digest
from operators.judge.evidence import Arm, Evidence, Judgement, Outcome, Period
from operators.judge.policy import judge


def record(failed: int = 0, *, requests: int = 400, **changes: Any) -> dict[str, Any]:
    policy = Judge()
    arm = Arm(requests=requests, failed=0, slow=0)
    seen = Evidence(
        periods=(Period(weight=0.5, stable=arm, canary=arm.model_copy(update={"failed": failed})),),
    )
    asked = {"elapsed_s": 60.25, "bake_s": 30.0, "min_requests": 100, "harm_weight": 0.5}
    found = judge(policy, seen, **asked)
    made = {
        "step": "canary",
        "policy": policy.model_dump(mode="json", by_alias=True),
        "evidence": seen.model_dump(mode="json"),
        **asked,
        "judgement": found.model_dump(mode="json"),
        "judge": judge_digest(),
        "blind": False,
    }
    return json.loads(json.dumps(made)) | changes  # as it comes back from the ledger


@pytest.mark.parametrize("failed", [0, 3, 40])
def test_what_was_recorded_is_found_again(failed: int) -> None:
    made = record(failed)
    assert difference(made) == ""
    assert isinstance(again(made), Judgement)


def test_the_records_are_of_different_outcomes() -> None:
    assert again(record(40)).outcome is Outcome.FAILED
    assert again(record(0, requests=5000)).outcome is Outcome.SUCCESSFUL


def test_a_verdict_that_was_turned_does_not_hold() -> None:
    made = record(40)
    made["judgement"] = record(0, requests=5000)["judgement"]
    assert "it says Successful; its evidence gives Failed" in difference(made)


def test_numbers_that_were_changed_do_not_hold() -> None:
    made = record(3)
    made["judgement"]["guards"]["failures"]["e"] *= 1.001
    assert "its numbers are not what the evidence gives" in difference(made)


def test_a_blind_verdict_may_only_be_inconclusive() -> None:
    made = record(blind=True)
    made["judgement"]["outcome"] = "Inconclusive"
    assert difference(made) == ""
    made["judgement"]["outcome"] = "Successful"
    assert "nothing could be seen" in difference(made)


@pytest.mark.parametrize("missing", ["policy", "evidence", "elapsed_s"])
def test_a_record_that_lacks_something_is_said_to(missing: str) -> None:
    made = record()
    del made[missing]
    with pytest.raises(ValueError, match=f"cannot be read: KeyError: '{missing}'"):
        difference(made)


OLD: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "old_verdicts.json").read_text())


def test_verdicts_of_an_older_version_still_hold() -> None:
    """Their periods have a weight alone, and their judgements do not say which part of the judge spoke."""
    rows = [
        Entry(
            model="m", seq=n, at=datetime(2026, 1, 1, tzinfo=UTC), kind="verdict", release_id="m/run#1", key=str(n),
            payload=payload, previous_hash="", hash="",
        )
        for n, payload in enumerate(OLD, 1)
    ]  # fmt: skip
    ledger = SimpleNamespace(entries=lambda _: rows, broken_links=lambda _: [], look_numbers=lambda *_: [1])
    report = verify(ledger, "m")  # type: ignore[arg-type]
    assert report.holds
    assert report.verdicts == len(OLD) == 7
    notes = [finding.text for finding in report.findings]
    assert all("was made by another version of the judge" in note for note in notes)
    assert not [note for note in notes if "it says" in note]  # another outcome


@pytest.mark.parametrize("made", [one for one in OLD if not one["blind"]], ids=lambda one: one["step"])
def test_the_numbers_of_an_older_version_are_found_again(made: dict[str, Any]) -> None:
    found = json.loads(again(made).model_dump_json())
    assert found["outcome"] == made["judgement"]["outcome"]
    for name, guard in made["judgement"]["guards"].items():
        assert {**found["guards"][name], "missing": ""} == {**guard, "missing": ""}
