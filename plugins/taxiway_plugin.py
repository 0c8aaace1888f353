"""Taxiway in Airflow's menu: the console, and links to MLflow and Ray. One file: Airflow imports everything below plugins/.

Every component of Airflow imports it, so what takes time to import is imported by the first request.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

_LINKS = {"MLflow": "MLFLOW_TRACKING_URI", "Ray": "TAXIWAY_RAY_URL"}
_PREFIX = "/taxiway"


class Console:
    """The console as an ASGI application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        from operators.ui.api import app

        await app()(scope, receive, send)


def links() -> list[dict[str, Any]]:
    """Return the console's menu entry, and one for each service whose address the environment has."""
    base = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    console = {
        "name": "Taxiway", "href": f"{base}{_PREFIX}/", "destination": "nav", "category": "browse", "url_route": "taxiway",
    }  # fmt: skip
    services = [
        {"name": name, "href": os.environ[variable], "destination": "nav", "category": "browse"}
        for name, variable in _LINKS.items()
        if os.environ.get(variable, "").startswith("http")
    ]
    return [console, *services]


class TaxiwayPlugin(AirflowPlugin):
    """The console and the menu entries."""

    name = "taxiway"
    fastapi_apps = [{"app": Console(), "url_prefix": _PREFIX, "name": "Taxiway"}]
    external_views = links()
