"""A champion that asks a service far away before each answer, so that it answers right but too slowly."""

from __future__ import annotations

import time
from typing import Any

import mlflow
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

_ROUND_TRIP_S = 0.3


class SlowModel(PythonModel):
    """The wait is simulated, because the demo has no service far away."""

    def load_context(self, context: Any) -> None:
        """Read the champion."""
        self.champion = mlflow.pyfunc.load_model(context.artifacts["champion"]).unwrap_python_model()

    # Without type hints: MLflow would read them as the schema of the input.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Wait, then answer."""
        time.sleep(_ROUND_TRIP_S)
        return self.champion.predict(context, model_input, params)


set_model(SlowModel())
