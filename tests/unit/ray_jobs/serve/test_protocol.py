from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.serve.protocol import BadRequestError, metadata, read_output, read_request, write_answer, write_request

FEATURES: dict[str, Any] = {
    "carrier": "category",
    "distance": "number",
    "month": "integer",
    "temp": "number?",
    "is_new": "boolean",
}
ROW = {"carrier": "AA", "distance": 733.0, "month": 3, "temp": None, "is_new": True}


def body(**changes: Any) -> dict[str, Any]:
    request = write_request([ROW, {**ROW, "temp": 40.1}], FEATURES)
    for tensor in request["inputs"]:
        tensor.update(changes.get(tensor["name"], {}))
    return request


def read(request: Any, max_rows: int = 10) -> Any:
    raw = request if isinstance(request, bytes) else json.dumps(request).encode()
    return read_request(raw, FEATURES, max_rows=max_rows)


def test_what_is_written_is_read() -> None:
    request = read({**body(), "id": "42", "parameters": {"unit": "u1"}})
    assert request.columns == {
        "carrier": ["AA", "AA"],
        "distance": [733.0, 733.0],
        "month": [3, 3],
        "temp": [None, 40.1],
        "is_new": [True, True],
    }
    assert (request.id, request.unit, request.rows) == ("42", "u1", 2)


def test_order_of_inputs_does_not_matter() -> None:
    request = body()
    request["inputs"].reverse()
    assert list(read(request).columns) == list(FEATURES)


def test_column_vectors_and_other_number_types_are_accepted() -> None:
    request = body(distance={"shape": [2, 1], "data": [[1], [2]], "datatype": "INT32"})
    assert read(request).columns["distance"] == [1, 2]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "JSON object"),
        (b"{}", "`inputs`"),
        ({"inputs": []}, "`inputs`"),
        ({"inputs": ["x"]}, "`name`"),
        ({**body(), "id": 5}, "`id` must be a string"),
        ({**body(), "parameters": []}, "`parameters`"),
        (b"[" * 100_000, "not JSON"),
        ({"inputs": body()["inputs"][1:]}, "missing input carrier"),
        ({"inputs": [*body()["inputs"], body()["inputs"][0]]}, "'carrier' appears twice"),
        ({"inputs": [*body()["inputs"], {"name": "dep_delay"}]}, "unknown input 'dep_delay'"),
        (body(carrier={"data": [1, "AA"]}), "row 0: 1 is not a valid category"),
        (body(carrier={"data": [None, "AA"]}), "row 0: null is not a valid category"),
        (body(distance={"data": ["733", 1]}), 'row 0: "733" is not a valid number'),
        (body(distance={"data": [True, 1]}), "row 0: true is not a valid number"),
        (body(distance={"data": [10**400, 1]}), "row 0"),
        (body(month={"data": [3.5, 3]}), "row 0: 3.5 is not a valid integer"),
        (body(month={"data": [2**63, 3]}), "out of range"),
        ({**body(), "id": "\ud800"}, "`id` is not valid Unicode"),
        (json.dumps(body()).replace('"AA"', '"\\ud800"').encode(), "row 0 is not valid Unicode"),
        (body(is_new={"data": [1, True]}), "row 0: 1 is not a valid boolean"),
        (body(distance={"datatype": "BYTES"}), "datatype 'BYTES'; expected FP64"),
        (body(distance={"datatype": ["FP64"]}), "datatype"),
        (body(distance={"shape": [3]}), "shape [3] but 2 values"),
        (body(distance={"data": "733"}), "needs `data`"),
        (body(distance={"data": [1.0], "shape": [1]}), "differ in length"),
        (b'{"inputs": [{"name": "distance", "data": [NaN]}]}', "NaN is not a finite number"),
        (b'{"inputs": [{"name": "distance", "data": [-Infinity]}]}', "-Infinity is not a finite number"),
        (json.dumps(body()).replace("733.0", "1e999").encode(), "out of range"),
    ],
)  # fmt: skip
def test_bad_requests_say_why(request_: Any, reason: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        read(request_)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"month": {"data": [3, 2**31]}}, "'month', row 1: 2147483648 is out of range"),
        ({"temp": {"data": [None, 1e39]}}, "'temp', row 1: 1e+39 is out of range"),
        ({"month": {"data": [3, 300], "datatype": "UINT8"}}, "'month', row 1: 300 is out of range"),
        ({"month": {"data": [-1, 3], "datatype": "UINT64"}}, "'month', row 0: -1 is out of range"),
    ],
)
def test_values_fit_the_types_of_model_and_request(changes: Any, reason: str) -> None:
    limits = {"month": (-(2.0**31), 2.0**31 - 1), "temp": (-3.4e38, 3.4e38)}
    with pytest.raises(BadRequestError) as caught:
        read_request(json.dumps(body(**changes)).encode(), FEATURES, max_rows=10, limits=limits)
    assert reason in str(caught.value)
    assert read_request(json.dumps(body()).encode(), FEATURES, max_rows=10, limits=limits).rows == 2


columns = st.lists(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3), min_size=1, max_size=6
)


@given(columns, st.sampled_from(list(FEATURES)))
def test_what_is_let_through_is_of_the_kind(data: list[Any], feature: str) -> None:
    """The fast check against one that is written down plainly."""
    kind = FEATURES[feature]

    def right(value: Any) -> bool:
        if value is None:
            return bool(kind.endswith("?"))
        if kind == "category":
            return isinstance(value, str)
        if kind == "boolean":
            return isinstance(value, bool)
        if isinstance(value, bool):
            return False
        if kind == "integer":
            return isinstance(value, int) and -(2**63) <= value < 2**63
        return isinstance(value, int | float) and math.isfinite(value)

    request = body(**{name: {"data": [ROW[name]] * len(data), "shape": [len(data)]} for name in FEATURES})
    for tensor in request["inputs"]:
        if tensor["name"] == feature:
            tensor["data"] = data
    if all(map(right, data)):
        wanted = [None if v is None else float(v) for v in data] if kind.startswith("number") else data
        assert read(request).columns[feature] == wanted
    else:
        with pytest.raises(BadRequestError):
            read(request)


def test_output_is_one_finite_number_for_each_row() -> None:
    for result in ([0.5, 1], np.float32([0.5, 1]), np.array([[0.5], [1.0]]), pd.DataFrame({"p": [0.5, 1.0]})):
        assert read_output(result, 2) == [0.5, 1.0]
    for result, reason in (
        ([0.5], "shape"),
        ([[0.5, 0.5]] * 2, "shape"),
        (["0.5", "1"], "must return numbers"),
        ([True, False], "must return numbers"),
        ([0.5, None], "must return numbers"),
        ([0.5, math.nan], "must return finite numbers"),
        ([0.5, math.inf], "must return finite numbers"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_output(result, 2)


def test_rows_are_limited() -> None:
    with pytest.raises(BadRequestError, match="1 to 1 rows; this one has 2"):
        read(body(), max_rows=1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["inputs", "name", "data", "shape", "datatype", "id"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from(list(FEATURES)), st.sampled_from(["data", "shape", "datatype", "name"]))
def test_nothing_but_bad_request_ever_escapes(value: Any, feature: str, field: str) -> None:
    for request in (value, body(**{feature: {field: value}})):
        try:
            read(json.dumps(request).encode())
        except BadRequestError as error:
            assert str(error)


@given(st.binary(max_size=200))
def test_bytes_never_crash(raw: bytes) -> None:
    with pytest.raises(BadRequestError):
        read(raw)


def test_answer() -> None:
    answer = json.loads(write_answer(model="m", version="3", request_id="a", output="p", values=[0.25, 0.5]))
    assert answer == {
        "model_name": "m",
        "model_version": "3",
        "id": "a",
        "outputs": [{"name": "p", "shape": [2], "datatype": "FP64", "data": [0.25, 0.5]}],
    }


def test_metadata_names_every_feature() -> None:
    answer = metadata(model="m", version="3", features=FEATURES, output="p")
    assert [tensor["name"] for tensor in answer["inputs"]] == list(FEATURES)
    assert [tensor["datatype"] for tensor in answer["inputs"]] == ["BYTES", "FP64", "INT64", "FP64", "BOOL"]
