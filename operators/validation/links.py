"""The button that leads from a task to its Data Docs."""

from __future__ import annotations

from urllib.parse import quote

from operators.links import XComLink


class DataDocsLink(XComLink):
    """The first page of the Data Docs of one validation.

    A browser can open it if ``docs_base_url`` names the http(s) address under which the storage is served, or if the storage is
    a folder on the browser's own machine. Otherwise the link is the ``s3://`` address, for tools that can read it.
    """

    name = "Data Docs"
    key = "_link_DataDocsLink"


def docs_link(docs_url: str | None, storage_root: str, docs_base_url: str | None) -> str | None:
    """Return the address of the Data Docs for a browser.

    :param docs_url: their address in storage
    :param docs_base_url: http(s) address under which the storage is served
    """
    if docs_url and docs_base_url and docs_url.startswith(storage_root):
        return f"{docs_base_url.rstrip('/')}/{quote(docs_url.removeprefix(storage_root).lstrip('/'))}"
    return docs_url
