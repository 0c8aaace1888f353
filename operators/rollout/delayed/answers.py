"""Read a release's answers from the prediction log: only the hours of its versions, each file once, only the columns needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from operators.core.duck import name_sql
from operators.core.predictions import ARMS, hours
from operators.core.storage import Storage
from operators.feedback.log import log_keys, query_files
from operators.judge.evidence import Moments
from operators.rollout.delayed.business import BusinessNumber, Cell
from operators.rollout.delayed.pairs import Pair
from operators.rollout.delayed.window import ReleaseWindow, Span

# A replica's clock may be off, and a file that is begun in one hour may appear in the next.
_SLACK = timedelta(minutes=10)
# Hashes in place of ids take 8 bytes a row. The chance that any two of ten million ids share a hash is 1 in 100,000.
_TABLE = (
    "CREATE TABLE answers (canary BOOLEAN, arm UTINYINT, at_us BIGINT, request UBIGINT, unit UBIGINT, "
    "weight_bp SMALLINT, prediction DOUBLE)"
)
_STABLE, _CANARY, _FALLBACK, _SHADOW, _HOLDOUT = map(ARMS.index, ("stable", "canary", "fallback", "shadow", "holdout"))
_FETCHED = 2048
Place = tuple[int, int]
"""A request's place in the order of the answers: time in microseconds and hash of the id."""

# The first answer of each version to a request: a row may have been written twice, and callers may use an id again.
_FIRSTS = "SELECT DISTINCT ON (request) * FROM answers WHERE {} ORDER BY request, at_us"
_PAIRED = f"""
    SELECT s.at_us, s.request, s.unit, s.prediction AS stable, c.prediction AS canary
    FROM ({_FIRSTS.format(f"NOT canary AND arm IN ({_STABLE}, {_HOLDOUT})")}) s
    JOIN ({_FIRSTS.format(f"canary AND arm = {_SHADOW}")}) c USING (request)"""  # noqa: S608
_UNITS = f"SELECT DISTINCT ON (unit) * FROM ({_PAIRED}) ORDER BY unit, at_us, request"  # noqa: S608
_BOTH = f"""
    SELECT 0 AS span, false AS canary, unit, at_us, request, stable AS prediction FROM ({_PAIRED})
    UNION ALL SELECT 0, true, unit, at_us, request, canary FROM ({_PAIRED})"""  # noqa: S608


def to_us(time_s: float) -> int:
    """Return a Unix time in whole microseconds."""
    return round(time_s * 1_000_000)


class AnswerLog:
    """The answers of one release, in a table. Only the first row of a request with several rows is in it.

    :param db: a DuckDB that may read and write the folder
    :param folder: for files that are being read
    """

    def __init__(self, storage: Storage, window: ReleaseWindow, db: Any, folder: Path) -> None:
        self._storage = storage
        self._window = window
        self._db = db
        self._folder = folder
        self._next_hour = datetime.fromtimestamp(window.begin_s, UTC) - _SLACK
        self._seen: set[str] = set()
        self._moments: dict[Cell, Moments] = {}
        self._moments_of: tuple[Span, ...] | None = None
        db.execute(_TABLE)

    def refresh(self, now: datetime) -> None:
        """Read the files that were written since the last call.

        :param now: with a time zone
        """
        listed: set[str] = set()
        for version in (self._window.stable, self._window.canary):
            keys = [
                key
                for hour in hours(self._next_hour, now)
                for key in log_keys(self._storage, self._window.model, version, hour)
            ]
            if new := [key for key in keys if key not in self._seen]:
                self._moments_of = None
                self._insert(new, version)
            listed.update(keys)
        self._seen &= listed
        self._next_hour = max(self._next_hour, now - _SLACK)

    def _insert(self, keys: Sequence[str], version: str) -> None:
        arms = ", ".join(f"'{arm}'" for arm in ARMS)
        batches = query_files(
            self._storage,
            keys,
            self._folder,
            self._db,
            f"INSERT INTO answers SELECT ?, list_position([{arms}], arm) - 1, epoch_us(predicted_at), hash(request_id), "  # noqa: S608
            "hash(coalesce(unit, request_id)), weight_bp, prediction FROM {files} "
            "WHERE row = 0 AND arm IS NOT NULL AND epoch_us(predicted_at) >= ?",
            [version == self._window.canary, to_us(self._window.begin_s)],
        )
        for read, _ in batches:
            self._seen.update(read)

    def moments(self, spans: tuple[Span, ...]) -> dict[Cell, Moments]:
        """Return the moments of the predictions by period and arm. A unit counts once in a period, by its first prediction.

        A fallback counts for neither arm: the guard on failures counts it.
        """
        if self._moments_of != spans:
            placed = f"SELECT {_span_sql(spans)} AS span, * FROM answers WHERE arm <> {_FALLBACK}"  # noqa: S608
            split = self._moments_sql(placed)
            self._moments = {(span, canary): moments for span, canary, moments in split}
            for index, span in enumerate(spans):
                if span.kind == "shadow":
                    self._moments |= {(index, canary): moments for _, canary, moments in self._moments_sql(_BOTH)}
            self._moments_of = spans
        return self._moments

    def _moments_sql(self, rows_sql: str) -> list[tuple[int, bool, Moments]]:
        rows = self._db.execute(
            f"WITH placed AS ({rows_sql}), firsts AS ("  # noqa: S608
            "SELECT span, canary, arg_min(prediction, (at_us, request)) AS prediction "
            "FROM placed WHERE span IS NOT NULL GROUP BY span, canary, unit) "
            "SELECT span, canary, count(*), avg(prediction), var_pop(prediction) * count(*) FROM firsts GROUP BY span, canary"
        ).fetchall()
        return [(span, canary, Moments(count=count, mean=mean, m2=m2)) for span, canary, count, mean, m2 in rows]

    def pairs(self, after: Place, until_us: int) -> Iterator[Pair]:
        """Yield the pairs of stable and the shadow with their labels, in the order of the answers.

        :param after: place of the last pair that was taken
        :param until_us: no later answers: of some pairs only one row has been written yet
        """
        rows = self._db.execute(
            f"WITH units AS ({_UNITS}) "  # noqa: S608
            "SELECT at_us, request, stable, canary, coalesce(u.label, r.label), coalesce(u.arrived_us, r.arrived_us) "
            "FROM units LEFT JOIN labels u ON u.id = units.unit LEFT JOIN labels r ON r.id = units.request "
            "WHERE (at_us, request) > (?, ?) AND at_us <= ? ORDER BY at_us, request",
            [*after, until_us],
        )
        yield from map(Pair._make, _streamed(rows))

    def pairs_between(self, after: Place, until_us: int) -> tuple[int, int] | None:
        """Return when the first and the last pair of `pairs` were answered, or None if there is none."""
        first, last = self._db.execute(
            f"SELECT min(at_us), max(at_us) FROM ({_UNITS}) WHERE (at_us, request) > (?, ?) AND at_us <= ?",  # noqa: S608
            [*after, until_us],
        ).fetchone()
        return None if first is None else (first, last)

    def values(self, table: str, spans: tuple[Span, ...], after: Place, until_us: int) -> Iterator[BusinessNumber]:
        """Yield the first request of each unit in each period, with its business number, in the order of the answers.

        :param table: an `ArrivalTable` of business numbers
        :param after: place of the last number that was taken
        """
        rows = self._db.execute(
            f"WITH placed AS (SELECT {_span_sql(spans)} AS span, canary <> (arm = {_FALLBACK}) AS canary, unit, at_us, request "  # noqa: S608
            f"FROM answers WHERE arm <> {_SHADOW}), "
            "units AS (SELECT DISTINCT ON (span, unit) * FROM placed WHERE span IS NOT NULL "
            "ORDER BY span, unit, at_us, request) "
            f"SELECT at_us, request, span, canary, label, arrived_us FROM units LEFT JOIN {name_sql(table)} l ON l.id = request "
            "WHERE (at_us, request) > (?, ?) AND at_us <= ? ORDER BY at_us, request",
            [*after, until_us],
        )
        yield from map(BusinessNumber._make, _streamed(rows))


def _streamed(result: Any) -> Iterator[Sequence[Any]]:
    while rows := result.fetchmany(_FETCHED):
        yield from rows


def _span_sql(spans: Sequence[Span]) -> str:
    """Return SQL for the index of the period that an answer belongs to; NULL for none.

    Before the promotion the new version is the canary at the edge, after it stable. This tells the watch apart from a step of
    the same weight.
    """
    usual = f"(canary = (arm = {_CANARY}) AND arm IN ({_STABLE}, {_CANARY}, {_FALLBACK}))"
    control = f"(arm IN ({_STABLE}, {_CANARY}, {_FALLBACK}) AND NOT {usual})"
    cases = [
        f"WHEN {control if span.kind == 'watch' else usual} AND weight_bp = {span.weight_bp} THEN {index}"
        for index, span in reversed(list(enumerate(spans)))
        if span.kind != "shadow"
    ]
    return f"CASE {' '.join(cases)} END" if cases else "CAST(NULL AS INTEGER)"
