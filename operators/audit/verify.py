"""Make every verdict again from its record, and check the chain that the records are in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from operators.core.ledger import Entry, Ledger
from operators.core.ledger_schema import json_digest
from operators.core.spec_judge import Judge
from operators.judge import policy as judging
from operators.judge.digest import judge_digest
from operators.judge.evidence import Evidence, Judgement, Outcome


class Finding(BaseModel):
    """Something about one row.

    :param wrong: whether the row does not hold; otherwise it only needs saying
    """

    model_config = ConfigDict(frozen=True)

    model: str
    seq: int
    wrong: bool
    text: str


class Report(BaseModel):
    """What is known of one model's rows.

    :param verdicts: how many were made again
    """

    model_config = ConfigDict(frozen=True)

    model: str
    rows: int
    verdicts: int
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        """Whether every row does."""
        return not any(finding.wrong for finding in self.findings)


def again(record: Mapping[str, Any]) -> Judgement:
    """Judge once more what a verdict's row has recorded. Pure.

    :param record: payload of a row of the kind `verdict`
    :raises ValueError: the record is not one that the judge can read
    """
    try:
        # As JSON: the types are strict, and a list is a tuple only there.
        policy = Judge.model_validate_json(json.dumps(record["policy"]))
        evidence = Evidence.model_validate_json(json.dumps(record["evidence"]))
        return judging.judge(
            policy,
            evidence,
            elapsed_s=record["elapsed_s"],
            bake_s=record["bake_s"],
            min_requests=record["min_requests"],
            harm_weight=record["harm_weight"],
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise ValueError(f"the record cannot be read: {type(error).__name__}: {error}") from error


def difference(record: Mapping[str, Any]) -> str:
    """Say how a recorded judgement differs from the one that its evidence gives; empty: not at all.

    :raises ValueError: the record is not one that the judge can read
    """
    if record.get("blind"):
        outcome = record["judgement"]["outcome"]
        allowed = outcome == Outcome.INCONCLUSIVE
        return "" if allowed else f"it says {outcome}, though nothing could be seen"
    found = again(record).model_dump(mode="json")
    said = record["judgement"]
    if json_digest(found) == json_digest(said):
        return ""
    if found["outcome"] != said.get("outcome"):
        return f"it says {said.get('outcome')}; its evidence gives {found['outcome']}: {found['reason']}"
    return f"{found['outcome']} is right, but its reason or its numbers are not what the evidence gives"


def verify(ledger: Ledger, model: str) -> Report:
    """Check all rows of one model."""
    rows = ledger.entries(model)
    findings = [
        Finding(model=model, seq=seq, wrong=True, text="its hash, or its link to the row before, does not hold")
        for seq in ledger.broken_links(model)
    ]
    verdicts = [row for row in rows if row.kind == "verdict"]
    for row in verdicts:
        findings += _verdict(ledger, row)
    findings += _unfounded(rows)
    ordered = tuple(sorted(findings, key=lambda finding: finding.seq))
    return Report(model=model, rows=len(rows), verdicts=len(verdicts), findings=ordered)


def _verdict(ledger: Ledger, row: Entry) -> list[Finding]:
    record = row.payload
    what = f"verdict on {record.get('step')} of {row.release_id}"
    other = record.get("judge") != judge_digest()
    try:
        differs = difference(record)
    except ValueError as error:
        return [Finding(model=row.model, seq=row.seq, wrong=not other, text=f"{what}: {error}")]
    found = []
    if other:
        now = f"by today's, {differs}" if differs else "today's says the same"
        text = f"{what} was made by another version of the judge; {now}"
        found.append(Finding(model=row.model, seq=row.seq, wrong=False, text=text))
    elif differs:
        found.append(Finding(model=row.model, seq=row.seq, wrong=True, text=f"{what}: {differs}"))
    if not record.get("blind") and not ledger.look_numbers(str(row.release_id), record["step"], record["evidence"]):
        text = f"{what}: no look was recorded that saw its evidence"
        found.append(Finding(model=row.model, seq=row.seq, wrong=False, text=text))
    return found


def _unfounded(rows: Iterable[Entry]) -> list[Finding]:
    """Find promotions over another version for which neither the judge nor a person has spoken."""
    spoken: set[str | None] = set()
    found = []
    for row in rows:
        yes = row.kind == "verdict" and row.payload["judgement"]["outcome"] == Outcome.SUCCESSFUL
        if yes or (row.kind == "approval" and row.payload["answer"] == "go_on"):
            spoken.add(row.release_id)
        if row.kind == "promoted" and row.payload["previous"] is not None and row.release_id not in spoken:
            text = f"{row.release_id} promoted version {row.payload['version']} without a success or an approval"
            found.append(Finding(model=row.model, seq=row.seq, wrong=False, text=text))
    return found
