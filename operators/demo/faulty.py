"""Register two versions by hand, as a person in a notebook would: one that raises, one that is slow.

Run as ``python -m operators.demo.faulty <model>``; prints the versions as JSON. They go around the gate, and both pass
the smoke test: what is wrong with them shows only under traffic.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from operators.core.settings import setting, storage_url
from operators.core.storage import Storage
from operators.registry.client import CHAMPION, Registry

_HERE = Path(__file__).parent


def main(model: str) -> dict[str, str]:
    """Log both models around the champion's own files, and register them."""
    import mlflow.models

    registry = Registry(setting("MLFLOW_TRACKING_URI", "address of the MLflow tracking server"))
    champion = registry.alias(model, CHAMPION)
    if champion is None:
        raise SystemExit(f"{model} has no champion to wrap")
    smoke = json.loads(Storage(storage_url()).get_bytes(champion.tags["taxiway.smoke_key"]))
    tried = sorted({value for tensor in smoke["inputs"] if tensor["name"] == "dest" for value in tensor["data"]})
    # Callers must not see a difference before the faults show: a version is served only with the spec's signature.
    signature = mlflow.models.get_model_info(champion.uri).signature
    mlflow.set_experiment(model)
    versions = {}
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "destinations.json"
        known.write_text(json.dumps(tried))
        for name, extra in (("fragile", {"destinations": str(known)}), ("slow", {})):
            with mlflow.start_run(run_name=f"{name}-by-hand") as run:
                info = mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(_HERE / f"{name}_model.py"),
                    artifacts={"champion": champion.uri, **extra},
                    pip_requirements=[f"mlflow=={mlflow.__version__}"],
                    signature=signature,
                )
            tags = {"taxiway.made_by": "hand", "taxiway.fault": name}
            made = registry.register(model, info.model_uri, run.info.run_id, key=run.info.run_id, tags=tags)
            versions[name] = made.version
    return versions


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
