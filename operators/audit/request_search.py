"""Find a request in the prediction log, and what ledger and registry know of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from operators.audit.explanation import Answer, Explanation, Origin, asked_at, decisions, in_force, why
from operators.core.duck import open_duckdb
from operators.core.errors import ServiceRefusedError
from operators.core.ledger import Ledger
from operators.core.ledger_entry import Entry
from operators.core.predictions import hours
from operators.core.rows import WeightSetRow
from operators.core.storage import Storage
from operators.core.traffic import Route
from operators.feedback.log import log_keys, query_files
from operators.registry.client import Registry
from operators.registry.server import is_missing
from operators.rollout.reconcile.client import ALL_MODELS

_SHOWN = 5
_LATE = timedelta(hours=1)  # rows of one request are written by several replicas, each when its buffer is full or old
_FOUND = """
    SELECT model, version, first(arm ORDER BY row), first(weight_bp ORDER BY row), first(unit ORDER BY row),
           epoch_us(min(predicted_at)), count(DISTINCT row), list(prediction ORDER BY row)[1:{shown}]
    FROM {{files}}
    WHERE request_id = ? GROUP BY model, version"""


class Explainer:
    """Finds the answers to a request, and what led to each of them.

    :param storage: where the prediction log is
    """

    def __init__(self, ledger: Ledger, registry: Registry, storage: Storage) -> None:
        self._ledger, self._registry, self._storage = ledger, registry, storage

    def explain(
        self, request_id: str, *, begin: datetime, end: datetime, model: str | None = None
    ) -> list[Explanation]:
        """Return every answer to a request, the caller's and copies', each with what led to it. Empty: not found.

        :param begin: of the time that is searched, the newest first
        :param model: whose request it was; None: of any
        """
        names = [model] if model else [name for name in self._ledger.models() if name != ALL_MODELS]
        rows = {name: self._ledger.entries(name) for name in names}
        used = {name: _versions(entries, begin, end) for name, entries in rows.items()}
        answers = self._soon(request_id, used, begin, end) or self._find(request_id, used, begin, end)
        return [self._explain(answer, rows[answer.model]) for answer in answers]

    def _soon(self, request_id: str, used: dict[str, set[str]], begin: datetime, end: datetime) -> list[Answer]:
        """Look only where the id itself says that the request was: two or three hours and not all of them."""
        at = asked_at(request_id)
        if at is None or not begin <= at <= end:
            return []
        return self._find(request_id, used, at, at)

    def _find(self, request_id: str, used: dict[str, set[str]], begin: datetime, end: datetime) -> list[Answer]:
        answers: dict[tuple[str, str], Answer] = {}
        until: datetime | None = None
        with tempfile.TemporaryDirectory(prefix="taxiway-explain-") as name:
            folder = Path(name).resolve()
            with open_duckdb(folder) as db:
                for hour in reversed(list(hours(begin, end + _LATE))):
                    if until is not None and hour < until:
                        break
                    for answer in self._in_hour(db, folder, request_id, used, hour):
                        known = answers.setdefault((answer.model, answer.version), answer)
                        if known.predicted_at > answer.predicted_at:
                            answers[answer.model, answer.version] = answer
                        until = until or hour - _LATE
        return sorted(answers.values(), key=lambda answer: (answer.arm == "shadow", answer.predicted_at))

    def _in_hour(
        self, db: Any, folder: Path, request_id: str, used: dict[str, set[str]], hour: datetime
    ) -> Iterator[Answer]:
        keys = [
            key
            for model, versions in used.items()
            for version in sorted(versions)
            for key in log_keys(self._storage, model, version, hour)
        ]
        query = _FOUND.format(shown=_SHOWN)
        for _, rows in query_files(self._storage, keys, folder, db, query, [request_id]):
            yield from _answers(request_id, rows)

    def _explain(self, answer: Answer, rows: Sequence[Entry]) -> Explanation:
        moment = in_force(rows, answer.predicted_at)
        return Explanation(answer=answer, why=why(answer, moment), moment=moment, origin=self._origin(answer, rows))

    def _origin(self, answer: Answer, rows: Sequence[Entry]) -> Origin | None:
        try:
            version = self._registry.version(answer.model, answer.version)
        except ServiceRefusedError as error:
            if is_missing(error):
                return None
            raise
        dag_run = version.tags.get("taxiway.dag_run", "")
        return Origin(
            run_id=version.run_id,
            tags={key: value for key, value in version.tags.items() if key != "taxiway.spec"},
            aliases=version.aliases,
            decisions=decisions(rows, answer.version, answer.predicted_at, dag_run),
        )


def _versions(rows: Iterable[Entry], begin: datetime, end: datetime) -> set[str]:
    """Return the versions that had requests, or copies, in a time."""
    versions: set[str] = set()
    for row in rows:
        if row.kind == WeightSetRow.KIND and row.at <= end:
            route = Route.recorded(row.model, row.payload)
            here = {version for version in (route.stable, route.canary, route.shadow) if version is not None}
            # Before the time only the last row counts: it was still in force when the time began.
            versions = here if row.at <= begin else versions | here
    return versions


def _answers(request_id: str, rows: Iterable[Sequence[Any]]) -> Iterator[Answer]:
    for model, version, arm, weight_bp, unit, at_us, count, predictions in rows:
        yield Answer(
            request_id=request_id,
            model=model,
            version=version,
            arm=arm,
            weight_bp=weight_bp,
            unit=unit,
            predicted_at=datetime.fromtimestamp(at_us / 1e6, UTC),
            rows=count,
            predictions=tuple(predictions),
        )
