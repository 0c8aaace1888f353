"""Airflow's own folder for the tests, before anything imports airflow: it reads its settings, and makes its folder, at import."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["AIRFLOW_HOME"] = str(Path(__file__).resolve().parents[1] / "var" / "test-airflow")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
