"""The ledger: append-only decisions about each model in SQL, each row with the hash of the one before.

PostgreSQL through SQLAlchemy. One row in `ledger_heads` per model is locked for every append: it serialises the chain, and
it is also where one release at a time claims the model. What a judge saw on its way to a decision, the looks, is many rows
and in a table of its own, outside the chain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from operators.core.errors import RejectedError, ServiceError, TaxiwayError
from operators.core.ledger_schema import ENTRIES, HEADS, LOOKS, Entry, Look, entry_hash, json_digest, metadata

__all__ = ["BusyError", "Entry", "Ledger", "Look"]

_SCHEMA_LOCK = 0x7A71_0001  # two processes must not create the tables at once


_ABANDONED_S = 120  # a client that vanished must not hold its model for ever; longer than any call under a lock


class BusyError(TaxiwayError):
    """Another release holds the model. Waiting helps.

    :param model: the model
    :param holder: id of the release that holds it
    """

    def __init__(self, model: str, holder: str) -> None:
        super().__init__(f"release {holder} of {model} is under way; wait for its end, or let this one supersede it")
        self.model = model
        self.holder = holder


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

    def append(
        self, model: str, kind: str, payload: Mapping[str, Any], *, key: str, release_id: str | None = None
    ) -> Entry:
        """Append one decision, once: a second call with the same ``key`` returns the row of the first.

        :param payload: what JSON can hold; the evidence goes here
        :param key: idempotency key, unique in the whole ledger
        :param release_id: the release that decides; it must hold the model
        :raises RejectedError: the release no longer holds the model: somebody ended it
        :raises ServiceError: the database did not answer in time
        """
        with self._begin() as connection:
            if release_id is not None:
                _must_hold(connection, model, release_id)
            return _append(connection, model, kind, payload, key, release_id)

    def claim(self, model: str, release_id: str, payload: Mapping[str, Any], *, supersede: bool = True) -> str | None:
        """Make this release the only one of the model; return the id of the release that it put aside, or None.

        What held the model before (a run that was killed, or an older version) can write nothing any more.

        :param supersede: whether the newest claim wins over one that is held
        :raises BusyError: another release holds the model, and this one does not supersede
        :raises RejectedError: the release has ended, or was put aside
        """
        with self._begin() as connection:
            holder = _lock_head(connection, model).release_id
            if (ended := _known(connection, f"{release_id}/end")) is not None:
                raise RejectedError(f"release {release_id} has ended ({ended.kind}); it cannot begin again")
            if holder not in (None, release_id):
                if not supersede:
                    raise BusyError(model, holder)
                _append(connection, model, "abandoned", {"by": release_id}, f"{holder}/end", holder)
            connection.execute(HEADS.update().where(HEADS.c.model == model).values(release_id=release_id))
            _append(connection, model, "release_started", payload, f"{release_id}/started", release_id)
        return None if holder == release_id else holder

    def finish(self, model: str, release_id: str, kind: str, payload: Mapping[str, Any]) -> Entry:
        """Append the end of a release and let the model go, in one transaction.

        :raises RejectedError: the release has not got the model, and has not ended like this before
        """
        key = f"{release_id}/end"
        with self._begin() as connection:
            known = _known(connection, key)
            if known is not None and known.kind == kind:
                return known
            _must_hold(connection, model, release_id)
            entry = _append(connection, model, kind, payload, key, release_id)
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
        :param last: only so many, the newest
        """
        wanted = {"model": model, "release_id": release_id}
        query = sa.select(ENTRIES).order_by(ENTRIES.c.id.desc())
        for column, value in wanted.items():
            if value is not None:
                query = query.where(ENTRIES.c[column] == value)
        if kind is not None:
            query = query.where(ENTRIES.c.kind.in_([kind] if isinstance(kind, str) else list(kind)))
        if key_prefix:
            query = query.where(ENTRIES.c.key.startswith(key_prefix, autoescape=True))
        if last is not None:
            query = query.limit(last)
        with self._begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [Entry.model_validate(dict(row)) for row in reversed(rows)]

    def entry(self, key: str) -> Entry | None:
        """Return the row of an idempotency key, or None."""
        with self._begin() as connection:
            return _known(connection, key)

    def end(self, release_id: str) -> Entry | None:
        """Return the row that ended a release, or None while it is under way."""
        return self.entry(f"{release_id}/end")

    def models(self) -> list[str]:
        """Return every model that has rows."""
        with self._begin() as connection:
            return list(connection.execute(sa.select(HEADS.c.model).order_by(HEADS.c.model)).scalars())

    def record_look(
        self, model: str, release_id: str, step: str, evidence: Mapping[str, Any], *, n: int | None = None
    ) -> int:
        """Keep what a judge saw; a second call with the same ``n`` changes nothing.

        :param evidence: what JSON can hold
        :param n: number of the look in its step; None: the next
        :returns: the number
        """
        taken = sa.select(sa.func.coalesce(sa.func.max(LOOKS.c.n), 0) + 1).where(
            LOOKS.c.release_id == release_id, LOOKS.c.step == step
        )
        row = {"model": model, "release_id": release_id, "step": step, "at": datetime.now(UTC), "evidence": evidence}
        digest = json_digest(evidence)
        while True:
            with self._begin() as connection:
                number = n if n is not None else int(connection.execute(taken).scalar_one())
                fresh = insert(LOOKS).values(**row, n=number, digest=digest).on_conflict_do_nothing()
                # Somebody else may have taken the next number at the same moment.
                if connection.execute(fresh.returning(LOOKS.c.n)).first() is not None or n is not None:
                    return number

    def looks(self, release_id: str, step: str | None = None, *, last: int | None = None) -> list[Look]:
        """Return the looks of a release, or of one of its steps, oldest first.

        :param last: only so many, the newest
        """
        query = sa.select(LOOKS).where(LOOKS.c.release_id == release_id).order_by(LOOKS.c.id.desc())
        if step is not None:
            query = query.where(LOOKS.c.step == step)
        if last is not None:
            query = query.limit(last)
        with self._begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [Look.model_validate(dict(row)) for row in reversed(rows)]

    def look_numbers(self, release_id: str, step: str, evidence: Mapping[str, Any]) -> list[int]:
        """Return the numbers of the step's looks that saw exactly this."""
        query = sa.select(LOOKS.c.n).where(
            LOOKS.c.release_id == release_id, LOOKS.c.step == step, LOOKS.c.digest == json_digest(evidence)
        )
        with self._begin() as connection:
            return list(connection.execute(query.order_by(LOOKS.c.n)).scalars())

    def broken_links(self, model: str) -> list[int]:
        """Return the ``seq`` of every row whose hash, or link to the row before, does not hold.

        Rows that are missing at the end show as the number that the next one was counted from.
        """
        with self._begin() as connection:
            # Locked, so that no row is added between the two readings.
            head = _lock_head(connection, model)
            rows = sa.select(ENTRIES).where(ENTRIES.c.model == model).order_by(ENTRIES.c.seq)
            found = connection.execute(rows).mappings().all()
        broken, previous = [], ""
        for entry in (Entry.model_validate(dict(row)) for row in found):
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


def _append(
    connection: sa.Connection, model: str, kind: str, payload: Mapping[str, Any], key: str, release_id: str | None
) -> Entry:
    head = _lock_head(connection, model)
    known = _known(connection, key)
    if known is not None:
        return known
    row: dict[str, Any] = {
        "model": model,
        "seq": head.seq + 1,
        "at": datetime.now(UTC),
        "kind": kind,
        "release_id": release_id,
        "key": key,
        "payload": json.loads(json.dumps(payload, allow_nan=False)),
        "previous_hash": head.hash,
    }
    row["hash"] = entry_hash(row)
    connection.execute(ENTRIES.insert().values(**row))
    connection.execute(HEADS.update().where(HEADS.c.model == model).values(seq=row["seq"], hash=row["hash"]))
    return Entry.model_validate(row)
