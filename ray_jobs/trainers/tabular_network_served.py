"""The model that `tabular_network` logs: the network's forward pass in NumPy, so that serving needs no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class TabularNetwork(PythonModel):
    """Probability of the label, one vectorised call for all rows of a request."""

    def load_context(self, context: Any) -> None:
        """Read the weights and the encoder."""
        encoder = json.loads(Path(context.artifacts["encoder"]).read_text())
        # Code 0 is unknown: null, or a category that training did not see.
        self.codes = {
            name: {value: code for code, value in enumerate(values, start=1)}
            for name, values in encoder.items()
            if values is not None
        }
        self.numbers = [name for name, values in encoder.items() if values is None]
        with np.load(context.artifacts["weights"]) as weights:
            self.mean, self.deviation = weights["mean"], weights["deviation"]
            self.embeddings = [weights[f"embeddings.{place}.weight"] for place in range(len(self.codes))]
            depth = sum(name.startswith("layers.") for name in weights.files) // 2
            self.layers = [(weights[f"layers.{i}.weight"].T, weights[f"layers.{i}.bias"]) for i in range(depth)]

    def features(self, columns: Mapping[str, Sequence[Any]]) -> Any:
        """Return what the first layer takes, float32 [rows, width]."""
        raw = [columns[name] for name in self.numbers]  # NumPy reads None as NaN where it makes numbers
        parts = []
        if raw:
            numbers = (np.array(raw, dtype=np.float32).T - self.mean) / self.deviation
            unknown = np.isnan(numbers)
            parts = [np.where(unknown, np.float32(0), numbers), unknown.astype(np.float32)]
        for (name, codes), embedding in zip(self.codes.items(), self.embeddings, strict=True):
            parts.append(embedding[[codes.get(value, 0) for value in columns[name]]])
        return np.concatenate(parts, axis=1)

    # Without type hints: MLflow would read them as the schema of the input.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return one probability for each row of ``{feature: values}`` or of a data frame."""
        hidden = self.features(model_input)
        for weight, bias in self.layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0)
        weight, bias = self.layers[-1]
        logit = np.clip((hidden @ weight + bias)[:, 0].astype(np.float64), -700, 700)
        return 1 / (1 + np.exp(-logit))


set_model(TabularNetwork())
