"""A verdict is made again from its row alone, and one that was changed does not hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operators.audit.verify import again, difference, verify
from operators.core.ledger import Ledger
from operators.core.ledger_entry import Entry
from operators.core.rows import VerdictRow
from operators.core.spec_judge import Judge
from operators.judge.digest import judge_digest
from operators.judge.evidence import Arm, Evidence, Judgement, Outcome, Period
from operators.judge.policy import judge


def record(failed: int = 0, *, requests: int = 400, **changes: Any) -> VerdictRow:
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
    return VerdictRow.model_validate(json.loads(json.dumps(made)) | changes)  # as it comes back from the ledger


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
    made.judgement.update(record(0, requests=5000).judgement)
    assert "its evidence gives Failed" in difference(made)


def test_numbers_that_were_changed_do_not_hold() -> None:
    made = record(3)
    made.judgement["guards"]["failures"]["e"] *= 1.001
    assert "its numbers are not what the evidence gives" in difference(made)


def test_a_blind_verdict_may_only_be_inconclusive() -> None:
    made = record(blind=True)
    made.judgement["outcome"] = "Inconclusive"
    assert difference(made) == ""
    made.judgement["outcome"] = "Successful"
    assert "nothing could be measured" in difference(made)


@pytest.mark.parametrize("missing", ["policy", "evidence", "elapsed_s"])
def test_a_record_that_lacks_something_is_named(missing: str) -> None:
    payload = record().payload()
    del payload[missing]
    report = verify(ledger_of(payload), "m")
    assert not report.holds
    assert f"cannot be read: {missing}" in report.remarks[0].text


def ledger_of(*payloads: dict[str, Any]) -> Ledger:
    rows = [
        Entry(
            model="m", seq=n, at=datetime(2026, 1, 1, tzinfo=UTC), kind="verdict", release_id="m/run#1", key=str(n),
            payload=payload, previous_hash="", hash="",
        )
        for n, payload in enumerate(payloads, 1)
    ]  # fmt: skip
    fake: Any = SimpleNamespace(entries=lambda _: rows, broken_links=lambda _: [], look_numbers=lambda *_: [1])
    return fake


OLD: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "old_verdicts.json").read_text())


def test_verdicts_of_an_older_version_still_hold() -> None:
    """Their periods have a weight alone, and their judgements do not say which part of the judge spoke."""
    report = verify(ledger_of(*OLD), "m")
    assert report.holds
    assert report.verdicts == len(OLD) == 7
    notes = [remark.text for remark in report.remarks]
    assert all("was made by another version of the judge" in note for note in notes)
    assert not [note for note in notes if "its evidence gives" in note]  # another outcome


@pytest.mark.parametrize("made", [one for one in OLD if not one["blind"]], ids=lambda one: one["step"])
def test_the_numbers_of_an_older_version_are_found_again(made: dict[str, Any]) -> None:
    found = json.loads(again(VerdictRow.model_validate(made)).model_dump_json())
    assert found["outcome"] == made["judgement"]["outcome"]
    for name, guard in made["judgement"]["guards"].items():
        assert {**found["guards"][name], "missing": ""} == {**guard, "missing": ""}
