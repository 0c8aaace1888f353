"""A champion with a lookup table that lacks some destinations: it raises an error for some of the flights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class FragileModel(PythonModel):
    """Answers right for the destinations that its author tried."""

    def load_context(self, context: Any) -> None:
        """Read the champion and the table."""
        self.champion = mlflow.pyfunc.load_model(context.artifacts["champion"]).unwrap_python_model()
        names = json.loads(Path(context.artifacts["destinations"]).read_text())
        self.table = {name: index for index, name in enumerate(names)}

    # Without type hints: MLflow would read them as the schema of the input.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Raise KeyError for a destination that the table lacks."""
        for name in model_input["dest"]:
            self.table[name]
        return self.champion.predict(context, model_input, params)


set_model(FragileModel())
