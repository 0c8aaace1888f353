"""A small spec for the tests that need any model's, and changes of a spec's YAML that break when a key is gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from operators.core.loader import INCLUDE, load_spec
from operators.core.spec import PredictionSpec

_SMALL: dict[str, Any] = {
    "name": "small",
    "task": "binary",
    "owner": "flight-operations",
    "data": {
        "tables": {"flights": {"source": "raw/flights", "time_column": "sched_dep_at"}},
        "query": str(Path(__file__).with_name("small.sql")),
        "window": "60d",
        "holdout": "7d",
        "id": "flight_id",
        "time": "event_time",
        "label": "label",
        "features": {"carrier": "category", "distance": "number", "month": "integer", "temp": "number?"},
    },
    "validation": {"suite": "expectations/small.yaml"},
    "training": {"entrypoint": "ray_jobs.trainers.xgboost_classifier:train"},
    "gate": {"metric": "log_loss"},
    "serving": {"cpus_per_replica": 0.25},
    "release": {
        "steps": [{"weight_pct": weight, "bake": "10s"} for weight in (5, 25, 50)],
        "judge": {
            "alpha": 0.01,
            "confidence": 0.9,
            "min_requests": 30,
            "max_wait": "5m",
            "failures": {"margin_pct": 2},
            "slow": {"margin_pct": 5, "quantile": 0.95, "ratio": 2.0, "increase": "20ms"},
        },
        "smoke_rows": 50,
        "keep_warm": "10m",
    },
}
_WHOLE = ("features", "judge", "tables")


def small_spec(**changes: Any) -> PredictionSpec:
    """Return a valid spec that no file has.

    :param changes: what is different, in the words of the YAML: ``small_spec(release={"watch": "60s"})``. Other keys stay,
        but ``features``, ``tables`` and ``judge`` are given whole
    """
    return PredictionSpec.model_validate(_merged(_SMALL, changes))


def shipped_spec(name: str = "flight_delay") -> PredictionSpec:
    """Return a spec of ``include/models``, for the tests that are about it."""
    spec = load_spec(INCLUDE / "models" / f"{name}.yaml")
    assert isinstance(spec, PredictionSpec)
    return spec


def change_yaml(path: Path, changes: Mapping[str, Any], *, to: Path | None = None) -> None:
    """Change values of a YAML file.

    :param changes: by dotted key, ``release.steps.0.bake``; all but the last part must be there
    :param to: another file, if the old one stays as it is
    """
    document = yaml.safe_load(path.read_text())
    for dotted, value in changes.items():
        *parents, last = (int(part) if part.isdigit() else part for part in dotted.split("."))
        part: Any = document
        for parent in parents:
            part = part[parent]
        part[last] = value
    (to or path).write_text(yaml.safe_dump(document, sort_keys=False))


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(old[name], value) if isinstance(value, Mapping) and name in old and name not in _WHOLE else value
        for name, value in new.items()
    }
    return {**old, **both}
