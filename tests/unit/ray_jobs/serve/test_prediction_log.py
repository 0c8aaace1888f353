"""What a replica keeps of its answers, and where."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from operators.core.errors import ServiceError
from operators.core.predictions import hour_prefix, hours
from operators.core.spec import PredictionSpec
from operators.core.storage import Storage
from ray_jobs.serve.prediction_log import EdgeHeaders, PredictionLog
from tests.support.specs import small_spec

FEATURES = {"carrier": "category", "temp": "number?"}
COLUMNS = {"carrier": ["AA", "UA"], "temp": [1.5, None]}


@pytest.fixture
def spec() -> PredictionSpec:
    log = {"flush_every": "1h", "max_rows": 2}
    return small_spec(data={"features": FEATURES}, monitoring={"prediction_log": log})


class Flaky(Storage):
    """A store that refuses so many writes, after it has done them or not."""

    refusals = 0
    done_all_the_same = False

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        if self.refusals:
            self.refusals -= 1
            if self.done_all_the_same:
                super().put_bytes(key, data, if_absent=if_absent)
            raise ServiceError("the store is away")
        return super().put_bytes(key, data, if_absent=if_absent)


@pytest.fixture
def storage(tmp_path: Path) -> Flaky:
    return Flaky(tmp_path.as_uri())


def kept(storage: Storage) -> pa.Table:
    keys = storage.list("predictions")
    return pa.concat_tables([pq.read_table(io.BytesIO(storage.get_bytes(key))) for key in keys])


def test_a_row_says_who_answered_and_why(spec: PredictionSpec, storage: Flaky) -> None:
    log = PredictionLog(storage, spec, "4")
    headers = {"x-request-id": "r1", "x-taxiway-arm": "canary", "x-taxiway-weight": "500", "x-taxiway-unit": "u1"}
    before = datetime.now(UTC)
    log.add(EdgeHeaders.of(headers, "of the body"), COLUMNS, [0.25, 0.75])
    log.close()
    (key,) = storage.list("predictions")
    assert re.fullmatch(r"predictions/small/version=4/date=\d{4}-\d\d-\d\d/hour=\d\d/[0-9a-f]{32}\.parquet", key)
    first, second = kept(storage).to_pylist()
    assert before <= first.pop("predicted_at") == second["predicted_at"] <= datetime.now(UTC)
    assert first == {
        "request_id": "r1",
        "row": 0,
        "unit": "u1",
        "arm": "canary",
        "weight_bp": 500,
        "model": "small",
        "version": "4",
        "prediction": 0.25,
        "feature_carrier": "AA",
        "feature_temp": 1.5,
    }
    assert (second["row"], second["prediction"], second["feature_temp"]) == (1, 0.75, None)


def test_a_shadows_answer_stands_beside_stables(spec: PredictionSpec, storage: Flaky) -> None:
    for version, arm in (("3", "stable"), ("4", "shadow")):
        log = PredictionLog(storage, spec, version)
        log.add(EdgeHeaders.of({"x-request-id": "r1", "x-taxiway-arm": arm}, "u"), COLUMNS, [0.5, 0.5])
        log.close()
    rows = [row for row in kept(storage).to_pylist() if row["row"] == 0]
    assert {(row["request_id"], row["arm"], row["version"]) for row in rows} == {
        ("r1", "stable", "3"),
        ("r1", "shadow", "4"),
    }


@pytest.mark.parametrize("weight", ["", "-1", "10001", "5.0", "٣", "1" * 5000, "x"])
def test_headers_that_the_edge_did_not_write_are_no_facts(weight: str) -> None:
    asked = EdgeHeaders.of({"x-taxiway-arm": "boss", "x-taxiway-weight": weight}, "u")
    assert (asked.arm, asked.weight_bp, asked.unit) == (None, None, "u")
    assert len(asked.request_id) == 32
    assert EdgeHeaders.of({"x-taxiway-weight": "10000"}, None)[2:] == (None, 10_000)


@pytest.mark.parametrize("done_all_the_same", [False, True])
def test_a_store_that_was_away_loses_no_row(spec: PredictionSpec, storage: Flaky, done_all_the_same: bool) -> None:
    storage.refusals, storage.done_all_the_same = 1, done_all_the_same
    log = PredictionLog(storage, spec.model_copy(), "4")
    log._closed = True  # no thread: this test flushes by itself
    log._wake.set()
    log._thread.join()
    for number in range(3):
        log.add(
            EdgeHeaders(f"r{number}", None), {name: values[:1] for name, values in COLUMNS.items()}, [float(number)]
        )
        log.flush()
    rows = kept(storage).to_pylist()
    assert {(row["request_id"], row["prediction"]) for row in rows} == {("r0", 0.0), ("r1", 1.0), ("r2", 2.0)}
    assert len(rows) == (4 if done_all_the_same else 3)
    assert log.dropped_rows == 0


def test_a_store_that_stays_away_fills_no_memory(spec: PredictionSpec, storage: Flaky) -> None:
    storage.refusals = 10**9
    log = PredictionLog(storage, spec, "4")
    for number in range(100):
        log.add(EdgeHeaders(f"r{number}", None), COLUMNS, [0.0, 1.0])
    log.close()
    assert log._rows == 40  # twenty times max_rows
    assert log.dropped_rows == 160
    assert [answer.headers.request_id for answer in log._buffer] == [f"r{number}" for number in range(80, 100)]


def test_the_hours_of_a_release() -> None:
    begin = datetime(2026, 12, 31, 22, 59, 59, tzinfo=UTC)
    in_order = list(hours(begin, begin + timedelta(hours=2)))
    assert [hour_prefix("m", "7", hour) for hour in in_order] == [
        "predictions/m/version=7/date=2026-12-31/hour=22",
        "predictions/m/version=7/date=2026-12-31/hour=23",
        "predictions/m/version=7/date=2027-01-01/hour=00",
    ]
