"""A version is served only if its signature fits the spec, and holds every request and answer against it."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from starlette.requests import Request

from operators.core.errors import RejectedError
from operators.core.spec import PredictionSpec
from ray_jobs.serve.protocol import write_request
from ray_jobs.serve.version import Version
from ray_jobs.training.signature import input_example, signature_of
from tests.support.specs import small_spec

FEATURES = {"carrier": "category", "month": "integer", "temp": "number?"}
ROWS = [{"carrier": "AA", "month": 3, "temp": 1.5}, {"carrier": "UA", "month": 4, "temp": None}]
CODE = """
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

class M(PythonModel):
    def predict(self, context, model_input, params=None):
        return {answer}

set_model(M())
"""


@pytest.fixture
def spec() -> PredictionSpec:
    return small_spec(data={"features": FEATURES})


@pytest.fixture
def logged(tmp_path: Path, spec: PredictionSpec, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TAXIWAY_STORAGE_URL", (tmp_path / "storage").as_uri())

    def log(answer: str, signature: ModelSignature | None, *, example: bool = True) -> str:
        code = tmp_path / "code.py"
        code.write_text(CODE.format(answer=answer))
        rows = input_example(spec, pa.Table.from_pylist(ROWS)) if example and signature else None
        path = tmp_path / uuid.uuid4().hex
        mlflow.pyfunc.save_model(
            path, python_model=str(code), signature=signature, input_example=rows, pip_requirements=[]
        )
        return str(path)

    return log


def ask(version: Version, rows: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    status, answer, _ = version.infer(json.dumps(write_request(rows, FEATURES)).encode(), [])
    return status, json.loads(answer)


def test_a_version_answers_as_its_signature_says(logged: Any, spec: PredictionSpec) -> None:
    uri = logged("[0.25] * len(model_input['month'])", signature_of(spec))
    version = Version(spec.to_json(), "1", uri)
    status, answer = ask(version, ROWS)
    assert (status, answer["outputs"][0]["data"]) == (200, [0.25, 0.25])
    assert ask(version, [{**ROWS[0], "month": 2**40}])[0] == 200


def test_a_model_of_32_bits_refuses_what_it_cannot_hold(logged: Any, spec: PredictionSpec) -> None:
    inputs = Schema(
        [ColSpec("string", "carrier"), ColSpec("integer", "month"), ColSpec("float", "temp", required=False)]
    )
    narrow = ModelSignature(inputs=inputs, outputs=Schema([ColSpec("double", "probability")]))
    version = Version(spec.to_json(), "1", logged("[0.25] * len(model_input['month'])", narrow, example=False))
    assert ask(version, ROWS)[0] == 200
    status, answer = ask(version, [ROWS[0], {**ROWS[1], "month": 2**31}])
    assert status == 400
    assert answer["error"].startswith("input 'month', row 1: 2147483648 is out of range")


@pytest.mark.parametrize(
    "answer", ["[0.25] * len(model_input['mouth'])", "[0.25]", "['a'] * len(model_input['month'])"]
)
def test_a_version_that_cannot_answer_its_own_example_does_not_start(
    logged: Any, spec: PredictionSpec, answer: str
) -> None:
    with pytest.raises(RejectedError, match=r"version 7 of .* cannot answer its own input example"):
        Version(spec.to_json(), "7", logged(answer, signature_of(spec)))


@pytest.mark.parametrize("answer", ["[0.25]", "[0.25, float('nan')]", "['a', 'b']", "None", "[[0.5, 0.5]] * 2"])
def test_an_answer_that_is_not_a_number_for_each_row_is_a_failure(
    logged: Any, spec: PredictionSpec, answer: str
) -> None:
    version = Version(spec.to_json(), "7", logged(answer, signature_of(spec), example=False))
    assert ask(version, ROWS) == (500, {"error": "version 7 failed: ValueError"})


def test_a_version_that_does_not_fit_the_spec_does_not_start(logged: Any, spec: PredictionSpec) -> None:
    with pytest.raises(RejectedError, match="without a signature"):
        Version(spec.to_json(), "1", logged("[]", None))
    other = spec.model_copy(update={"data": spec.data.model_copy(update={"features": {**FEATURES, "wind": "number"}})})
    with pytest.raises(RejectedError, match="does not take the feature wind"):
        Version(other.to_json(), "1", logged("[]", signature_of(spec)))


def test_the_example_may_have_more_rows_than_a_request(logged: Any, spec: PredictionSpec) -> None:
    uri = logged("[0.25] * len(model_input['month'])", signature_of(spec))
    small = spec.model_copy(update={"serving": spec.serving.model_copy(update={"max_rows_per_request": 1})})
    version = Version(small.to_json(), "1", uri)
    assert [ask(version, rows)[0] for rows in (ROWS[:1], ROWS)] == [200, 400]


def test_serves_own_way_answers_the_same(logged: Any, spec: PredictionSpec) -> None:
    version = Version(spec.to_json(), "1", logged("[0.25] * len(model_input['month'])", signature_of(spec)))

    def post(body: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/m/1/v2/models/m/infer",
            "query_string": b"",
            "headers": headers,
        }
        answered = asyncio.run(version(Request(scope, receive)))
        return answered.status_code, bytes(answered.body)

    headers = [(b"x-request-id", b"r1"), (b"x-taxiway-arm", b"canary"), (b"x-taxiway-weight", b"500")]
    for body in (json.dumps(write_request(ROWS, FEATURES)).encode(), b"{}", b"\xff"):
        assert post(body, headers) == version.infer(body, headers)[:2]
    kept = [answer.headers for answer in version._predictions._buffer]
    assert kept == [("r1", None, "canary", 500)] * 2
