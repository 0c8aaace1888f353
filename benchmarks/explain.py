"""How long `taxiway explain` looks for a request in a large prediction log, against a scan of all of it.

2,000 files with 5 million rows, written over a day, in a folder or an S3 store. The ids tell no time, or are UUIDs of version 7,
which do. Prints JSON: seconds.

    python -m benchmarks.explain [--url s3://bucket/prefix] [--files 2000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from operators.audit.request_search import Explainer
from operators.core.predictions import hour_prefix
from operators.core.storage import Storage

_MODEL, _VERSION, _ROWS, _HOURS = "flight_delay", "1", 2_500, 24
_OF_REPLICA = {"compression": "snappy", "write_statistics": ["predicted_at"]}  # as the replicas write


def main() -> None:
    """Write a log, and look for requests in it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", help="where the log goes, and stays (default: a temporary folder)")
    parser.add_argument("--files", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        end = datetime.now(UTC)
        asked = _write(made, end, options.files)
        storage = Storage(options.url or made.as_uri())
        if options.url:
            storage.upload_all(made / "predictions", "predictions")
        print(
            json.dumps(
                {"files": options.files, "rows": options.files * _ROWS} | _measure(storage, asked, end), indent=2
            )
        )


def _write(folder: Path, end: datetime, files: int) -> dict[str, dict[str, str]]:
    """Write the files. Return the ids of three requests, by when they were made, with and without a time in them."""
    random = np.random.default_rng(1)
    asked: dict[str, dict[str, str]] = {"4": {}, "7": {}}
    wanted = {files // 100: "newest", files // 2: "middle", files - 1: "oldest"}
    for number in range(files):
        at = end - timedelta(hours=_HOURS * number / files)
        ids = [str(uuid.UUID(bytes=random.bytes(16), version=4)) for _ in range(_ROWS)]
        stamp = f"{int(at.timestamp() * 1000):012x}"
        ids[1] = f"{stamp[:8]}-{stamp[8:]}-7{ids[1][15:]}"
        if number in wanted:
            asked["4"][wanted[number]], asked["7"][wanted[number]] = ids[:2]
        path = folder / hour_prefix(_MODEL, _VERSION, at) / f"{uuid.uuid4().hex}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_rows(random, ids, at), path, use_dictionary=["unit", "arm", "model", "version"], **_OF_REPLICA)
    return asked


def _rows(random: Any, ids: list[str], at: datetime) -> pa.Table:
    times = int(at.timestamp() * 1e6) - random.integers(0, 40_000_000, _ROWS)
    columns = {
        "request_id": pa.array(ids),
        "row": pa.array(np.zeros(_ROWS, np.int64)),
        "unit": pa.array([f"u{unit}" for unit in random.integers(0, 100_000, _ROWS)]),
        "arm": pa.array(["stable"] * _ROWS),
        "weight_bp": pa.array(np.zeros(_ROWS, np.int16)),
        "predicted_at": pa.array(times.astype("datetime64[us]"), pa.timestamp("us", "UTC")),
        "model": pa.repeat(_MODEL, _ROWS),
        "version": pa.repeat(_VERSION, _ROWS),
    }
    features = {f"feature_{name}": pa.array(random.random(_ROWS)) for name in range(10)}
    return pa.table(columns | {"prediction": pa.array(random.random(_ROWS))} | features)


def _measure(storage: Storage, asked: dict[str, dict[str, str]], end: datetime) -> dict[str, Any]:
    explainer = Explainer(None, None, storage)  # type: ignore[arg-type] - neither is asked here
    used, begin = {_MODEL: {_VERSION}}, end - timedelta(hours=_HOURS)

    def everywhere(request_id: str) -> int:
        return len(explainer._find(request_id, used, begin, end))

    def where_it_says(request_id: str) -> int:
        return len(explainer._soon(request_id, used, begin, end))

    def scan(request_id: str) -> int:
        filesystem, path = storage.arrow("predictions")
        rows = ds.dataset(path, filesystem=filesystem, format="parquet")
        return int(rows.to_table(filter=pc.field("request_id") == request_id).num_rows)

    return {
        "no_time_in_the_id": {when: _seconds(everywhere, name) for when, name in asked["4"].items()},
        "time_in_the_id": {when: _seconds(where_it_says, name) for when, name in asked["7"].items()},
        "scan_of_everything": {when: _seconds(scan, name) for when, name in asked["4"].items()},
    }


def _seconds(look: Callable[[str], int], request_id: str) -> float:
    began = time.perf_counter()
    if look(request_id) != 1:
        raise SystemExit(f"{request_id} was not found once")
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
