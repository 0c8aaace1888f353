"""The button that leads from a task to its job in the Ray dashboard."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom


class RayJobLink(BaseOperatorLink):
    """A job's page in the Ray dashboard."""

    name = "Ray job"
    key = "_link_RayJobLink"

    @property
    def xcom_key(self) -> str:
        """The XCom that holds the address."""
        return self.key

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address, or an empty text before the job is submitted."""
        url = XCom.get_value(key=self.key, ti_key=ti_key)
        return str(url or "")
