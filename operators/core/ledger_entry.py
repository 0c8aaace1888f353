"""What stands in the ledger: its entries, the judge's looks beside them, and the hash that links one entry to the next. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from operators.core.frozen import Frozen


class Entry(Frozen):
    """One row of the ledger."""

    model: str
    seq: int
    at: datetime
    kind: str
    release_id: str | None
    key: str
    payload: dict[str, Any]
    previous_hash: str
    hash: str


class LookEntry(Frozen):
    """The evidence of one look of the judge.

    :param n: number of the look in its step, from 1
    :param digest: of the evidence, see `json_digest`
    """

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
