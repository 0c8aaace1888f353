"""Log a good and a fragile model for each spec, in a process of its own: MLflow takes seconds to import.

Run as ``python -m benchmarks.faults.log_models <spec.yaml> …``;
prints ``{model: {"good": uri, "fragile": uri, "smoke_key": …}}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.faults.load import row
from operators.core.loader import load_spec
from operators.core.settings import storage_url
from operators.core.storage import Storage
from ray_jobs.serve.protocol import write_request
from ray_jobs.training.signature import signature_of

CODE = Path(__file__).with_name("faulty_model.py")
_RAISES_ABOVE = 2_000  # the smoke test's rows are below


def main(paths: list[str]) -> dict[str, dict[str, str]]:
    """Log the models; return where they are."""
    import mlflow

    storage, found = Storage(storage_url()), {}
    for path in paths:
        spec = load_spec(Path(path))
        key = f"smoke/{spec.name}.json"
        rows = [row(spec, distance) for distance in range(100, 1000, 100)]
        storage.put_bytes(key, json.dumps(write_request(rows, spec.features)).encode())
        mlflow.set_experiment(spec.name)
        found[spec.name] = {"smoke_key": key}
        for name, config in (("good", {}), ("fragile", {"raises_above": _RAISES_ABOVE})):
            with mlflow.start_run(run_name=name):
                info = mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(CODE),
                    model_config=config,
                    pip_requirements=[f"mlflow=={mlflow.__version__}"],
                    signature=signature_of(spec),
                )
            found[spec.name][name] = info.model_uri
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
