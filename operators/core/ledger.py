"""The ledger: append-only decisions about each model in SQL, each row with the hash of the one before.

PostgreSQL through SQLAlchemy. Every append locks the model's row in `ledger_heads`. That keeps the chain in order, and a
release claims the model there. The looks of the judge are many rows; they are in a table of their own, outside the chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from operators.core.errors import BusyError, RejectedError, ServiceError
from operators.core.ledger_entry import Entry, LookEntry, entry_hash, json_digest
from operators.core.ledger_schema import ENTRIES, HEADS, LOOKS, metadata
from operators.core.rows import AbandonedRow, ReleaseStartedRow, Row

__all__ = ["Entry", "Ledger", "LookEntry"]

AnyRow = TypeVar("AnyRow", bound=Row)
_SCHEMA_LOCK = 0x7A71_0001  # two processes must not create the tables at once
_ABANDONED_S = 120  # a client that vanished must not hold its model for ever; longer than any call under a lock


class Ledger:
    """Append and read decisions.

    :param url: SQLAlchemy URL of a PostgreSQL database
    :param timeout_s: for connecting, for each statement and for the lock of a model
    """

    def __init__(self, url: str, *, timeout_s: int = 10) -> None:
        milliseconds = timeout_s * 1000
        self._engine = sa.create_engine(
            url,
            pool_pre_ping=True,
            pool_size=1,
            connect_args={
                "connect_timeout": timeout_s,
                "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} -c TimeZone=UTC"
                f" -c idle_in_transaction_session_timeout={_ABANDONED_S}s",
            },
        )
        self._ready = False

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                if not self._ready:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
                    metadata.create_all(connection)
                yield connection
                self._ready = True
        except DBAPIError as error:
            host = self._engine.url.host or "a local socket"
            raise ServiceError(f"the ledger on {host} did not answer: {error.orig}") from error

    def append(self, model: str, row: Row, *, key: str, release_id: str | None = None) -> Entry:
        """Append one decision, once: a second call with the same ``key`` returns the entry of the first.

        :param key: idempotency key, unique in the whole ledger
        :param release_id: the release that decides; it must hold the model
        :raises RejectedError: the release no longer holds the model: somebody ended it
        :raises ServiceError: the database did not answer in time
        """
        with self._begin() as connection:
            if release_id is not None:
                _must_hold(connection, model, release_id)
            return _append(connection, model, row, key, release_id)

    def claim(self, model: str, release_id: str, row: ReleaseStartedRow, *, supersede: bool = True) -> None:
        """Give the model to this release, and end the one that holds it.

        The release that held the model before (its run was killed, or it is an older one) can write nothing any more.

        :param supersede: whether to end another release that holds the model
        :raises BusyError: another release holds the model, and this one does not supersede
        :raises RejectedError: the release has ended, by itself or by another one
        """
        with self._begin() as connection:
            holder = _lock_head(connection, model).release_id
            if (ended := _known(connection, f"{release_id}/end")) is not None:
                raise RejectedError(f"release {release_id} has ended ({ended.kind}); it cannot begin again")
            if holder not in (None, release_id):
                if not supersede:
                    raise BusyError(model, holder)
                _append(connection, model, AbandonedRow(by=release_id), f"{holder}/end", holder)
            connection.execute(HEADS.update().where(HEADS.c.model == model).values(release_id=release_id))
            _append(connection, model, row, f"{release_id}/started", release_id)

    def finish(self, model: str, release_id: str, row: Row) -> Entry:
        """Append the end of a release and let the model go, in one transaction.

        :raises RejectedError: the release does not hold the model, and did not end with a row of this kind
        """
        key = f"{release_id}/end"
        with self._begin() as connection:
            known = _known(connection, key)
            if known is not None and known.kind == row.KIND:
                return known
            _must_hold(connection, model, release_id)
            entry = _append(connection, model, row, key, release_id)
            connection.execute(HEADS.update().where(HEADS.c.model == model).values(release_id=None))
        return entry

    @contextmanager
    def holding(self, model: str, release_id: str) -> Iterator[None]:
        """Keep everybody else from claiming the model while the release moves something.

        :raises RejectedError: the release does not hold the model
        :raises ServiceError: another release is moving something for longer than the time-out
        """
        with self._begin() as connection:
            _must_hold(connection, model, release_id)
            yield

    def holder(self, model: str) -> str | None:
        """Return the id of the release that is running, or None."""
        with self._begin() as connection:
            return connection.execute(sa.select(HEADS.c.release_id).where(HEADS.c.model == model)).scalar()

    def entries(
        self,
        model: str | None = None,
        *,
        release_id: str | None = None,
        kind: str | Sequence[str] | None = None,
        key_prefix: str = "",
        last: int | None = None,
    ) -> list[Entry]:
        """Return rows, oldest first.

        :param kind: one or several
        :param key_prefix: how their keys begin
        :param last: the newest ones, at most this many
        """
        query = sa.select(ENTRIES).order_by(ENTRIES.c.id.desc()).limit(last)
        for column, value in (("model", model), ("release_id", release_id)):
            if value is not None:
                query = query.where(ENTRIES.c[column] == value)
        if kind is not None:
            query = query.where(ENTRIES.c.kind.in_([kind] if isinstance(kind, str) else list(kind)))
        if key_prefix:
            query = query.where(ENTRIES.c.key.startswith(key_prefix, autoescape=True))
        with self._begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [Entry.model_validate(dict(row)) for row in reversed(rows)]

    def rows(self, kind: type[AnyRow], model: str | None = None, *, release_id: str | None = None) -> list[AnyRow]:
        """Return what the rows of one kind hold, oldest first."""
        return [kind.of(entry) for entry in self.entries(model, release_id=release_id, kind=kind.KIND)]

    def entry(self, key: str) -> Entry | None:
        """Return the row of an idempotency key, or None."""
        with self._begin() as connection:
            return _known(connection, key)

    def end(self, release_id: str) -> Entry | None:
        """Return the row that ended a release, or None while it is under way."""
        return self.entry(f"{release_id}/end")

    def ended_with(self, release_id: str, kind: type[Row]) -> bool:
        """Return whether a release has ended with a row of this kind."""
        end = self.end(release_id)
        return end is not None and end.kind == kind.KIND

    def models(self) -> list[str]:
        """Return every model that has rows."""
        with self._begin() as connection:
            return list(connection.execute(sa.select(HEADS.c.model).order_by(HEADS.c.model)).scalars())

    def record_look(self, model: str, release_id: str, step: str, evidence: Mapping[str, Any]) -> int:
        """Keep the evidence of a look; return the number of the look in its step.

        :param evidence: JSON
        """
        taken = sa.select(sa.func.coalesce(sa.func.max(LOOKS.c.n), 0) + 1).where(
            LOOKS.c.release_id == release_id, LOOKS.c.step == step
        )
        row = {"model": model, "release_id": release_id, "step": step, "at": datetime.now(UTC), "evidence": evidence}
        digest = json_digest(evidence)
        while True:
            with self._begin() as connection:
                number = int(connection.execute(taken).scalar_one())
                fresh = insert(LOOKS).values(**row, n=number, digest=digest).on_conflict_do_nothing()
                # Somebody else may have taken the next number at the same moment.
                if connection.execute(fresh.returning(LOOKS.c.n)).first() is not None:
                    return number

    def looks(self, release_id: str, step: str | None = None, *, last: int | None = None) -> list[LookEntry]:
        """Return the looks of a release, or of one of its steps, oldest first.

        :param last: the newest ones, at most this many
        """
        query = sa.select(LOOKS).where(LOOKS.c.release_id == release_id).order_by(LOOKS.c.id.desc()).limit(last)
        if step is not None:
            query = query.where(LOOKS.c.step == step)
        with self._begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [LookEntry.model_validate(dict(row)) for row in reversed(rows)]

    def look_numbers(self, release_id: str, step: str, evidence: Mapping[str, Any]) -> list[int]:
        """Return the numbers of the step's looks that had exactly this evidence."""
        query = sa.select(LOOKS.c.n).where(
            LOOKS.c.release_id == release_id, LOOKS.c.step == step, LOOKS.c.digest == json_digest(evidence)
        )
        with self._begin() as connection:
            return list(connection.execute(query.order_by(LOOKS.c.n)).scalars())

    def broken_links(self, model: str) -> list[int]:
        """Return the ``seq`` of every row whose hash, or link to the row before, is wrong.

        If the newest rows are missing, the number of the last one that was written is among them.
        """
        with self._begin() as connection:
            # Locked, so that no row is added between the two queries.
            head = _lock_head(connection, model)
            query = sa.select(ENTRIES).where(ENTRIES.c.model == model).order_by(ENTRIES.c.seq)
            rows = connection.execute(query).mappings().all()
        broken, previous = [], ""
        for entry in (Entry.model_validate(dict(row)) for row in rows):
            if entry.previous_hash != previous or entry_hash(entry.model_dump()) != entry.hash:
                broken.append(entry.seq)
            previous = entry.hash
        if head.hash != previous:
            broken.append(head.seq)
        return sorted(set(broken))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _lock_head(connection: sa.Connection, model: str) -> sa.Row[Any]:
    locked = sa.select(HEADS).where(HEADS.c.model == model).with_for_update()
    known = connection.execute(locked).one_or_none()
    if known is not None:
        return known
    connection.execute(insert(HEADS).values(model=model, seq=0, hash="").on_conflict_do_nothing())
    return connection.execute(locked).one()


def _must_hold(connection: sa.Connection, model: str, release_id: str) -> None:
    holder = _lock_head(connection, model).release_id
    if holder != release_id:
        raise RejectedError(
            f"release {release_id} no longer holds {model} (now: {holder or 'nobody'}); it changes nothing"
        )


def _known(connection: sa.Connection, key: str) -> Entry | None:
    row = connection.execute(sa.select(ENTRIES).where(ENTRIES.c.key == key)).mappings().one_or_none()
    return None if row is None else Entry.model_validate(dict(row))


def _append(connection: sa.Connection, model: str, row: Row, key: str, release_id: str | None) -> Entry:
    head = _lock_head(connection, model)
    known = _known(connection, key)
    if known is not None:
        return known
    values: dict[str, Any] = {
        "model": model,
        "seq": head.seq + 1,
        "at": datetime.now(UTC),
        "kind": row.KIND,
        "release_id": release_id,
        "key": key,
        "payload": row.payload(),
        "previous_hash": head.hash,
    }
    values["hash"] = entry_hash(values)
    connection.execute(ENTRIES.insert().values(**values))
    connection.execute(HEADS.update().where(HEADS.c.model == model).values(seq=values["seq"], hash=values["hash"]))
    return Entry.model_validate(values)
