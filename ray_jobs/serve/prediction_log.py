"""Keep predictions: a replica buffers rows and writes immutable Parquet to object storage, off the request path."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.core.errors import TaxiwayError
from operators.core.predictions import ARMS, hour_prefix
from operators.core.spec import PredictionSpec
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
_GATHERED = 5  # times `max_rows` in one file at most
_GATHER_S = 1.0
_WHOLE_BP = 10_000
HEADERS = ("x-request-id", "x-taxiway-unit", "x-taxiway-arm", "x-taxiway-weight")
"""The headers that `EdgeHeaders.of` reads."""


class EdgeHeaders(NamedTuple):
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
    def of(cls, headers: Mapping[str, str], unit: str | None) -> EdgeHeaders:
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
    asked: EdgeHeaders
    at_us: int
    features: tuple[Any, ...]  # one column after the other: a flat tuple costs the garbage collector nothing
    values: tuple[float, ...]


class PredictionLog:
    """What one replica has predicted, in memory until it is written to object storage.

    :param storage: where the files go; `hour_prefix` says which folder
    :param spec: says what the columns are and how often a file is written
    :param version: the version that answers
    """

    def __init__(self, storage: Storage, spec: PredictionSpec, version: str) -> None:
        self._storage = storage
        self._model = spec.name
        self._version = version
        self._max_rows = spec.monitoring.prediction_log.max_rows
        self._features = tuple(spec.features)
        features = {f"feature_{name}": _TYPES[kind.rstrip("?")] for name, kind in spec.features.items()}
        self._schema = pa.schema(list({**_OWN, **features}.items()))
        self._repeating = [field.name for field in self._schema if field.type == pa.string() or field.name == "arm"]
        self._repeating.remove("request_id")
        self._answered: deque[_Answered] = deque()
        self._rows = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._full = threading.Event()
        self._closed = False
        self.dropped_rows = 0
        self._thread = threading.Thread(
            target=self._work, args=(spec.monitoring.prediction_log.flush_every_s,), daemon=True
        )
        self._thread.start()

    def add(self, asked: EdgeHeaders, columns: Mapping[str, list[Any]], values: list[float]) -> None:
        """Remember one answered request; never blocks on the store."""
        features = tuple(chain.from_iterable([columns[name] for name in self._features]))
        answered = _Answered(asked, time.time_ns() // 1000, features, tuple(values))
        with self._lock:
            self._answered.append(answered)
            self._rows += len(values)
            self._drop_oldest()
            rows = self._rows
        if rows >= self._max_rows:
            self._wake.set()
            if rows >= _GATHERED * self._max_rows:
                self._full.set()

    def _drop_oldest(self) -> None:
        while self._rows > _MOST_BUFFERED * self._max_rows and len(self._answered) > 1:
            gone = len(self._answered.popleft().values)
            self._rows -= gone
            self.dropped_rows += gone

    def close(self) -> None:
        """Write what is left and stop."""
        self._closed = True
        self._wake.set()
        self._full.set()
        self._thread.join(timeout=10)

    def _work(self, flush_every_s: float) -> None:
        while not self._closed:
            if self._wake.wait(flush_every_s):
                # Under load a file a second, not one every few milliseconds: writing it costs more than what is in it.
                self._full.wait(_GATHER_S)
            self._wake.clear()
            self._full.clear()
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

    def _parquet(self, answered: Collection[_Answered]) -> bytes:
        """Make the columns with few steps in Python: this takes its time from the requests that come meanwhile."""
        asked, at_us, features, values = zip(*answered, strict=True)
        request_ids, units, arms, weights = zip(*asked, strict=True)
        rows = np.fromiter(map(len, values), np.int64, len(values))  # of each request
        request: Any = np.repeat(np.arange(len(rows)), rows)  # of each row
        before = (np.cumsum(rows) - rows)[request]
        row = np.arange(len(request)) - before
        told = {
            "request_id": request_ids,
            "unit": units,
            "arm": arms,
            "weight_bp": weights,
            "predicted_at": np.array(at_us, "datetime64[us]"),
        }
        columns = {name: pa.array(column, _OWN[name]).take(pa.array(request)) for name, column in told.items()}
        columns["row"] = pa.array(row)
        columns["model"] = pa.repeat(self._model, len(row))
        columns["version"] = pa.repeat(self._version, len(row))
        columns["prediction"] = pa.array(_joined(values, np.float64, len(row)))
        cells = _joined(features, object, len(row) * len(self._features))
        first = before * len(self._features) + row
        for place, name in enumerate(self._features):
            kind = self._schema.field(f"feature_{name}").type
            columns[f"feature_{name}"] = pa.array(cells[first + place * rows[request]], kind)
        table = pa.table([columns[name] for name in self._schema.names], schema=self._schema)
        sink = pa.BufferOutputStream()
        # Not the smallest files but those that are written fastest; what reads them needs no more than the times' bounds.
        pq.write_table(
            table, sink, compression="snappy", use_dictionary=self._repeating, write_statistics=["predicted_at"]
        )
        return sink.getvalue().to_pybytes()


def _joined(parts: Iterable[Iterable[Any]], dtype: Any, count: int) -> Any:
    return np.fromiter(chain.from_iterable(parts), dtype, count)
