"""The ledger in memory: what a release asks of it, without PostgreSQL and without the chain's locks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from typing_extensions import override

from operators.core.errors import BusyError, RejectedError
from operators.core.ledger import Ledger
from operators.core.ledger_entry import Entry, LookEntry, entry_hash, json_digest
from operators.core.rows import AbandonedRow, ReleaseStartedRow, Row


class MemoryLedger(Ledger):
    """A `Ledger` in mypy's eyes, so that a method that gets another name or signature there is an error here.

    :param at: the time of every row
    """

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.kept: list[Entry] = []
        self.seen: list[LookEntry] = []
        self.holders: dict[str, str | None] = {}

    @override
    def append(self, model: str, row: Row, *, key: str, release_id: str | None = None) -> Entry:
        if release_id is not None:
            self._must_hold(model, release_id)
        return self._keep(model, row, key, release_id)

    @override
    def claim(self, model: str, release_id: str, row: ReleaseStartedRow, *, supersede: bool = True) -> None:
        if self.end(release_id) is not None:
            raise RejectedError(f"release {release_id} has ended")
        holder = self.holder(model)
        if holder not in (None, release_id):
            if not supersede:
                raise BusyError(model, str(holder))
            self._keep(model, AbandonedRow(by=release_id), f"{holder}/end", holder)
        self.holders[model] = release_id
        self._keep(model, row, f"{release_id}/started", release_id)

    @override
    def finish(self, model: str, release_id: str, row: Row) -> Entry:
        known = self.end(release_id)
        if known is not None and known.kind == row.KIND:
            return known
        self._must_hold(model, release_id)
        self.holders[model] = None
        return self._keep(model, row, f"{release_id}/end", release_id)

    @override
    @contextmanager
    def holding(self, model: str, release_id: str) -> Iterator[None]:
        self._must_hold(model, release_id)
        yield

    @override
    def holder(self, model: str) -> str | None:
        return self.holders.get(model)

    @override
    def entries(
        self,
        model: str | None = None,
        *,
        release_id: str | None = None,
        kind: str | Sequence[str] | None = None,
        key_prefix: str = "",
        last: int | None = None,
    ) -> list[Entry]:
        kinds = [kind] if isinstance(kind, str) else kind
        entries = [
            entry
            for entry in self.kept
            if model in (None, entry.model)
            and release_id in (None, entry.release_id)
            and (kinds is None or entry.kind in kinds)
            and entry.key.startswith(key_prefix)
        ]
        return entries if last is None else entries[-last:]

    @override
    def entry(self, key: str) -> Entry | None:
        return next((entry for entry in self.kept if entry.key == key), None)

    @override
    def record_look(self, model: str, release_id: str, step: str, evidence: Mapping[str, Any]) -> int:
        number = len(self.looks(release_id, step)) + 1
        fields = {"model": model, "release_id": release_id, "step": step, "n": number, "at": self.at}
        self.seen.append(LookEntry(**fields, evidence=dict(evidence), digest=json_digest(evidence)))
        return number

    @override
    def looks(self, release_id: str, step: str | None = None, *, last: int | None = None) -> list[LookEntry]:
        looks = [look for look in self.seen if look.release_id == release_id and step in (None, look.step)]
        return looks if last is None else looks[-last:]

    @override
    def close(self) -> None: ...

    def _must_hold(self, model: str, release_id: str) -> None:
        if self.holder(model) != release_id:
            raise RejectedError(f"release {release_id} no longer holds {model}")

    def _keep(self, model: str, row: Row, key: str, release_id: str | None) -> Entry:
        if (known := self.entry(key)) is not None:
            return known
        before = [entry for entry in self.kept if entry.model == model]
        values: dict[str, Any] = {
            "model": model,
            "seq": len(before) + 1,
            "at": self.at,
            "kind": row.KIND,
            "release_id": release_id,
            "key": key,
            "payload": row.payload(),
            "previous_hash": before[-1].hash if before else "",
        }
        self.kept.append(Entry(**values, hash=entry_hash(values)))
        return self.kept[-1]
