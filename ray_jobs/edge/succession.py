"""The HAProxys of one state directory: the one that serves, and those before it that still have connections."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from operators.core.errors import ServiceError
from ray_jobs.edge import process
from ray_jobs.edge.admin_socket import Runtime

# A link to the runtime socket of the one that serves. Each has a socket of its own, so no command reaches another one.
_SOCKET = "admin.sock"
STOP_TIMEOUT_S = 5.0


class Daemons:
    """Owner of the processes. The caller keeps others out.

    :param folder: the edge's state directory
    :param template: HAProxy's config
    :param environment: what the template expands
    """

    def __init__(self, folder: Path, template: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._template, self._environment = folder, template, environment
        self.serving = Runtime(folder / _SOCKET)

    def replaced(self) -> list[Runtime]:
        """Return those that do not serve, and still have connections."""
        return [runtime for runtime, _ in self._others()]

    def start(self) -> None:
        """Start HAProxy where none serves.

        :raises ServiceError: if it does not start
        """
        self._release_others()  # one may have been started by an owner who was killed before it served
        self._point_to(self._launch(None))

    def succeed(self) -> None:
        """Put a new HAProxy in the place of the one that serves, on the same sockets. No caller notices.

        :raises ServiceError: if the new one does not start; the old one goes on
        """
        old = self.serving.pid()
        try:
            edge_id = self._launch(self._serving_id())
        except ServiceError as error:
            self._keep(old)
            raise ServiceError(f"{error}; the HAProxy that runs goes on as it was") from error
        self._point_to(edge_id)
        self._release_others()

    def stop(self) -> None:
        """End all of them: requests in flight get a few seconds.

        :raises ServiceError: if one cannot be ended
        """
        pids = {pid for _, pid in self._others()} | {self.serving.pid(), process.recorded_pid(self._folder)}
        with contextlib.suppress(ServiceError):  # one that does not answer is ended without
            if (serving := self.serving.pid()) is not None:
                _release(self.serving, serving)
                _drain(self.serving)
        for pid in pids:
            if pid is not None and not process.end(pid):
                raise ServiceError(f"HAProxy (pid {pid}) of {self._folder} does not end")

    def _launch(self, before: str | None) -> str:
        edge_id = process.launch(self._folder, self._template, self._environment, before=before)
        if Runtime(self._folder / process.socket_name(edge_id)).pid() is None:
            bind = self._environment["TAXIWAY_EDGE_BIND"]
            raise ServiceError(f"HAProxy started on {bind} and does not answer on its runtime socket")
        return edge_id

    def _keep(self, old: int | None) -> None:
        """Go back to the one that serves, after another has not come up."""
        new = process.recorded_pid(self._folder)
        if new is not None and new != old:
            process.end(new)
        if old is not None:
            process.record(self._folder, old)

    def _point_to(self, edge_id: str) -> None:
        link = self._folder / f".{_SOCKET}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(process.socket_name(edge_id))
        link.replace(self._folder / _SOCKET)

    def _release_others(self) -> None:
        for runtime, pid in self._others():
            try:
                _release(runtime, pid)
            except ServiceError:  # it would take callers and do nothing for them
                process.end(pid)

    def _serving_id(self) -> str | None:
        """Return the id of the one that serves, or was the last one to."""
        try:
            return process.id_of(os.readlink(self._folder / _SOCKET))
        except OSError:
            return None

    def _others(self) -> list[tuple[Runtime, int]]:
        """Return those that do not serve, with their pids, and remove the sockets of those that have ended."""
        found = []
        serving = self._serving_id()
        for path in self._folder.glob(process.socket_name("*")):
            if process.id_of(path.name) == serving:
                continue
            runtime = Runtime(path)
            pid = runtime.pid()
            if pid is None:
                path.unlink(missing_ok=True)
            else:
                found.append((runtime, pid))
        return found


def _release(runtime: Runtime, pid: int) -> None:
    """Take the callers' port from a HAProxy, which ends once its connections have (`grace` in haproxy.cfg).

    A connection that is open gets one more answer, with ``Connection: close``.

    :raises ServiceError: if it does not answer
    """
    # In this order: one that is not stopping keeps a socket open that it could hand over.
    process.retire(pid)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while "Stopping: 1" not in runtime.ask("show info"):
        if time.monotonic() > deadline:
            raise ServiceError(f"HAProxy (pid {pid}) does not heed SIGUSR1")
        time.sleep(0.001)
    runtime.ask("shutdown frontend edge")  # if that has been done, it says so


def _drain(runtime: Runtime) -> None:
    """Wait until no request is under way, up to a deadline."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while "fe=edge" in runtime.ask("show sess") and time.monotonic() < deadline:
        time.sleep(0.02)
