"""The ledger's tables, the types of their rows, and the hash of a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict
from sqlalchemy.dialects.postgresql import JSON

metadata = sa.MetaData()
ENTRIES = sa.Table(
    "ledger",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("release_id", sa.Text),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    # JSON and not JSONB: that keeps numbers as decimals, so 1e300 and -0.0 come back as something else, with another hash.
    sa.Column("payload", JSON, nullable=False),
    sa.Column("previous_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.UniqueConstraint("model", "seq"),
)
HEADS = sa.Table(
    "ledger_heads",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("release_id", sa.Text),
)
LOOKS = sa.Table(
    "looks",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("release_id", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("n", sa.BigInteger, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("evidence", JSON, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.UniqueConstraint("release_id", "step", "n"),
)


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


class Look(BaseModel):
    """The evidence of one look of the judge.

    :param n: number of the look in its step, from 1
    :param digest: of the evidence, see `json_digest`
    """

    model_config = ConfigDict(frozen=True)

    model: str
    release_id: str
    step: str
    n: int
    at: datetime
    evidence: dict[str, Any]
    digest: str


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def entry_hash(entry: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a row's fields and the hash of the row before, as canonical JSON."""
    fields = [
        entry["model"],
        entry["seq"],
        entry["at"].astimezone(UTC).isoformat(),
        entry["kind"],
        entry["release_id"],
        entry["key"],
        entry["payload"],
        entry["previous_hash"],
    ]
    return json_digest(fields)
