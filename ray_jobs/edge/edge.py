"""The edge: one HAProxy in front of every model version. It splits the traffic, falls back and counts.

HAProxy outlives this process. Its config never changes at run time. What changes is one map, kept in the state directory
and put into HAProxy over its runtime socket in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from operators.core.errors import ConfigurationError, RejectedError, ServiceError
from ray_jobs.edge import process
from ray_jobs.edge.config import EdgeConfig
from ray_jobs.edge.counters import Counters, read_counters
from ray_jobs.edge.files import locked, write
from ray_jobs.edge.route import Route
from ray_jobs.edge.runtime import Runtime

_MAP, _SOCKET, _SETTINGS, _LOCK = "routes.map", "admin.sock", "settings.json", "lock"
_READY_TIMEOUT_S = 5.0


class Edge:
    """Owner of one HAProxy and its routes. Safe for several threads, and for several processes with one ``state_dir``.

    :param config: what the edge is made of
    """

    def __init__(self, config: EdgeConfig) -> None:
        self.config = config
        self._dir = Path(config.state_dir).absolute()
        self._runtime = Runtime(self._dir / _SOCKET)
        self._thread_lock = threading.RLock()

    def start(self) -> None:
        """Start HAProxy, or attach to the one that runs with this state directory, and give it the saved routes.

        :raises ConfigurationError: if one runs with other settings
        :raises ServiceError: if HAProxy does not start; the message has its own words
        """
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            settings = self._settings()
            if self._runtime.pid() is None:
                self._launch(settings)
            elif json.loads((self._dir / _SETTINGS).read_text()) != settings:
                raise ConfigurationError(
                    f"an edge with other settings or another haproxy.cfg runs in {self._dir}; stop it first"
                )
            self._push(self._saved())

    def stop(self) -> None:
        """End HAProxy: requests in flight get a few seconds. Do nothing if none runs.

        :raises ServiceError: if it cannot be ended
        """
        if not self._dir.is_dir():
            return
        with self._locked():
            pid = self._runtime.pid() or process.recorded_pid(self._dir)
            if pid is not None and not process.end(pid):
                raise ServiceError(f"HAProxy (pid {pid}) of {self._dir} does not end")

    def ready(self) -> bool:
        """Tell whether the edge answers and reaches its upstream."""
        host, _, port = self.config.bind.rpartition(":")
        host = "127.0.0.1" if host in ("*", "0.0.0.0") else host.strip("[]")  # noqa: S104 - compared, not bound
        connection = http.client.HTTPConnection(host, int(port), timeout=_READY_TIMEOUT_S)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def generation(self) -> str | None:
        """Return an id of the running HAProxy: it changes when the counters begin anew. None if none runs."""
        pid = self._runtime.pid()
        return None if pid is None else f"{pid}"

    # ------------------------------------------------------------------ routes

    def routes(self) -> dict[str, Route]:
        """Return the routes that HAProxy uses now.

        :raises ServiceError: if HAProxy does not answer
        """
        return {model: route for model, (route, _) in self._live().items()}

    def leases(self) -> dict[str, float]:
        """Return when each lease ends or ended, in unix seconds, of the routes that need one.

        :raises ServiceError: if HAProxy does not answer
        """
        return {model: expires_at for model, (_, expires_at) in self._live().items() if expires_at is not None}

    def set_route(self, route: Route, *, lease_expires_at: float | None = None) -> Route:
        """Save a route and put it into HAProxy. No request sees half of the change. The breaker closes.

        :param lease_expires_at: unix seconds; None: ``lease_s`` from now. Ignored if the route needs no lease
        :raises ServiceError: if HAProxy does not take it; it is saved, and the next try or start brings it in
        """
        expires_at = None
        if route.needs_lease and route.lease_s is not None:
            expires_at = time.time() + route.lease_s if lease_expires_at is None else lease_expires_at
        with self._locked():
            routes = self._saved() | {route.model: (route, expires_at)}
            self._save(routes)
            self._push(routes)
        return route

    def renew(self, model: str, expires_at: float) -> None:
        """Let the canary and the shadow of a model go on until ``expires_at``. One cheap command.

        :param expires_at: unix seconds
        :raises RejectedError: if the model has no lease, or it has ended: only a new route brings the canary back
        :raises ServiceError: if HAProxy does not answer
        """
        with self._locked():
            routes = self._saved()
            route, ends_at = routes.get(model, (None, None))
            if route is None or ends_at is None:
                raise RejectedError(f"model {model!r} has no lease that could be renewed")
            if ends_at <= time.time():
                raise RejectedError(f"the lease of {model} has ended; set the route again if the canary shall go on")
            self._runtime.tell(f"set map {_MAP} {model} {route.value(expires_at)}")
            self._save(routes | {model: (route, expires_at)}, durable=False)

    def remove(self, model: str) -> None:
        """Forget a model: its requests get a 404. Its counters stay.

        :raises ServiceError: if HAProxy does not take it; it is saved, and the next try or start brings it in
        """
        with self._locked():
            routes = {name: saved for name, saved in self._saved().items() if name != model}
            self._save(routes)
            self._push(routes)

    # ------------------------------------------------------------------ what happened

    def counters(self, model: str) -> list[Counters]:
        """Return a row for each version, arm and weight of a model that had traffic, and one for its callers.

        :raises ServiceError: if HAProxy does not answer
        """
        return read_counters(self._runtime.ask("show table counters"), model)

    def in_flight(self, model: str) -> dict[str, int]:
        """Return how many requests each version works on now, on all arms. A version without any may be missing.

        :raises ServiceError: if HAProxy does not answer
        """
        return {}

    def breaker(self, model: str) -> Literal["closed", "open"]:
        """Tell whether stable answers in the place of a canary that failed again and again.

        :raises ServiceError: if HAProxy does not answer
        """
        return "closed"

    def forget(self, model: str, version: str) -> None:
        """Remove the counters of a version that is gone, and the units of its releases.

        :raises ServiceError: if HAProxy does not answer
        """

    # ------------------------------------------------------------------ inside

    def _settings(self) -> dict[str, str]:
        digest = hashlib.sha256(self.config.template.read_bytes()).hexdigest()
        return {**self.config.environment(), "template_sha256": digest}

    def _launch(self, settings: dict[str, str]) -> None:
        self._saved()  # a map that cannot be read is reported before HAProxy sees it
        (self._dir / _MAP).touch(mode=0o600)
        process.launch(self._dir, self.config.template, self.config.environment())
        if self._runtime.pid() is None:
            raise ServiceError(f"HAProxy started on {self.config.bind} and does not answer on its runtime socket")
        write(self._dir / _SETTINGS, json.dumps(settings, indent=1))

    def _live(self) -> dict[str, tuple[Route, float | None]]:
        return {found[0].model: found for found in map(Route.parse, self._runtime.map_lines(_MAP))}

    def _saved(self) -> dict[str, tuple[Route, float | None]]:
        try:
            lines = (self._dir / _MAP).read_text().splitlines()
        except FileNotFoundError:
            return {}
        return {found[0].model: found for found in map(Route.parse, filter(str.strip, lines))}

    def _save(self, routes: dict[str, tuple[Route, float | None]], *, durable: bool = True) -> None:
        write(self._dir / _MAP, "".join(f"{line}\n" for line in _lines(routes)), durable=durable)

    def _push(self, routes: dict[str, tuple[Route, float | None]]) -> None:
        self._runtime.replace_map(_MAP, _lines(routes))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads and processes out."""
        with self._thread_lock, locked(self._dir / _LOCK, process.START_TIMEOUT_S + process.STOP_TIMEOUT_S):
            yield


def _lines(routes: dict[str, tuple[Route, float | None]]) -> list[str]:
    return [f"{model} {routes[model][0].value(routes[model][1])}" for model in sorted(routes)]
