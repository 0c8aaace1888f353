"""Judge every verdict again from its row, and check the chain of hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import ValidationError

from operators.core.frozen import Frozen
from operators.core.ledger import Ledger
from operators.core.ledger_entry import Entry, json_digest
from operators.core.rows import ApprovalRow, PromotedRow, VerdictRow, read
from operators.core.spec_judge import Judge
from operators.judge.digest import judge_digest
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.judge.policy import judge


class Remark(Frozen):
    """A remark on one row.

    :param wrong: whether the row was changed, or the judge does not agree with it; else it is a note
    """

    model: str
    seq: int
    wrong: bool
    text: str


class Verification(Frozen):
    """The remarks on one model's rows.

    :param verdicts: number of verdicts that were judged again
    """

    model: str
    rows: int
    verdicts: int
    remarks: tuple[Remark, ...]

    @property
    def holds(self) -> bool:
        """Whether no row is wrong."""
        return not any(remark.wrong for remark in self.remarks)


def again(verdict: VerdictRow) -> Judgement:
    """Judge the evidence of a verdict again. Pure.

    :raises ValueError: the judge cannot read its policy or its evidence
    """
    # As JSON: the types are strict, and a list is a tuple only there.
    return judge(
        Judge.model_validate_json(json.dumps(verdict.policy)),
        Evidence.model_validate_json(json.dumps(verdict.evidence)),
        elapsed_s=verdict.elapsed_s,
        bake_s=verdict.bake_s,
        min_requests=verdict.min_requests,
        harm_weight=verdict.harm_weight,
    )


def difference(verdict: VerdictRow) -> str:
    """Return how a recorded judgement differs from the one that its evidence gives; empty: it does not.

    :raises ValueError: the judge cannot read its policy or its evidence
    """
    recorded = verdict.outcome
    if verdict.blind:
        return "" if recorded == Outcome.INCONCLUSIVE else f"it is {recorded}, although nothing could be measured"
    judgement = again(verdict)
    # An older version did not write `part`, the name of the policy that is recorded, so it is not compared.
    before = {name: value for name, value in verdict.judgement.items() if name != "part"}
    if json_digest(judgement.model_dump(mode="json", exclude={"part"})) == json_digest(before):
        return ""
    if judgement.outcome != recorded:
        return f"it is {recorded}, but its evidence gives {judgement.outcome}: {judgement.reason}"
    return f"{recorded} is right, but its reason or its numbers are not what the evidence gives"


def verify(ledger: Ledger, model: str) -> Verification:
    """Check all rows of one model."""
    rows = ledger.entries(model)
    remarks = [
        Remark(model=model, seq=seq, wrong=True, text="its hash, or its link to the row before, is wrong")
        for seq in ledger.broken_links(model)
    ]
    verdicts = [row for row in rows if row.kind == VerdictRow.KIND]
    for row in verdicts:
        remarks += _verdict(ledger, row)
    remarks += _unfounded(rows)
    ordered = tuple(sorted(remarks, key=lambda remark: remark.seq))
    return Verification(model=model, rows=len(rows), verdicts=len(verdicts), remarks=ordered)


def _verdict(ledger: Ledger, row: Entry) -> list[Remark]:
    other = row.payload.get("judge") != judge_digest()
    what = f"verdict on {row.payload.get('step')} of {row.release_id}"

    def remark(text: str, *, wrong: bool) -> Remark:
        return Remark(model=row.model, seq=row.seq, wrong=wrong, text=f"{what} {text}")

    try:
        verdict = VerdictRow.of(row)
        differs = difference(verdict)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return [remark(f"cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}", wrong=not other)]
    remarks = []
    if other:
        now = f"by today's judge, {differs}" if differs else "today's judge gives the same"
        remarks.append(remark(f"was made by another version of the judge; {now}", wrong=False))
    elif differs:
        remarks.append(remark(f"does not hold: {differs}", wrong=True))
    if not verdict.blind and not ledger.look_numbers(str(row.release_id), verdict.step, verdict.evidence):
        remarks.append(remark("has no recorded look with its evidence", wrong=False))
    return remarks


def _unfounded(entries: Iterable[Entry]) -> list[Remark]:
    """Return a note for each promotion over another version without a Successful verdict or an approval."""
    allowed: set[str | None] = set()
    remarks = []
    for entry in entries:
        row = read(entry)
        yes = isinstance(row, VerdictRow) and row.outcome == Outcome.SUCCESSFUL
        if yes or (isinstance(row, ApprovalRow) and row.answer == "go_on"):
            allowed.add(entry.release_id)
        if isinstance(row, PromotedRow) and row.previous is not None and entry.release_id not in allowed:
            text = f"{entry.release_id} promoted version {row.version} without a Successful verdict or an approval"
            remarks.append(Remark(model=entry.model, seq=entry.seq, wrong=False, text=text))
    return remarks
