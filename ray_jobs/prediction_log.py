"""Keep predictions: a replica buffers rows and writes immutable Parquet to object storage, off the request path."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from operators.core.errors import TaxiwayError
from operators.core.predictions import ARMS, hour_prefix
from operators.core.spec import ModelSpec
from operators.core.storage import Storage

_log = logging.getLogger(__name__)
_TYPES = {"category": pa.string(), "number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}
_OWN = {
    "request_id": pa.string(),
    "row": pa.int64(),
    "unit": pa.string(),
    "arm": pa.dictionary(pa.int8(), pa.string()),
    "weight_bp": pa.int16(),
    "predicted_at": pa.timestamp("us", "UTC"),
    "model": pa.string(),
    "version": pa.string(),
    "prediction": pa.float64(),
}
_MOST_BUFFERED = 20  # times `max_rows`; beyond it the oldest rows go, so that a lost store cannot fill the memory
_WHOLE_BP = 10_000


class Asked(NamedTuple):
    """What the edge says of a request.

    :param request_id: the same for stable's answer and for the shadow's
    :param unit: what the caller is assigned by; None: the request is a unit of its own
    :param arm: one of `ARMS`; None: the request did not come through the edge
    :param weight_bp: the canary's weight when the request was assigned; None: not told
    """

    request_id: str
    unit: str | None
    arm: str | None = None
    weight_bp: int | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], unit: str | None) -> Asked:
        """Read the headers. What the edge cannot have sent is taken as not sent.

        :param headers: found by names in lower case
        :param unit: the one in the body, for a request without the header; the edge assigns by the header first
        """
        arm = headers.get("x-taxiway-arm")
        weight = headers.get("x-taxiway-weight", "")
        known = (
            weight.isascii() and weight.isdigit() and len(weight) <= len(str(_WHOLE_BP)) and int(weight) <= _WHOLE_BP
        )
        return cls(
            request_id=headers.get("x-request-id") or uuid.uuid4().hex,
            unit=headers.get("x-taxiway-unit") or unit,
            arm=arm if arm in ARMS else None,
            weight_bp=int(weight) if known else None,
        )


class _Answered(NamedTuple):
    asked: Asked
    at: datetime
    columns: Mapping[str, list[Any]]
    values: list[float]


class PredictionLog:
    """One replica's log.

    :param storage: where the files go; `hour_prefix` says which folder
    :param spec: says what the columns are and how often a file is written
    :param version: the version that answers
    """

    def __init__(self, storage: Storage, spec: ModelSpec, version: str) -> None:
        self._storage = storage
        self._model = spec.name
        self._version = version
        self._max_rows = spec.monitoring.prediction_log.max_rows
        self._features = tuple(spec.features)
        features = {f"feature_{name}": _TYPES[kind.rstrip("?")] for name, kind in spec.features.items()}
        self._schema = pa.schema(list({**_OWN, **features}.items()))
        self._answered: deque[_Answered] = deque()
        self._rows = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self.dropped_rows = 0
        self._thread = threading.Thread(
            target=self._work, args=(spec.monitoring.prediction_log.flush_every_s,), daemon=True
        )
        self._thread.start()

    def add(self, asked: Asked, columns: Mapping[str, list[Any]], values: list[float]) -> None:
        """Remember one answered request; never blocks on the store, and copies no row."""
        answered = _Answered(asked, datetime.now(UTC), columns, values)
        with self._lock:
            self._answered.append(answered)
            self._rows += len(values)
            self._drop_oldest()
            full = self._rows >= self._max_rows
        if full:
            self._wake.set()

    def _drop_oldest(self) -> None:
        while self._rows > _MOST_BUFFERED * self._max_rows and len(self._answered) > 1:
            gone = len(self._answered.popleft().values)
            self._rows -= gone
            self.dropped_rows += gone

    def close(self) -> None:
        """Write what is left and stop."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=10)

    def _work(self, flush_every_s: float) -> None:
        while not self._closed:
            self._wake.wait(flush_every_s)
            self._wake.clear()
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows as one file; on a failure they stay for the next try.

        A write whose answer was lost is done again under another name, so a row may be there twice. Readers take the first of
        each request.
        """
        with self._lock:
            answered, self._answered = self._answered, deque()
            rows, self._rows = self._rows, 0
        if not answered:
            return
        key = f"{hour_prefix(self._model, self._version, datetime.now(UTC))}/{uuid.uuid4().hex}.parquet"
        try:
            self._storage.put_bytes(key, self._parquet(answered), if_absent=True)
        except TaxiwayError as error:
            _log.warning("%d predictions could not be written and will be tried again: %s", rows, error)
            with self._lock:
                self._answered.extendleft(reversed(answered))
                self._rows += rows
                self._drop_oldest()

    def _parquet(self, answered: Iterable[_Answered]) -> bytes:
        columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        for (request_id, unit, arm, weight_bp), at, features, values in answered:
            rows = len(values)
            columns["request_id"] += [request_id] * rows
            columns["row"] += range(rows)
            columns["unit"] += [unit] * rows
            columns["arm"] += [arm] * rows
            columns["weight_bp"] += [weight_bp] * rows
            columns["predicted_at"] += [at] * rows
            columns["model"] += [self._model] * rows
            columns["version"] += [self._version] * rows
            columns["prediction"] += values
            for name in self._features:
                columns[f"feature_{name}"] += features[name]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pydict(columns, schema=self._schema), sink, compression="zstd")
        return sink.getvalue().to_pybytes()
