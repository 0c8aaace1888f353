"""Save the versions of `release_faults` as MLflow writes them: 1 is good, 2 fails as a file says, 3 never becomes ready.

Run as ``python -m benchmarks.faults.save_models <spec.yaml> <folder>``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.faults.log_models import CODE
from operators.core.loader import load_spec
from ray_jobs.training.signature import signature_of


def main(spec_path: Path, folder: Path) -> None:
    """Save them below ``folder/models``."""
    import mlflow.pyfunc

    spec = load_spec(spec_path)
    never = folder / "never.json"
    never.write_text(json.dumps({"fault": "never_ready", "share": 1.0, "delay_s": 0.0}))
    configs = {"1": {}, "2": {"control": str(folder / "control.json")}, "3": {"control": str(never)}}
    for version, config in configs.items():
        mlflow.pyfunc.save_model(
            path=str(folder / "models" / version),
            python_model=str(CODE),
            model_config=config,
            pip_requirements=[f"mlflow=={mlflow.__version__}"],
            signature=signature_of(spec),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
