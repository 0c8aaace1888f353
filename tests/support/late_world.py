"""A prediction log, labels and business numbers with times of our choice."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.core.predictions import hour_prefix
from operators.core.spec import PredictionSpec
from operators.core.storage import Storage
from operators.rollout.delayed.collector import Collector
from operators.rollout.delayed.window import LateEvidence, ReleaseWindow, Span
from tests.support.specs import small_spec

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
MODEL, STABLE, CANARY = "flight_delay", "3", "4"


def spec_with(**judge: Any) -> PredictionSpec:
    """Return a spec with a shadow and these guards; in the spec's own words."""
    policy = {"alpha": 0.01, "confidence": 0.9, **judge}
    return small_spec(name=MODEL, release={"judge": policy, "shadow": {"sample_pct": 50.0, "bake": "1h"}})


def window(*spans: Span) -> ReleaseWindow:
    return ReleaseWindow(model=MODEL, stable=STABLE, canary=CANARY, begin_s=BEGIN, spans=spans)


def look_once(spec: PredictionSpec, window: ReleaseWindow, now_s: float, storage: Storage) -> LateEvidence:
    """Look as a collector does that has not looked before."""
    collector = Collector(spec, window, storage=storage)
    try:
        return collector.look(now_s)
    finally:
        collector.close()


def parquet(rows: Iterable[Mapping[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), sink)
    return sink.getvalue()


def at(after_s: float) -> datetime:
    return datetime.fromtimestamp(BEGIN + after_s, UTC)


def answer(
    request: str,
    version: str,
    arm: str | None,
    prediction: float,
    *,
    after_s: float = 0.0,
    unit: str | None = None,
    weight_bp: int | None = None,
    row: int = 0,
) -> dict[str, Any]:
    """A row of the log."""
    return {
        "request_id": request,
        "row": row,
        "unit": unit,
        "arm": arm,
        "weight_bp": weight_bp,
        "predicted_at": at(after_s),
        "version": version,
        "prediction": prediction,
    }


def both(request: str, stable: float, shadow: float, **kwargs: Any) -> list[dict[str, Any]]:
    """The two rows of a request that stable and the shadow answered."""
    return [
        answer(request, STABLE, "stable", stable, **kwargs),
        answer(request, CANARY, "shadow", shadow, **kwargs),
    ]


_TYPES = {"unit": pa.string(), "arm": pa.string(), "weight_bp": pa.int16()}


def keep(storage: Storage, rows: Iterable[dict[str, Any]], *, written_after_s: float | None = None) -> None:
    """Write rows as the replicas of their versions do: one file for each version."""
    given = list(rows)
    for version in sorted({row["version"] for row in given}):
        mine = [row for row in given if row["version"] == version]
        table = pa.Table.from_pylist(mine)
        for name, kind in _TYPES.items():
            table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
        written = at(written_after_s) if written_after_s is not None else mine[-1]["predicted_at"]
        sink = io.BytesIO()
        pq.write_table(table, sink)
        key = f"{hour_prefix(MODEL, version, written)}/{uuid.uuid4().hex}.parquet"
        storage.put_bytes(key, sink.getvalue())


@dataclass
class KnownLabels:
    """Labels that we made up: id -> (label, seconds after the begin when it arrives)."""

    known: dict[str, tuple[float, float]] = field(default_factory=dict)
    asked: list[tuple[datetime, datetime, datetime]] = field(default_factory=list)

    def write(self, out: Path, *, begin: datetime, end: datetime, known_before: datetime) -> None:
        self.asked.append((begin, end, known_before))
        rows = [
            {"id": key, "label": label, "arrived_at": at(after_s)}
            for key, (label, after_s) in self.known.items()
            if at(after_s) <= known_before
        ]
        schema = pa.schema({"id": pa.string(), "label": pa.float64(), "arrived_at": pa.timestamp("us", "UTC")})
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), out)
