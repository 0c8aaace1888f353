"""What it costs to hold a request against the model's signature: our check, MLflow's own, and none.

The model is trivial, so that the figures are the checks'. Prints JSON: median milliseconds for a request, by rows.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pyarrow as pa

from operators.core.loader import INCLUDE, load_spec
from ray_jobs.serve.fast_reader import Reader
from ray_jobs.serve.protocol import read_output, write_answer, write_request
from ray_jobs.training.signature import input_example, limits_of, signature_of

_VALUES: dict[str, Any] = {"category": "AA", "number": 10.5, "integer": 5, "boolean": True}
_CODE = """
import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

class Constant(PythonModel):
    def predict(self, context, model_input, params=None):
        return np.full(len(next(iter(model_input.values())) if isinstance(model_input, dict) else model_input), 0.25)

set_model(Constant())
"""


def median_ms(ask: Callable[[], Any], times: int, rounds: int = 7) -> float:
    """Return the median over some rounds of the mean time of one request."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(times):
            ask()
        found.append((time.perf_counter() - began) / times * 1000)
    return round(statistics.median(found), 4)


def main() -> None:
    spec = load_spec(INCLUDE / "models" / "flight_delay.yaml")
    row = {name: _VALUES[kind.rstrip("?")] for name, kind in spec.features.items()}
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "constant.py"
        code.write_text(_CODE)
        mlflow.pyfunc.save_model(
            f"{folder}/model",
            python_model=str(code),
            signature=signature_of(spec),
            input_example=input_example(spec, pa.Table.from_pylist([row] * 5)),
            pip_requirements=[],
        )
        loaded = mlflow.pyfunc.load_model(f"{folder}/model")
    bare = loaded.unwrap_python_model()
    reader = Reader(spec.features, max_rows=10_000, limits=limits_of(loaded.metadata.signature, spec))

    def none(body: bytes) -> bytes:
        columns = {tensor["name"]: tensor["data"] for tensor in json.loads(body)["inputs"]}
        values = bare.predict(None, columns).tolist()
        return write_answer(model="m", version="1", request_id=None, output="p", values=values)

    def ours(body: bytes) -> bytes:
        request = reader.read(body)
        values = read_output(bare.predict(None, request.columns), request.rows)
        return write_answer(model="m", version="1", request_id=None, output="p", values=values)

    def mlflows(body: bytes) -> bytes:
        frame = pd.DataFrame({tensor["name"]: tensor["data"] for tensor in json.loads(body)["inputs"]})
        values = loaded.predict(frame).tolist()
        return write_answer(model="m", version="1", request_id=None, output="p", values=values)

    found: dict[str, Any] = {}
    for rows, times in ((1, 500), (1000, 40)):
        body = json.dumps(write_request([row] * rows, spec.features)).encode()
        found[f"{rows}_rows_ms"] = {
            "no_check": median_ms(lambda body=body: none(body), times),
            "our_check": median_ms(lambda body=body: ours(body), times),
            "mlflow_check": median_ms(lambda body=body: mlflows(body), min(times, 100)),
        }
    print(json.dumps({"features": len(spec.features), **found}, indent=2))


if __name__ == "__main__":
    main()
