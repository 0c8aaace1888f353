"""The button that leads from a task to its Data Docs."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom


class DataDocsLink(BaseOperatorLink):
    """The first page of the Data Docs of one validation.

    A browser opens it where ``docs_base_url`` says under which http(s) address the storage is served, or where the storage is
    a folder of the browser's own machine. An ``s3://`` address is shown as it is, for the tools that know it.
    """

    name = "Data Docs"
    key = "_link_DataDocsLink"

    @property
    def xcom_key(self) -> str:
        """The XCom that holds the address."""
        return self.key

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address, or an empty text before there is one."""
        return str(XCom.get_value(key=self.key, ti_key=ti_key) or "")
