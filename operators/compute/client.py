"""Ray's job API over HTTP. No `ray` import: the dashboard is all that a DAG needs to reach."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from operators.core.errors import ConfigurationError, ServiceRefusedError
from operators.core.http import answer, async_client, client, unreachable

_SERVICE = "Ray's job API"
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


class RayJob(BaseModel):
    """What Ray says of one job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    submission_id: str
    status: str
    message: str | None = None
    error_type: str | None = None
    driver_exit_code: int | None = None
    start_time: int | None = None
    end_time: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.status in TERMINAL


def ray_token() -> str | None:
    """Return the cluster's token from Ray's own settings, or None where authentication is off.

    :raises ConfigurationError: the token's file cannot be read
    """
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        raise ConfigurationError(f"RAY_AUTH_TOKEN_PATH={path} cannot be read: {error.strerror}") from None


class RayJobs:
    """Submit, inspect and stop jobs.

    :param url: address of the Ray dashboard, e.g. ``http://127.0.0.1:8265``
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = client(url, token=ray_token(), timeout_s=60.0)

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        *,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        cpus: float = 0,
        gpus: float = 0,
    ) -> bool:
        """Submit a job under an id of our choice; return False if Ray has that id already, so that the caller reattaches.

        :raises ServiceRefusedError: Ray refused the request, e.g. a bad runtime_env or token
        :raises ServiceError: the dashboard did not answer
        """
        body = {
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "runtime_env": dict(runtime_env or {}),
            "metadata": dict(metadata or {}),
            "entrypoint_num_cpus": cpus,
            "entrypoint_num_gpus": gpus,
        }
        try:
            response = self._http.post("/api/jobs/", json=body)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error
        if response.status_code >= 400 and "already exists" in response.text:
            return False
        answer(response, _SERVICE)
        return True

    def get(self, submission_id: str) -> RayJob | None:
        """Return a job, or None if Ray does not know it."""
        return _job(self._call("GET", f"/api/jobs/{submission_id}"))

    def logs(self, submission_id: str) -> str:
        """Return the whole log of a job."""
        found = answer(self._call("GET", f"/api/jobs/{submission_id}/logs"), _SERVICE)
        return str(found.get("logs", ""))

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job; one that it does not know is as good as stopped."""
        response = self._call("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code != 404:
            answer(response, _SERVICE)

    def _call(self, method: str, path: str) -> httpx.Response:
        try:
            return self._http.request(method, path)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error


class AsyncRayJobs:
    """The part of `RayJobs` that a trigger needs, without blocking its event loop."""

    def __init__(self, url: str) -> None:
        self._http = async_client(url, token=ray_token(), timeout_s=30.0)

    async def get(self, submission_id: str) -> RayJob | None:
        """Return a job, or None if Ray does not know it."""
        return _job(await self._call("GET", f"/api/jobs/{submission_id}"))

    async def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job."""
        response = await self._call("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code != 404:
            answer(response, _SERVICE)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, method: str, path: str) -> httpx.Response:
        try:
            return await self._http.request(method, path)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error


def _job(response: httpx.Response) -> RayJob | None:
    if response.status_code == 404:
        return None
    body = answer(response, _SERVICE)
    if not isinstance(body, dict) or "status" not in body:
        raise ServiceRefusedError(f"{_SERVICE} answered something that is not a job: {str(body)[:200]}")
    return RayJob.model_validate(body)
