"""Every kind of row: read as it was written before rows had types, and written with the same hash."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from operators.core.ledger_entry import Entry, json_digest
from operators.core.row_text import in_words
from operators.core.rows import (
    ApprovalRow,
    EdgeRow,
    PromotedRow,
    ReleaseStartedRow,
    Row,
    VerdictRow,
    WeightSetRow,
    read,
)
from operators.core.traffic import Route

# Each was written by the code of its time. A row of a new kind, or with a new field, is added; none is ever changed.
OLD: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "old_rows.json").read_text())


def entry(kind: str, payload: dict[str, Any]) -> Entry:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    return Entry(
        model="m", seq=1, at=at, kind=kind, release_id=None, key="k", payload=payload, previous_hash="", hash=""
    )


@pytest.mark.parametrize("old", OLD, ids=lambda old: old["kind"])
def test_an_old_row_is_read_and_keeps_its_hash(old: dict[str, Any]) -> None:
    row = read(entry(old["kind"], old["payload"]))
    assert old["kind"] == row.KIND
    assert row.payload() == old["payload"]
    assert json_digest(row.payload()) == old["digest"]
    assert type(row).model_validate(row.payload()) == row


@pytest.mark.parametrize("old", OLD, ids=lambda old: old["kind"])
def test_what_a_newer_version_adds_is_kept(old: dict[str, Any]) -> None:
    more = {**old["payload"], "added_later": {"a": [1, 2.0]}}
    row = read(entry(old["kind"], more))
    assert old["kind"] == row.KIND
    assert json_digest(row.payload()) == json_digest(more)


@pytest.mark.parametrize(
    "old", [old for old in OLD if old["kind"] == "weight_set"], ids=lambda old: old["payload"]["step"]
)
def test_a_route_is_written_as_it_was(old: dict[str, Any]) -> None:
    route = Route.recorded("m", old["payload"])
    row = WeightSetRow(step=old["payload"]["step"], **route.model_dump(mode="json", exclude={"model"}))
    assert json_digest(row.payload()) == old["digest"]


def test_every_kind_has_an_old_row() -> None:
    assert {kind.KIND for kind in Row.__subclasses__() if kind.__module__ == Row.__module__} == {
        old["kind"] for old in OLD
    }


@pytest.mark.parametrize(
    ("kind", "payload"),
    [("of_next_year", {"version": "3", "why": "new", "other": [1]}), ("promoted", {"version": {"digest": "abc"}})],
)
def test_what_cannot_be_read_is_a_plain_row(kind: str, payload: dict[str, Any]) -> None:
    row = read(entry(kind, payload))
    assert type(row) is Row
    assert row.payload() == payload
    assert in_words(row).startswith("version ")


def test_an_int_stays_an_int() -> None:
    payload = {"step": "s", "policy": {}, "evidence": {}, "elapsed_s": 60, "bake_s": 0, "judgement": {}}
    assert json_digest(VerdictRow.model_validate(payload).payload()) == json_digest(payload)


@pytest.mark.parametrize("old", OLD, ids=lambda old: old["kind"])
def test_every_row_has_words(old: dict[str, Any]) -> None:
    text = in_words(read(entry(old["kind"], old["payload"])))
    assert text
    assert "None" not in text


def test_words() -> None:
    judgement = {"outcome": "Failed", "reason": "too slow"}
    verdict = VerdictRow(step="canary", policy={}, evidence={}, elapsed_s=1.0, judgement=judgement)
    rows: dict[str, Row] = {
        "canary: Failed: too slow": verdict,
        "approve: ada decided to roll back": ApprovalRow(step="approve", answer="roll_back", by="ada"),
        "version 2 replaced version 1": PromotedRow(version="2", previous="1"),
        "version 1 replaced nothing": PromotedRow(version="1"),
        "return to version 1, by ada: bad": ReleaseStartedRow(kind="return", version="1", by="ada", reason="bad"),
        "canary: version 1 answers; canary 2 has 5 %": WeightSetRow(
            step="canary", stable="1", canary="2", weight_bp=500
        ),
        "lease expired": EdgeRow(at=1.0, kind="lease_expired"),
    }
    assert {in_words(row): row for row in rows.values()} == rows
