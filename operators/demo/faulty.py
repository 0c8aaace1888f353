"""Register two versions by hand, as a person in a notebook would: one that raises errors, one that is slow.

Run as ``python -m operators.demo.faulty <model>``; it prints the versions as JSON. They do not go through the gate, and both
pass the smoke test: only traffic shows what is wrong with them.
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
    """Log both models, which wrap the champion's files, and register them."""
    import mlflow.models

    registry = Registry(setting("MLFLOW_TRACKING_URI", "address of the MLflow tracking server"))
    champion = registry.alias(model, CHAMPION)
    if champion is None:
        raise SystemExit(f"{model} has no champion to wrap")
    smoke = json.loads(Storage(storage_url()).get_bytes(champion.tags["taxiway.smoke_key"]))
    tried = sorted({value for tensor in smoke["inputs"] if tensor["name"] == "dest" for value in tensor["data"]})
    # A version is served only with the signature of the spec, so both take over the champion's.
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
