"""The ledger: append-only decisions about each model in SQL, each row with the hash of the one before.

PostgreSQL through SQLAlchemy. One row in `ledger_heads` per model is locked for every append: it serialises the chain, and
it is also where one release at a time claims the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import DBAPIError

from operators.core.errors import RejectedError, ServiceError

_metadata = sa.MetaData()
_entries = sa.Table(
    "ledger",
    _metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("release_id", sa.Text),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("payload", JSONB, nullable=False),
    sa.Column("previous_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.UniqueConstraint("model", "seq"),
)
_heads = sa.Table(
    "ledger_heads",
    _metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("release_id", sa.Text),
)
_SCHEMA_LOCK = 0x7A71_0001  # two processes must not create the tables at once


class Entry(BaseModel):
    """One row of the ledger."""

    model_config = ConfigDict(frozen=True)

    model: str
    seq: int
    at: datetime
    kind: str
    release_id: str | None
    key: str
    payload: dict[str, Any]
    previous_hash: str
    hash: str


def entry_hash(entry: Mapping[str, Any]) -> str:
    """Hash what a row says together with the hash of the row before (SHA-256 of canonical JSON)."""
    said = [
        entry["model"],
        entry["seq"],
        entry["at"].astimezone(UTC).isoformat(),
        entry["kind"],
        entry["release_id"],
        entry["key"],
        entry["payload"],
        entry["previous_hash"],
    ]
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
                "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} -c TimeZone=UTC",
            },
        )
        self._ready = False

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                if not self._ready:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
                    _metadata.create_all(connection)
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

    def claim(self, model: str, release_id: str, payload: Mapping[str, Any]) -> str | None:
        """Make this release the only one of the model; return the id of the release that it put aside, or None.

        The newest claim wins: what held the model before (a run that was killed) can write nothing any more.

        :raises RejectedError: the release has ended, or was put aside
        """
        with self._begin() as connection:
            holder = _lock_head(connection, model).release_id
            if (ended := _known(connection, f"{release_id}/end")) is not None:
                raise RejectedError(f"release {release_id} has ended ({ended.kind}); it cannot begin again")
            if holder not in (None, release_id):
                _append(connection, model, "abandoned", {"by": release_id}, f"{holder}/end", holder)
            connection.execute(_heads.update().where(_heads.c.model == model).values(release_id=release_id))
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
            connection.execute(_heads.update().where(_heads.c.model == model).values(release_id=None))
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
            return connection.execute(sa.select(_heads.c.release_id).where(_heads.c.model == model)).scalar()

    def entries(
        self, model: str | None = None, *, release_id: str | None = None, kind: str | None = None
    ) -> list[Entry]:
        """Return rows, oldest first."""
        wanted = {"model": model, "release_id": release_id, "kind": kind}
        query = sa.select(_entries).order_by(_entries.c.id)
        for column, value in wanted.items():
            if value is not None:
                query = query.where(_entries.c[column] == value)
        with self._begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [Entry.model_validate(dict(row)) for row in rows]

    def broken_links(self, model: str) -> list[int]:
        """Return the ``seq`` of every row whose hash, or link to the row before, does not hold."""
        broken, previous = [], ""
        for entry in self.entries(model):
            if entry.previous_hash != previous or entry_hash(entry.model_dump()) != entry.hash:
                broken.append(entry.seq)
            previous = entry.hash
        return broken

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _lock_head(connection: sa.Connection, model: str) -> sa.Row[Any]:
    fresh = insert(_heads).values(model=model, seq=0, hash="").on_conflict_do_nothing()
    connection.execute(fresh)
    return connection.execute(sa.select(_heads).where(_heads.c.model == model).with_for_update()).one()


def _must_hold(connection: sa.Connection, model: str, release_id: str) -> None:
    holder = _lock_head(connection, model).release_id
    if holder != release_id:
        raise RejectedError(
            f"release {release_id} no longer holds {model} (now: {holder or 'nobody'}); it changes nothing"
        )


def _known(connection: sa.Connection, key: str) -> Entry | None:
    row = connection.execute(sa.select(_entries).where(_entries.c.key == key)).mappings().one_or_none()
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
    connection.execute(_entries.insert().values(**row))
    connection.execute(_heads.update().where(_heads.c.model == model).values(seq=row["seq"], hash=row["hash"]))
    return Entry.model_validate(row)
