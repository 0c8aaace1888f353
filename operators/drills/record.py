"""Drills in the ledger, in the chain of the copied model: the start, the result, and the cleaning up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from operators.core.frozen import Frozen
from operators.core.ledger_entry import Entry
from operators.core.rows import DrillCleanedRow, DrillRow, DrillStartedRow
from operators.core.spec_operations import Fault

if TYPE_CHECKING:
    from operators.core.ledger import Ledger


class Drill(Frozen):
    """A drill as the ledger names it: model, copy, fault and run.

    :param drill_id: its id, which never changes
    :param seq: of its row: of two drills that begin at once, the one with the lower number goes on
    """

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
    """Return the drills that are under way, or have left something behind. Pure.

    :param rows: only `drill_started` and `drill_cleaned` count
    """
    rows = list(rows)
    cleaned = {DrillCleanedRow.of(row).drill_id for row in rows if row.kind == DrillCleanedRow.KIND}
    started = [drill_of(row) for row in rows if row.kind == DrillStartedRow.KIND]
    return tuple(drill for drill in started if drill.drill_id not in cleaned)


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
        ended = self._ledger.entries(model, kind=DrillCleanedRow.KIND, key_prefix=prefix)
        drill_id = f"{prefix}{len(ended) + 1}"
        row = DrillStartedRow(drill_id=drill_id, copy_name=copy_name, fault=fault, dag_id=dag_id, run_id=run_id)
        return drill_of(self._ledger.append(model, row, key=f"{drill_id}/started"))

    def unfinished(self) -> tuple[Drill, ...]:
        """Return the drills that are under way, or were killed before they had cleaned up."""
        return unfinished(self._ledger.entries(self._model, kind=(DrillStartedRow.KIND, DrillCleanedRow.KIND)))

    def faults(self) -> list[str]:
        """Return the faults of all drills that had a result, oldest first."""
        return [row.fault for row in self._ledger.rows(DrillRow, self._model)]

    def record(self, drill: Drill, *, passed: bool, problems: Iterable[str], facts: Mapping[str, Any]) -> DrillRow:
        """Write down the result of a drill; the first result stands."""
        row = DrillRow(
            drill_id=drill.drill_id,
            fault=drill.fault,
            copy=drill.copy_name,
            passed=passed,
            problems=tuple(problems),
            **facts,
        )
        return DrillRow.of(self._ledger.append(drill.model, row, key=f"{drill.drill_id}/result"))

    def result(self, drill: Drill) -> DrillRow | None:
        """Return the result of a drill, or None."""
        row = self._ledger.entry(f"{drill.drill_id}/result")
        return DrillRow.of(row) if row else None

    def cleaned(self, drill: Drill, by: str) -> None:
        """Write down that nothing of a drill is left."""
        row = DrillCleanedRow(drill_id=drill.drill_id, by=by)
        self._ledger.append(drill.model, row, key=f"{drill.drill_id}/cleaned")
