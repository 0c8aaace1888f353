"""Keep predictions: a replica buffers rows and writes immutable Parquet to object storage, off the request path."""

from __future__ import annotations

import logging
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.core.errors import TaxiwayError
from operators.core.spec import ModelSpec
from operators.core.storage import Storage

_log = logging.getLogger(__name__)
_TYPES = {"category": pa.string(), "number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}
_OWN = {
    "request_id": pa.string(),
    "row": pa.int64(),
    "unit": pa.string(),
    "predicted_at": pa.timestamp("us", "UTC"),
    "model": pa.string(),
    "version": pa.string(),
    "prediction": pa.float64(),
}
_MOST_BUFFERED = 20  # times `max_rows`; beyond it the oldest rows go, so that a lost store cannot fill the memory


class PredictionLog:
    """One replica's log.

    :param storage: where the files go, below ``predictions/<model>/date=…/``
    :param spec: says what the columns are and how often a file is written
    :param version: the version that answers
    """

    def __init__(self, storage: Storage, spec: ModelSpec, version: str) -> None:
        self._storage = storage
        self._model = spec.name
        self._version = version
        self._max_rows = spec.monitoring.prediction_log.max_rows
        features = {f"feature_{name}": _TYPES[kind.rstrip("?")] for name, kind in spec.features.items()}
        self._schema = pa.schema(list({**_OWN, **features}.items()))
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self.dropped_rows = 0
        self._thread = threading.Thread(
            target=self._work, args=(spec.monitoring.prediction_log.flush_every_s,), daemon=True
        )
        self._thread.start()

    def add(self, request_id: str, unit: str | None, columns: dict[str, list[Any]], values: list[float]) -> None:
        """Remember one answered request; never blocks on the store."""
        now = datetime.now(UTC)
        fresh = [
            {
                "request_id": request_id,
                "row": index,
                "unit": unit,
                "predicted_at": now,
                "model": self._model,
                "version": self._version,
                "prediction": value,
                **{f"feature_{name}": column[index] for name, column in columns.items()},
            }
            for index, value in enumerate(values)
        ]
        with self._lock:
            self._rows.extend(fresh)
            excess = len(self._rows) - _MOST_BUFFERED * self._max_rows
            if excess > 0:
                del self._rows[:excess]
                self.dropped_rows += excess
            full = len(self._rows) >= self._max_rows
        if full:
            self._wake.set()

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
        """Write the buffered rows as one file; on a failure they stay for the next try."""
        with self._lock:
            rows, self._rows = self._rows, []
        if not rows:
            return
        key = f"predictions/{self._model}/date={rows[0]['predicted_at']:%Y-%m-%d}/{uuid.uuid4().hex}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=self._schema), sink, compression="zstd")
        try:
            self._storage.put_bytes(key, sink.getvalue().to_pybytes(), if_absent=True)
        except TaxiwayError as error:
            _log.warning("%d predictions could not be written and will be tried again: %s", len(rows), error)
            with self._lock:
                self._rows = rows + self._rows
