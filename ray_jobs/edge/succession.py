"""The HAProxys of one state directory: the one that serves, and older ones that still have connections."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from operators.core.errors import ServiceError
from ray_jobs.edge import process
from ray_jobs.edge.admin_socket import RuntimeSocket

# A link to the runtime socket of the HAProxy that serves. Each has its own socket, so a command reaches only one of them.
_SOCKET = "admin.sock"
STOP_TIMEOUT_S = 5.0


class Daemons:
    """Owner of the processes. Not for concurrent use: the caller holds a lock.

    :param folder: the edge's state directory
    :param template: HAProxy's config
    :param environment: what the template expands
    """

    def __init__(self, folder: Path, template: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._template, self._environment = folder, template, environment
        self.serving = RuntimeSocket(folder / _SOCKET)

    def replaced(self) -> list[RuntimeSocket]:
        """Return the HAProxys that no longer serve, and still have connections."""
        return [runtime for runtime, _ in self._others()]

    def start(self) -> None:
        """Start HAProxy when none serves.

        :raises ServiceError: if it does not start
        """
        self._release_others()  # its owner may have been killed before it began to serve
        self._point_to(self._launch(None))

    def succeed(self) -> None:
        """Replace the HAProxy that serves by a new one on the same sockets. No caller notices.

        :raises ServiceError: if the new one does not start; the old one goes on
        """
        try:
            edge_id = self._launch(self._serving_id())
        except ServiceError as error:
            raise ServiceError(f"{error}; the HAProxy that runs goes on as it was") from error
        self._point_to(edge_id)
        self._release_others()

    def stop(self) -> None:
        """End all of them. Requests in flight get a few seconds.

        :raises ServiceError: if one cannot be ended
        """
        pids = {pid for _, pid in self._others()} | {self.serving.pid(), process.recorded_pid(self._folder)}
        with contextlib.suppress(ServiceError):  # one that does not answer cannot drain
            if (serving := self.serving.pid()) is not None:
                _release(self.serving, serving)
                _drain(self.serving)
        process.end_unpublished(self._folder)
        for pid in pids:
            if pid is not None and not process.end(pid):
                raise ServiceError(f"HAProxy (pid {pid}) of {self._folder} does not end")

    def _launch(self, before: str | None) -> str:
        try:
            edge_id = process.launch(self._folder, self._template, self._environment, before=before)
            if RuntimeSocket(self._folder / process.socket_name(edge_id)).pid() is None:
                bind = self._environment["TAXIWAY_EDGE_BIND"]
                raise ServiceError(f"HAProxy started on {bind} and does not answer on its runtime socket")
        except ServiceError:
            process.end_unpublished(self._folder)
            raise
        process.publish_pid(self._folder)
        return edge_id

    def _point_to(self, edge_id: str) -> None:
        link = self._folder / f".{_SOCKET}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(process.socket_name(edge_id))
        link.replace(self._folder / _SOCKET)

    def _release_others(self) -> None:
        for runtime, pid in self._others():
            try:
                _release(runtime, pid)
            except ServiceError:  # it would accept connections and answer none
                process.end(pid)

    def _serving_id(self) -> str | None:
        """Return the id of the HAProxy that serves, or was the last to serve."""
        try:
            return process.id_of(os.readlink(self._folder / _SOCKET))
        except OSError:
            return None

    def _others(self) -> list[tuple[RuntimeSocket, int]]:
        """Return those that do not serve, with their pids, and remove the sockets of those that have ended."""
        others = []
        serving = self._serving_id()
        for path in self._folder.glob(process.socket_name("*")):
            if process.id_of(path.name) == serving:
                continue
            runtime = RuntimeSocket(path)
            pid = runtime.pid()
            if pid is None:
                path.unlink(missing_ok=True)
            else:
                others.append((runtime, pid))
        return others


def _release(runtime: RuntimeSocket, pid: int) -> None:
    """Take the callers' port from a HAProxy, which ends once its connections have (`grace` in haproxy.cfg).

    A connection that is open gets one more answer, with ``Connection: close``.

    :raises ServiceError: if it does not answer
    """
    # In this order: a HAProxy that is not stopping keeps a closed socket open to hand it over.
    process.retire(pid)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while "Stopping: 1" not in runtime.ask("show info"):
        if time.monotonic() > deadline:
            raise ServiceError(f"HAProxy (pid {pid}) does not react to SIGUSR1")
        time.sleep(0.001)
    runtime.ask("shutdown frontend edge")  # harmless if it is shut down already


def _drain(runtime: RuntimeSocket) -> None:
    """Wait until no request is under way, up to a deadline."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while "fe=edge" in runtime.ask("show sess") and time.monotonic() < deadline:
        time.sleep(0.02)
