"""The model that `xgboost_classifier` logs: MLflow keeps this file beside the booster and runs it wherever it serves."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


def encode(codes: Mapping[str, Mapping[str, int] | None], columns: Mapping[str, Sequence[Any]]) -> Any:
    """Return a float32 matrix of shape [rows, features].

    Null, and a category that training did not see, become NaN: XGBoost sends both down its default branch.

    :param codes: for a category, its values' codes; else None
    """
    # NumPy reads None as NaN where it makes numbers.
    arrays = [columns[name] if known is None else [*map(known.get, columns[name])] for name, known in codes.items()]
    return np.ascontiguousarray(np.array(arrays, dtype=np.float32).T)


class Direct:
    """Calls XGBoost's C function for a dense matrix as `Booster.inplace_predict` does, but without two detours.

    `inplace_predict` checks whether the matrix is one of a dozen kinds of data frames. And for each call it makes an object in C,
    which compiles a regular expression and looks up the container's limits in ``/sys``. Both take longer than the trees.

    :raises Exception: this XGBoost has no such function, or the function gives other answers; any exception
    """

    def __init__(self, booster: Any, width: int) -> None:
        from xgboost import core

        self._core, self._booster = core, booster
        self._kept = threading.local()
        options = {"type": 0, "training": False, "iteration_begin": 0, "iteration_end": 0, "missing": float("nan")}
        self._options = json.dumps({**options, "strict_shape": False, "cache_id": 0}).encode()
        for rows in (3, 1):
            known = np.tile(np.array([[0.0], [1.5], [float("nan")]], dtype=np.float32), width)[-rows:]
            if not np.array_equal(self(known), booster.inplace_predict(known, validate_features=False)):
                raise ValueError("this XGBoost answers differently when its C function is called directly")

    def __call__(self, matrix: Any) -> Any:
        """Return one float32 for each row.

        :param matrix: float32, C order
        """
        if not hasattr(self._kept, "proxy"):
            self._kept.proxy = self._core._ProxyDMatrix()
        rows, width = matrix.shape
        where = matrix.__array_interface__["data"][0]
        described = f'{{"data":[{where},true],"shape":[{rows},{width}],"typestr":"<f4","version":3,"strides":null}}'
        shape, dims = ctypes.POINTER(self._core.c_bst_ulong)(), self._core.c_bst_ulong()
        result = ctypes.POINTER(ctypes.c_float)()
        out = ctypes.byref(shape), ctypes.byref(dims), ctypes.byref(result)
        ask = self._core._LIB.XGBoosterPredictFromDense
        self._core._check_call(
            ask(self._booster.handle, described.encode(), self._options, self._kept.proxy.handle, *out)
        )
        if dims.value != 1 or shape[0] != rows:
            raise ValueError("the booster does not return one number for each row")
        return np.frombuffer(ctypes.string_at(result, 4 * rows), dtype=np.float32)  # a copy: XGBoost keeps the memory


class XGBoostModel(PythonModel):
    """Probability of the label, one vectorised call for all rows of a request."""

    ask: Callable[[Any], Any]

    def load_context(self, context: Any) -> None:
        """Read the booster and the encoder."""
        import xgboost

        encoder = json.loads(Path(context.artifacts["encoder"]).read_text())
        self.codes = {
            name: None if values is None else {value: code for code, value in enumerate(values)}
            for name, values in encoder.items()
        }
        self.booster = xgboost.Booster(model_file=context.artifacts["booster"])
        self.booster.set_param({"nthread": 1})
        try:
            self.ask = Direct(self.booster, len(self.codes))
        except Exception:  # noqa: BLE001 - another XGBoost may lack the private names; the public method gives the same answers
            self.ask = partial(self.booster.inplace_predict, validate_features=False)

    # Without type hints: MLflow would read them as the schema of the input.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return one probability for each row of ``{feature: values}`` or of a data frame."""
        return self.ask(encode(self.codes, model_input))


set_model(XGBoostModel())
