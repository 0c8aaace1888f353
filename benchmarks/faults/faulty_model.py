"""A model that is right until it is told to misbehave. MLflow reads this file when a version is served.

Its answer is the distance over 10,000, so that a caller can tell a right answer from a wrong one.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class FaultyModel(PythonModel):
    """Misbehaves as its config says: always for some rows, or as a file says that may change at any time."""

    def load_context(self, context: Any) -> None:
        """Read the config: ``raises_above`` (a distance) or ``control`` (a file with `fault`, `share` and `delay_s`)."""
        config = context.model_config or {}
        self.raises_above = config.get("raises_above")
        self.control = config.get("control")
        if self._told().get("fault") == "never_ready":
            time.sleep(3600)

    def _told(self) -> dict[str, Any]:
        return dict(json.loads(Path(self.control).read_text())) if self.control else {}

    # Without type hints: MLflow would read them as the schema of the input.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Answer, or fail as told."""
        values = [distance / 10_000 for distance in model_input["distance"]]
        if self.raises_above is not None and max(model_input["distance"]) > self.raises_above:
            raise KeyError("a distance that nobody tried")
        told = self._told()
        if not told or random.random() >= told["share"]:
            return values
        match told["fault"]:
            case "raises":
                raise RuntimeError("the model raises")
            case "killed" | "never_ready":  # of the latter the next replica never comes up
                os.kill(os.getpid(), signal.SIGKILL)
            case "out_of_memory":
                _run_out_of_memory()
            case "hangs" | "slow" | "stalls":
                time.sleep(told["delay_s"])
            case "wrong_schema":
                return [{"answer": str(value)} for value in values]
            case "not_finite":
                return [float("nan")] * len(values)
        return values


def _run_out_of_memory() -> None:
    """Take memory until there is no more, and end as the kernel ends such a process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    taken = []
    try:
        while True:
            taken.append(bytearray(8 << 20))
    except MemoryError:
        os._exit(137)


set_model(FaultyModel())
