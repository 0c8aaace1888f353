from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports airflow: it reads its settings, and makes its folder, at import.
os.environ["AIRFLOW_HOME"] = str(Path(__file__).resolve().parents[2] / "var" / "test-airflow")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"


@pytest.fixture
def include(tmp_path: Path) -> Path:
    """A copy of include/ whose specs a test may change."""
    import shutil

    root = Path(__file__).resolve().parents[2] / "include"
    return Path(shutil.copytree(root, tmp_path / "include"))
