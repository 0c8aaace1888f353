"""Ray's job API over HTTP. It needs no `ray`: a DAG reaches the dashboard alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from operators.compute.address import RayAddress
from operators.compute.policy import TERMINAL
from operators.core.errors import ServiceError, ServiceRefusedError
from operators.core.frozen import Frozen
from operators.core.http import answer, async_client, client, require_success, unreachable

_SERVICE = "Ray's job API"
_FOLLOW_S = 1.0  # pause between two reads by Ray of a log that is followed
_PACKAGE_TIMEOUT_S = 300.0


class RayJob(Frozen):
    """A job as Ray's API describes it."""

    submission_id: str
    status: str
    message: str | None = None
    error_type: str | None = None
    driver_exit_code: int | None = None
    driver_node_id: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.status in TERMINAL


class RayJobs:
    """Submit, inspect and stop jobs.

    :param address: where the cluster is
    """

    def __init__(self, address: RayAddress) -> None:
        self.address = address
        self._http = client(address.url, token=address.token, timeout_s=60.0, verify=address.verify)

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        *,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        cpus: float = 0,
        gpus: float = 0,
        memory_bytes: int = 0,
        resources: Mapping[str, float] | None = None,
    ) -> bool:
        """Submit a job under an id of our choice. Return False if Ray has a job of that id already: the caller waits for it.

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
            "entrypoint_memory": memory_bytes,
            "entrypoint_resources": dict(resources or {}),
        }
        response = self._call("POST", "/api/jobs/", json=body)
        if response.status_code >= 400 and "already exists" in response.text:
            return False
        answer(response, _SERVICE)
        return True

    def get(self, submission_id: str) -> RayJob | None:
        """Return a job, or None if Ray does not know it."""
        return _job(self._call("GET", f"/api/jobs/{submission_id}"))

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job. A job that Ray does not know counts as stopped."""
        response = self._call("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code != 404:
            answer(response, _SERVICE)

    def version(self) -> str:
        """Return Ray's version.

        :raises ServiceRefusedError: the token is wrong
        """
        self.get("none")  # this needs the token, and the version does not
        return str(answer(self._call("GET", "/api/version"), _SERVICE).get("ray_version", "?"))

    def upload(self, uri: str, package: bytes) -> None:
        """Upload a package, unless the cluster has it.

        :param uri: ``gcs://_ray_pkg_<digest of the content>.zip``
        """
        path = "/api/packages/" + uri.replace("://", "/", 1)
        known = self._call("GET", path)
        if known.status_code == 404:
            known = self._call("PUT", path, content=package, timeout=_PACKAGE_TIMEOUT_S)
        require_success(known, _SERVICE)

    def _call(self, method: str, path: str, **sent: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **sent)
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error


class AsyncRayJobs:
    """The calls that a wait needs, without blocking the event loop. One connection pool serves all waits for a cluster."""

    def __init__(self, address: RayAddress) -> None:
        self.address = address
        self._http = async_client(address.url, token=address.token, timeout_s=30.0, verify=address.verify)

    async def get(self, submission_id: str) -> RayJob | None:
        """Return a job, or None if Ray does not know it."""
        return _job(await self._call("GET", f"/api/jobs/{submission_id}"))

    async def all(self) -> dict[str, RayJob]:
        """Return every job that was submitted, by its id."""
        rows = answer(await self._call("GET", "/api/jobs/"), _SERVICE)
        return {row["submission_id"]: RayJob.model_validate(row) for row in rows if row.get("submission_id")}

    async def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job."""
        response = await self._call("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code != 404:
            answer(response, _SERVICE)

    @asynccontextmanager
    async def log(
        self, job: RayJob, *, follow: bool, last_lines: int = -1, idle_s: float = 60.0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a job's log, from its beginning.

        The job API's own ``/logs`` returns the whole log as one string. The state API sends it in pieces.

        :param follow: go on as the log grows, until it is closed or gets no line for too long
        :param last_lines: number of lines at the end to read; -1: all
        :param idle_s: seconds for which the log may get no line
        :raises ServiceError: the log cannot be read, or can no longer be read
        """
        query: dict[str, str | int | float] = {
            "node_id": job.driver_node_id or "",
            "filename": f"job-driver-{job.submission_id}.log",
            "lines": last_lines,
        }
        if follow:
            query["interval"] = _FOLLOW_S
        path = f"/api/v0/logs/{'stream' if follow else 'file'}"
        timeout = httpx.Timeout(30.0, read=idle_s)
        try:
            async with self._http.stream("GET", path, params=query, timeout=timeout) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise ServiceError(f"the log of {job.submission_id} cannot be read: {response.text[:300]}")
                yield response.aiter_raw()
        except httpx.HTTPError as error:
            raise unreachable(_SERVICE, error) from error

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
        raise ServiceRefusedError(f"{_SERVICE} sent something else than a job: {json.dumps(body)[:200]}")
    return RayJob.model_validate(body)
