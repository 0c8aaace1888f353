from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.core.errors import RejectedError
from operators.core.storage import Storage
from ray_jobs.trainers import lightgbm_served, xgboost_served
from ray_jobs.trainers.encoding import category_places, encode, learn_encoder, matrix
from tests.support.training import spec, table, training_run, write

ENCODER = {"number": None, "category": ["a", "b", "ü"], "flag": None, "count": None}
CODES = {name: v and {value: code for code, value in enumerate(v)} for name, v in ENCODER.items()}
row = st.fixed_dictionaries(
    {
        "number": st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        "category": st.none() | st.sampled_from(["a", "b", "ü", "new", ""]),
        "flag": st.none() | st.booleans(),
        "count": st.none() | st.integers(-(2**40), 2**40),
    }
)
SCHEMA = pa.schema({"number": pa.float64(), "category": pa.string(), "flag": pa.bool_(), "count": pa.int64()})


@pytest.mark.parametrize("served", [xgboost_served, lightgbm_served])
@given(rows=st.lists(row, min_size=1, max_size=20))
@settings(max_examples=50)
def test_serving_encodes_as_training_did(served: Any, rows: list[dict[str, Any]]) -> None:
    batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
    columns = {name: [values[name] for values in rows] for name in ENCODER}
    trained = encode(ENCODER, batch)
    assert trained.dtype == np.float32
    np.testing.assert_array_equal(served.encode(CODES, columns), trained)
    np.testing.assert_array_equal(served.encode(CODES, pd.DataFrame(columns, dtype=object)), trained)


def test_null_and_what_training_did_not_see_are_nan() -> None:
    batch = pa.RecordBatch.from_pylist([{"category": None}, {"category": "new"}, {"category": "b"}], SCHEMA)
    assert [math.isnan(value) for value in encode(ENCODER, batch)[:, 1]] == [True, True, False]
    assert encode(ENCODER, batch)[2, 1] == 1


def test_a_category_may_be_a_number_or_a_dictionary() -> None:
    numbers = pa.record_batch({"c": pa.array([10, None, 30])})
    texts = pa.record_batch({"c": pa.array(["30", "x"]).dictionary_encode()})
    encoder = {"c": ["10", "30"]}
    np.testing.assert_array_equal(encode(encoder, numbers)[:, 0], [0, np.nan, 1])
    np.testing.assert_array_equal(encode(encoder, texts)[:, 0], [1, np.nan])


def test_the_encoder_knows_the_training_rows_alone(tmp_path: Path) -> None:
    rows = table(200)
    carriers = rows["carrier"].to_pylist()
    carriers[-2] = "ZZ"  # in the holdout
    carriers[9] = "YY"  # has no label
    storage = Storage(f"file://{tmp_path}/store")
    write(storage, rows.set_column(4, "carrier", pa.array(carriers)), tmp_path)
    run = training_run(storage, spec(), tmp_path)
    encoder = learn_encoder(run.data, run.spec.features)
    assert encoder == {"distance": None, "wind": None, "carrier": ["AA", "B6", "UA"]}
    assert category_places(encoder) == [2]


def test_the_matrix_is_a_mapped_file(tmp_path: Path) -> None:
    batches = [pa.RecordBatch.from_pylist([{"x": 1.0, "y": True}, {"x": None, "y": False}])] * 3
    features, label = matrix(batches, {"x": None}, "y", tmp_path)
    assert isinstance(features, np.memmap)
    np.testing.assert_array_equal(features[:, 0], [1, np.nan] * 3)
    np.testing.assert_array_equal(label, [1, 0] * 3)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no rows to learn from"),
        ([pa.record_batch({"x": [1.0], "y": [2]})], "y has other values than 0 and 1"),
        ([pa.record_batch({"x": [1.0], "y": [0.5]})], "y has other values than 0 and 1"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(tmp_path: Path, batches: list[pa.RecordBatch], message: str) -> None:
    with pytest.raises(RejectedError, match=message):
        matrix(batches, {"x": None}, "y", tmp_path)
