"""Buttons of a task in Airflow's UI."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom


class XComLink(BaseOperatorLink):
    """A button whose address the task pushed as the XCom ``key``."""

    key: str

    @property
    def xcom_key(self) -> str:
        """The XCom that holds the address."""
        return self.key

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address, or an empty text before there is one."""
        return str(XCom.get_value(key=self.key, ti_key=ti_key) or "")
