"""The model that `lightgbm_classifier` logs: MLflow keeps this file beside the booster and runs it wherever it serves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


def encode(codes: Mapping[str, Mapping[str, int] | None], columns: Mapping[str, Sequence[Any]]) -> Any:
    """Return a float32 matrix of shape [rows, features].

    Null, and a category that training did not see, become NaN, which LightGBM treats as missing.

    :param codes: for a category, its values' codes; else None
    """
    # NumPy reads None as NaN where it makes numbers.
    arrays = [columns[name] if known is None else [*map(known.get, columns[name])] for name, known in codes.items()]
    return np.ascontiguousarray(np.array(arrays, dtype=np.float32).T)


class LightGBMModel(PythonModel):
    """Probability of the label, one vectorised call for all rows of a request."""

    def load_context(self, context: Any) -> None:
        """Read the booster and the encoder."""
        import lightgbm

        encoder = json.loads(Path(context.artifacts["encoder"]).read_text())
        self.codes = {
            name: None if values is None else {value: code for code, value in enumerate(values)}
            for name, values in encoder.items()
        }
        self.booster = lightgbm.Booster(model_file=context.artifacts["booster"])

    # Without type hints: MLflow would read them as the schema of the input.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return one probability for each row of ``{feature: values}`` or of a data frame."""
        return self.booster.predict(encode(self.codes, model_input), num_threads=1, validate_features=False)


set_model(LightGBMModel())
