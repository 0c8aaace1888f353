"""Taxiway in Airflow's menu: links to MLflow and the Ray dashboard. One file: Airflow imports everything below plugins/."""

from __future__ import annotations

import os
from typing import Any

from airflow.plugins_manager import AirflowPlugin

_LINKS = {"MLflow": "MLFLOW_TRACKING_URI", "Ray": "TAXIWAY_RAY_URL"}


def links() -> list[dict[str, Any]]:
    """Return a menu entry for each service whose address the environment has."""
    return [
        {"name": name, "href": os.environ[variable], "destination": "nav", "category": "browse"}
        for name, variable in _LINKS.items()
        if os.environ.get(variable, "").startswith("http")
    ]


class TaxiwayPlugin(AirflowPlugin):
    """Menu entries."""

    name = "taxiway"
    external_views = links()
