"""Drills in the ledger, in the chain of the model that is copied: that one began, what it showed, that all of it is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from operators.core.ledger import Entry, Ledger
from operators.core.spec_operations import Fault

STARTED, RESULT, CLEANED = "drill_started", "drill", "drill_cleaned"


class Drill(BaseModel):
    """A drill as the ledger names it: model, copy, fault and run.

    :param drill_id: names it, for good
    :param seq: of its row: of two that began at once, the lower one goes on
    """

    model_config = ConfigDict(frozen=True)

    drill_id: str
    model: str
    copy_name: str
    fault: Fault
    dag_id: str
    run_id: str
    seq: int


def drill_of(entry: Entry) -> Drill:
    """Read the row that a drill began with."""
    return Drill.model_validate({**entry.payload, "model": entry.model, "seq": entry.seq})


def unfinished(rows: Iterable[Entry]) -> tuple[Drill, ...]:
    """Return the drills that have left something behind, or are under way. Pure.

    :param rows: of the kinds `drill_started` and `drill_cleaned`; others are passed over
    """
    rows = list(rows)
    cleaned = {row.payload["drill_id"] for row in rows if row.kind == CLEANED}
    return tuple(drill_of(row) for row in rows if row.kind == STARTED and row.payload["drill_id"] not in cleaned)


class Drills:
    """Reads and writes the drills.

    :param model: of one model only
    """

    def __init__(self, ledger: Ledger, model: str | None = None) -> None:
        self._ledger = ledger
        self._model = model

    def start(self, model: str, copy_name: str, fault: Fault, *, dag_id: str, run_id: str) -> Drill:
        """Write down that a drill begins. A run that is cleared after its end begins another one."""
        prefix = f"{model}/drill/{dag_id}/{run_id}#"
        ended = [row for row in self._ledger.entries(model, kind=CLEANED, key_prefix=prefix)]
        drill_id = f"{prefix}{len(ended) + 1}"
        said = {"drill_id": drill_id, "copy_name": copy_name, "fault": fault, "dag_id": dag_id, "run_id": run_id}
        return drill_of(self._ledger.append(model, STARTED, said, key=f"{drill_id}/started"))

    def unfinished(self) -> tuple[Drill, ...]:
        """Return the drills that are under way, or were killed before they had cleaned up."""
        return unfinished(self._ledger.entries(self._model, kind=(STARTED, CLEANED)))

    def faults(self) -> list[str]:
        """Return the faults of all drills that had a result, oldest first."""
        return [row.payload["fault"] for row in self._ledger.entries(self._model, kind=RESULT)]

    def record(self, drill: Drill, *, passed: bool, problems: Iterable[str], facts: Mapping[str, Any]) -> Entry:
        """Write down what a drill showed; the first result of a drill stands."""
        said = {
            "drill_id": drill.drill_id,
            "fault": drill.fault,
            "copy": drill.copy_name,
            "passed": passed,
            "problems": list(problems),
            **facts,
        }
        return self._ledger.append(drill.model, RESULT, said, key=f"{drill.drill_id}/result")

    def result(self, drill: Drill) -> dict[str, Any] | None:
        """Return what a drill showed, or None."""
        row = self._ledger.entry(f"{drill.drill_id}/result")
        return row.payload if row else None

    def cleaned(self, drill: Drill, by: str) -> None:
        """Write down that nothing of a drill is left."""
        said = {"drill_id": drill.drill_id, "by": by}
        self._ledger.append(drill.model, CLEANED, said, key=f"{drill.drill_id}/cleaned")
