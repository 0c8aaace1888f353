from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.models.utils import _enforce_schema
from mlflow.types import ColSpec, Schema

from operators.core.errors import RejectedError
from operators.core.spec import PredictionSpec
from ray_jobs.training.signature import input_example, limits_of, signature_of
from tests.support.specs import small_spec

ROWS: dict[str, list[Any]] = {
    "carrier": ["AA", None, "UA"],
    "distance": [733, 12, 5],
    "month": [None, 3, 4],
    "is_new": [True, False, None],
    "temp": [40.5, None, 1.0],
}
KINDS = {"carrier": "category?", "distance": "number", "month": "integer?", "is_new": "boolean?", "temp": "number?"}


def spec_of(features: dict[str, str]) -> PredictionSpec:
    return small_spec(data={"features": features})


def test_signature_has_the_features_in_order_with_type_and_need() -> None:
    made = signature_of(spec_of(KINDS))
    assert [(c.name, c.type.name, c.required) for c in made.inputs.inputs] == [
        ("carrier", "string", False),
        ("distance", "double", True),
        ("month", "long", False),
        ("is_new", "boolean", False),
        ("temp", "double", False),
    ]
    assert [(c.name, c.type.name) for c in made.outputs.inputs] == [("probability", "double")]
    assert ModelSignature.from_dict(made.to_dict()) == made


def test_example_takes_rows_that_mlflow_can_hold() -> None:
    spec = spec_of(KINDS)
    example = input_example(spec, pa.table(ROWS))
    assert example.to_dict("records") == [
        {
            "carrier": None,
            "distance": 12.0,
            "month": 3,
            "is_new": False,
            "temp": pytest.approx(float("nan"), nan_ok=True),
        }
    ]
    _enforce_schema(example, signature_of(spec).inputs)


def test_example_leaves_out_optional_columns_that_are_never_known() -> None:
    spec = spec_of(KINDS)
    example = input_example(spec, pa.table({**ROWS, "month": pa.array([None] * 3, pa.int64())}), rows=2)
    assert list(example) == ["carrier", "distance", "is_new", "temp"]
    assert len(example) == 2
    _enforce_schema(example, signature_of(spec).inputs)


def test_example_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no row"):
        input_example(spec_of(KINDS), pa.table(ROWS).slice(0, 0))


def test_example_is_of_the_kinds_of_the_spec() -> None:
    with pytest.raises(ValueError, match="truncated"):
        input_example(spec_of(KINDS), pa.table({**ROWS, "month": [None, 3.5, 4.0]}))


def test_mlflow_keeps_signature_and_example(tmp_path: Path) -> None:
    spec = spec_of(KINDS)
    code = tmp_path / "model.py"
    code.write_text(
        "from mlflow.models import set_model\n"
        "from mlflow.pyfunc import PythonModel\n"
        "class M(PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return [0.5] * len(model_input['distance'])\n"
        "set_model(M())\n"
    )
    mlflow.pyfunc.save_model(
        tmp_path / "saved",
        python_model=str(code),
        signature=signature_of(spec),
        input_example=input_example(spec, pa.table(ROWS)),
        pip_requirements=[],
    )
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "saved"))
    assert loaded.metadata.signature == signature_of(spec)
    assert loaded.predict(loaded.input_example) == [0.5]


def signature(outputs: Any = None, **types: Any) -> ModelSignature:
    """The signature of the spec with other types; ``None`` leaves a column out, a ``?`` makes it optional."""
    known: dict[str, Any] = {
        "carrier": "string?",
        "distance": "double",
        "month": "long?",
        "is_new": "boolean?",
        "temp": "double?",
    }
    columns = [
        ColSpec(kind.rstrip("?"), name, required=not kind.endswith("?"))
        for name, kind in {**known, **types}.items()
        if kind is not None
    ]
    return ModelSignature(inputs=Schema(columns), outputs=outputs or Schema([ColSpec("double", "probability")]))


def test_a_signature_that_fits_the_spec_says_what_its_types_hold() -> None:
    spec = spec_of(KINDS)
    assert limits_of(signature_of(spec), spec) == {}
    narrow = signature(month="integer?", temp="float?", distance="float", outputs=Schema([ColSpec("float")]))
    assert {name: high for name, (_, high) in limits_of(narrow, spec).items()} == {
        "month": 2**31 - 1,
        "temp": float(np.finfo(np.float32).max),
        "distance": float(np.finfo(np.float32).max),
    }


def test_a_model_may_take_null_where_the_spec_does_not() -> None:
    assert limits_of(signature(distance="double?"), spec_of(KINDS)) == {}


def test_a_signature_that_mlflow_inferred_from_arrays_fits() -> None:
    spec = spec_of({"distance": "number", "month": "integer"})
    frame = pd.DataFrame({"distance": [1.0], "month": [1]})
    assert limits_of(infer_signature(frame, np.array([0.5])), spec) == {}


@pytest.mark.parametrize(
    ("logged", "reason"),
    [
        (None, "without a signature"),
        (ModelSignature(inputs=Schema([ColSpec("double", "distance")])), "without a signature"),
        (signature(month=None), "does not take the feature month"),
        (signature(dep_delay="double"), "takes dep_delay, which is no feature"),
        (signature(month="double?"), "month is double, but the spec says integer?, which is long or integer"),
        (signature(distance="string"), "distance is string, but the spec says number"),
        (signature(is_new="long?"), "is_new is long, but the spec says boolean?, which is boolean"),
        (signature(temp="double"), "temp is required, but the spec says number?, which may be null"),
        (signature(outputs=Schema([ColSpec("string")])), "not one column of numbers"),
        (signature(outputs=Schema([ColSpec("double", "a"), ColSpec("double", "b")])), "not one column of numbers"),
        (infer_signature(np.zeros((2, 5)), np.zeros(2)), "inputs are not named columns"),
        (infer_signature(pd.DataFrame({"distance": [[1.0]]}), np.zeros((2, 3))), "not one column of numbers"),
    ],
)
def test_a_signature_that_does_not_fit_is_refused(logged: Any, reason: str) -> None:
    with pytest.raises(RejectedError) as caught:
        limits_of(logged, spec_of(KINDS))
    assert reason in str(caught.value)


def test_every_difference_is_listed() -> None:
    with pytest.raises(RejectedError, match=r"no feature.*month is double.*not one column"):
        limits_of(signature(x="long", month="double?", outputs=Schema([ColSpec("string")])), spec_of(KINDS))
