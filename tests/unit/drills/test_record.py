"""Drills in the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from operators.core.ledger_entry import Entry
from operators.drills.record import unfinished


def row(kind: str, drill_id: str, seq: int, **more: Any) -> Entry:
    facts = {"drill_id": drill_id, "copy_name": "m_drill", "fault": "bad_canary", "dag_id": "drill", "run_id": drill_id}
    return Entry(
        model="m", seq=seq, at=datetime.now(UTC), kind=kind, release_id=None, key=f"{drill_id}/{kind}",
        payload={**facts, **more}, previous_hash="", hash="",
    )  # fmt: skip


def test_a_drill_is_unfinished_until_it_is_cleaned_up() -> None:
    rows = [
        row("drill_started", "a", 1),
        row("drill_started", "b", 2),
        row("drill", "a", 3),
        row("drill_cleaned", "a", 4),
    ]
    assert [(drill.drill_id, drill.seq) for drill in unfinished(rows)] == [("b", 2)]
