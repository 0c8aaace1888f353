"""The evaluation job: challenger and champion on the same holdout rows. Run as ``python -m ray_jobs.training.evaluate <key>``."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from operators.core.errors import RejectedError
from operators.core.settings import storage_url
from operators.core.spec import PredictionSpec
from operators.core.storage import Storage
from ray_jobs import job_frame
from ray_jobs.serve.protocol import write_request
from ray_jobs.training.training_data import split


def work(given: dict[str, Any], key: str) -> dict[str, Any]:
    """Measure the challenger and the champion on the same holdout rows.

    :param given: ``spec`` (JSON), ``dataset`` (with ``key``), ``end``, ``challenger`` (model URI), ``champion`` (model URI or
        None)
    :param key: prefix of the job's files in the storage
    :returns: ``rows``, the metrics of ``challenger`` and ``champion``, and ``smoke_key``, where the latest rows are as a request
    """
    import mlflow.pyfunc

    spec = PredictionSpec.from_json(given["spec"])
    storage = Storage(storage_url())
    holdout = split(given["dataset"]["key"], storage, spec, datetime.fromisoformat(given["end"]))[1].table()
    if not holdout.num_rows:
        raise RejectedError(f"the holdout of {spec.name} has no labelled row; widen `data.holdout`")
    columns = {name: holdout[name].to_pylist() for name in spec.features}
    label = holdout[spec.data.label].cast(pa.float64()).to_numpy()

    def measure(uri: str) -> dict[str, float]:
        model = mlflow.pyfunc.load_model(uri).unwrap_python_model()
        return metrics(label, np.asarray(model.predict(None, columns), dtype=np.float64))

    recent = holdout.slice(max(0, holdout.num_rows - spec.release.smoke_rows)).to_pylist()
    smoke_key = f"{key}/smoke.json"
    storage.put_bytes(smoke_key, json.dumps(write_request(recent, spec.features)).encode())
    try:
        champion = measure(given["champion"]) if given["champion"] else None
    except KeyError as error:
        raise RejectedError(
            f"the champion needs the feature {error}, which the spec no longer has. Callers send what the champion takes, and "
            "would get errors from the new version. Give a model with other features another name"
        ) from error
    return {
        "smoke_key": smoke_key,
        "rows": holdout.num_rows,
        "challenger": measure(given["challenger"]),
        "champion": champion,
    }


def metrics(label: Any, probability: Any) -> dict[str, float]:
    """Return the metrics that a gate may name.

    :param label: 0 or 1, shape [rows]
    :param probability: of the label being 1, shape [rows]
    """
    from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

    both = len(np.unique(label)) == 2
    return {
        "log_loss": float(log_loss(label, probability, labels=[0, 1])),
        "brier": float(brier_score_loss(label, probability)),
        "accuracy": float(accuracy_score(label, probability >= 0.5)),
        # With one class in the holdout there is nothing to rank: 0.5 is the value of a coin toss.
        "roc_auc": float(roc_auc_score(label, probability)) if both else 0.5,
    }


if __name__ == "__main__":
    job_frame.run(work)
