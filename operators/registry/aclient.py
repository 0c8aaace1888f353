"""MLflow's model registry for triggers, which must not block their event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

import httpx

from operators.core.errors import ServiceRefusedError
from operators.core.http import unreachable
from operators.registry.entities import SERVICE, ModelVersion, RegisteredModel, read_metrics, read_model, read_version
from operators.registry.server import Server, is_missing, newer_than, read, request


class AsyncRegistry:
    """Read models, versions and metrics.

    :param server: the tracking server
    """

    def __init__(self, server: Server) -> None:
        self._http = server.async_client()

    @classmethod
    async def connect(cls, server: Server) -> Self:
        """Return a client, made in a thread: reading the certificates would block the event loop for 20 ms."""
        return await asyncio.to_thread(cls, server)

    async def model(self, model: str) -> RegisteredModel | None:
        """Return a model with its aliases and tags, or None if there is none of the name."""
        answer = await self._find("registered-models/get", {"name": model})
        return read_model(answer["registered_model"]) if answer else None

    async def version(self, model: str, version: str) -> ModelVersion | None:
        """Return a version, or None if there is none."""
        answer = await self._find("model-versions/get", {"name": model, "version": version})
        return read_version(answer["model_version"]) if answer else None

    async def versions(self, model: str, *, above: int, most: int) -> list[ModelVersion]:
        """Return the oldest of the versions with a higher number.

        :param most: how many at most
        """
        query = {"filter": newer_than(model, above), "max_results": str(most), "order_by": "version_number ASC"}
        answered = await self._get("model-versions/search", query)
        return sorted((read_version(row) for row in answered.get("model_versions", [])), key=lambda v: v.number)

    async def newest(self, model: str) -> int:
        """Return the highest version number, 0 if there is none."""
        query = {"filter": newer_than(model, 0), "max_results": "1", "order_by": "version_number DESC"}
        rows = (await self._get("model-versions/search", query)).get("model_versions", [])
        return read_version(rows[0]).number if rows else 0

    async def metrics(self, run_id: str) -> dict[str, float]:
        """Return the finite metrics of a run; nothing if the run is unknown."""
        answer = await self._find("runs/get", {"run_id": run_id}) if run_id else None
        return read_metrics(answer["run"]) if answer else {}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _find(self, path: str, values: Mapping[str, str]) -> Any:
        try:
            return await self._get(path, values)
        except ServiceRefusedError as error:
            if is_missing(error):
                return None
            raise

    async def _get(self, path: str, values: Mapping[str, str]) -> Any:
        try:
            return read(await self._http.request(**request("GET", path, values)))
        except httpx.HTTPError as error:
            raise unreachable(SERVICE, error) from error
