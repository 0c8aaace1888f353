"""The model that `xgboost_classifier` logs: MLflow keeps this file beside the booster and runs it wherever it serves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


def encode(encoder: Mapping[str, Sequence[str] | None], columns: Mapping[str, Sequence[Any]]) -> tuple[Any, list[str]]:
    """Return a float32 matrix of shape [rows, features] and XGBoost's feature types ("c" or "q").

    A category that training did not see, and null, become NaN: XGBoost sends both down its default branch.
    """
    arrays, kinds = [], []
    for name, categories in encoder.items():
        if categories is None:
            arrays.append(np.array([np.nan if v is None else v for v in columns[name]], dtype=np.float32))
            kinds.append("q")
        else:
            codes = {value: code for code, value in enumerate(categories)}
            arrays.append(np.array([codes.get(v, np.nan) for v in columns[name]], dtype=np.float32))
            kinds.append("c")
    return np.column_stack(arrays), kinds


class XGBoostModel(PythonModel):
    """Probability of the label, one vectorised call for all rows of a request."""

    def load_context(self, context: Any) -> None:
        """Read the booster and the encoder."""
        import xgboost

        self.encoder = json.loads(Path(context.artifacts["encoder"]).read_text())
        self.booster = xgboost.Booster(model_file=context.artifacts["booster"])
        self.booster.set_param({"nthread": 1})

    # Without type hints: MLflow would read them as the schema of the input.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return one probability for each row of ``{feature: values}`` or of a data frame."""
        matrix, _ = encode(self.encoder, model_input)
        return self.booster.inplace_predict(matrix, validate_features=False)


set_model(XGBoostModel())
