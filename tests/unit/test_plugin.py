"""The plugin: every component of Airflow imports it, so it must import nothing that takes time, and open nothing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[2] / "plugins" / "taxiway_plugin.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("taxiway_plugin", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_imports_nothing_heavy() -> None:
    heavy = ("operators.ui", "operators.rollout", "mlflow", "ray", "duckdb", "pandas")
    program = (
        "import sys; sys.path.insert(0, 'plugins'); import airflow.plugins_manager; before = set(sys.modules); "
        f"import taxiway_plugin; print([m for m in set(sys.modules) - before if m.startswith({heavy!r})])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=FILE.parents[1], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stderr[-500:]


def test_the_console_is_in_the_menu_below_airflows_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.com/airflow/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.test")
    monkeypatch.delenv("TAXIWAY_RAY_URL", raising=False)
    plugin = load()
    entries = {entry["name"]: entry for entry in plugin.links()}
    assert entries["Taxiway"]["href"] == "/airflow/taxiway/"
    assert entries["MLflow"]["href"] == "http://mlflow.test"
    assert "Ray" not in entries
    (app,) = plugin.TaxiwayPlugin.fastapi_apps
    assert (app["url_prefix"], app["name"]) == ("/taxiway", "Taxiway")
