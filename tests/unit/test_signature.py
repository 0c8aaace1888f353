from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pytest
from mlflow.models import ModelSignature
from mlflow.models.utils import _enforce_schema

from operators.core.loader import load_specs
from operators.core.spec import ModelSpec
from ray_jobs.signature import input_example, signature_of

ROWS: dict[str, list[Any]] = {
    "carrier": ["AA", None, "UA"],
    "distance": [733, 12, 5],
    "month": [None, 3, 4],
    "is_new": [True, False, None],
    "temp": [40.5, None, 1.0],
}
KINDS = {"carrier": "category?", "distance": "number", "month": "integer?", "is_new": "boolean?", "temp": "number?"}


def spec_of(features: dict[str, str]) -> ModelSpec:
    known = load_specs()[0][0]
    data = known.data.model_copy(update={"features": features})
    return known.model_copy(update={"data": data})


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
