"""The prediction log of one replica: it buffers rows, and a thread writes them to object storage as Parquet files."""

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
from operators.core.traffic import ALL_BP

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
_GATHERED = 5  # times `max_rows`; so many rows are written at once, without waiting for more
_GATHER_S = 1.0
HEADERS = ("x-request-id", "x-taxiway-unit", "x-taxiway-arm", "x-taxiway-weight")
"""The headers that `EdgeHeaders.of` reads."""


class EdgeHeaders(NamedTuple):
    """What the edge's headers say about a request.

    :param request_id: the same for stable's answer and for the shadow's
    :param unit: id of the unit; None: the request is a unit of its own
    :param arm: one of `ARMS`; None: the request did not come through the edge
    :param weight_bp: the canary's weight when the request was assigned; None: the edge did not say
    """

    request_id: str
    unit: str | None
    arm: str | None = None
    weight_bp: int | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], unit: str | None) -> EdgeHeaders:
        """Read the headers. A value that the edge cannot have sent is ignored.

        :param headers: by names in lower case
        :param unit: the unit in the body, for a request without the header: the edge, too, prefers the header
        """
        arm = headers.get("x-taxiway-arm")
        weight = headers.get("x-taxiway-weight", "")
        known = weight.isascii() and weight.isdigit() and len(weight) <= len(str(ALL_BP)) and int(weight) <= ALL_BP
        return cls(
            request_id=headers.get("x-request-id") or uuid.uuid4().hex,
            unit=headers.get("x-taxiway-unit") or unit,
            arm=arm if arm in ARMS else None,
            weight_bp=int(weight) if known else None,
        )


class _Answer(NamedTuple):
    headers: EdgeHeaders
    at_us: int
    features: tuple[Any, ...]  # one column after the other: the garbage collector does not track a flat tuple
    values: tuple[float, ...]


class PredictionLog:
    """The answers of one replica, in memory until they are written to object storage.

    :param storage: where the files go, in the folders of `hour_prefix`
    :param spec: has the columns, and how often a file is written
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
        self._buffer: deque[_Answer] = deque()
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

    def add(self, headers: EdgeHeaders, columns: Mapping[str, list[Any]], values: list[float]) -> None:
        """Buffer one answered request. This never waits for the store."""
        features = tuple(chain.from_iterable([columns[name] for name in self._features]))
        answer = _Answer(headers, time.time_ns() // 1000, features, tuple(values))
        with self._lock:
            self._buffer.append(answer)
            self._rows += len(values)
            self._drop_oldest()
            rows = self._rows
        if rows >= self._max_rows:
            self._wake.set()
            if rows >= _GATHERED * self._max_rows:
                self._full.set()

    def _drop_oldest(self) -> None:
        while self._rows > _MOST_BUFFERED * self._max_rows and len(self._buffer) > 1:
            dropped = len(self._buffer.popleft().values)
            self._rows -= dropped
            self.dropped_rows += dropped

    def close(self) -> None:
        """Write the buffered rows and stop."""
        self._closed = True
        self._wake.set()
        self._full.set()
        self._thread.join(timeout=10)

    def _work(self, flush_every_s: float) -> None:
        while not self._closed:
            if self._wake.wait(flush_every_s):
                # Under load, write a file a second and not one every few milliseconds: each write has a cost of its own.
                self._full.wait(_GATHER_S)
            self._wake.clear()
            self._full.clear()
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows as one file. If that fails, they stay for the next try.

        If only the store's answer was lost, the next try writes the rows again under another name. So readers take the first
        row of each request.
        """
        with self._lock:
            answers, self._buffer = self._buffer, deque()
            rows, self._rows = self._rows, 0
        if not answers:
            return
        key = f"{hour_prefix(self._model, self._version, datetime.now(UTC))}/{uuid.uuid4().hex}.parquet"
        try:
            self._storage.put_bytes(key, self._parquet(answers), if_absent=True)
        except TaxiwayError as error:
            _log.warning("the store did not take %d predictions; the next write tries them again: %s", rows, error)
            with self._lock:
                self._buffer.extendleft(reversed(answers))
                self._rows += rows
                self._drop_oldest()

    def _parquet(self, answers: Collection[_Answer]) -> bytes:
        """Make the file with few steps in Python: while they run, requests wait."""
        headers, at_us, features, values = zip(*answers, strict=True)
        request_ids, units, arms, weights = zip(*headers, strict=True)
        rows = np.fromiter(map(len, values), np.int64, len(values))  # of each request
        request: Any = np.repeat(np.arange(len(rows)), rows)  # of each row
        before = (np.cumsum(rows) - rows)[request]
        row = np.arange(len(request)) - before
        of_request = {
            "request_id": request_ids,
            "unit": units,
            "arm": arms,
            "weight_bp": weights,
            "predicted_at": np.array(at_us, "datetime64[us]"),
        }
        columns = {name: pa.array(column, _OWN[name]).take(pa.array(request)) for name, column in of_request.items()}
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
        # These settings make files that are fast to write, not small. Readers need statistics of the times only.
        pq.write_table(
            table, sink, compression="snappy", use_dictionary=self._repeating, write_statistics=["predicted_at"]
        )
        return sink.getvalue().to_pybytes()


def _joined(parts: Iterable[Iterable[Any]], dtype: Any, count: int) -> Any:
    return np.fromiter(chain.from_iterable(parts), dtype, count)
