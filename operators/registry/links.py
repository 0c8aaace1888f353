"""The button that leads from a task to a version in MLflow's UI."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator, BaseOperatorLink


class ModelVersionLink(BaseOperatorLink):
    """The version in MLflow's UI."""

    name = "Model version"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the address; empty before there is a version."""
        return getattr(operator, "version_url", "")
