"""The ledger's tables."""

from __future__ import annotations

import sqlalchemy as sa
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
