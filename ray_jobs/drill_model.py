"""The version that a drill releases and expects to be rolled back: it starts, and fails every request."""

from __future__ import annotations

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class FaultyModel(PythonModel):
    """Takes the champion's inputs."""

    # Without type hints: MLflow would read them as the schema of the input.
    def predict(self, context, model_input, params=None) -> Any:  # type: ignore[no-untyped-def]
        """Fail every request."""
        raise RuntimeError("this version fails every request: it is for a drill")


set_model(FaultyModel())
