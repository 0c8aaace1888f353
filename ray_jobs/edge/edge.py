"""The edge: one HAProxy in front of every model version. It splits the traffic, falls back and counts.

HAProxy outlives this process. Its config never changes at run time. Only one map changes: it is saved in the state
directory, and given to HAProxy over its runtime socket in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from operators.core.errors import RejectedError, ServiceError
from operators.core.traffic import Route, Row
from ray_jobs.edge import process
from ray_jobs.edge.access import Access
from ray_jobs.edge.config import EdgeConfig
from ray_jobs.edge.counters import key_of, read_counters, read_in_flight
from ray_jobs.edge.files import locked, write
from ray_jobs.edge.map_line import LiveRoute
from ray_jobs.edge.succession import STOP_TIMEOUT_S, Daemons

_MAP, _SETTINGS, _LOCK = "routes.map", "settings.json", "lock"
_READY_TIMEOUT_S = 5.0


class Edge:
    """Owner of one HAProxy and its routes. Safe for several threads, and for several processes with one ``state_dir``.

    :param config: the edge's settings
    """

    def __init__(self, config: EdgeConfig) -> None:
        self.config = config
        self._dir = Path(config.state_dir).absolute()
        self._daemons = Daemons(self._dir, config.template, config.environment())
        self._runtime = self._daemons.serving
        self._access = Access(self._dir, config.tokens, config.certificate)
        self._thread_lock = threading.RLock()

    def start(self) -> None:
        """Start HAProxy, or attach to the one that runs with this state directory, and give it the saved routes.

        A HAProxy that runs with other settings or another haproxy.cfg is replaced. No caller notices; the counters begin
        anew. Tokens and a certificate that have changed are loaded, too.

        :raises ServiceError: if HAProxy does not start; the message is HAProxy's. One that ran before goes on
        """
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            settings = self._settings()
            if self._runtime.pid() is None:
                self._launch(self._daemons.start, settings)
            elif self._running_settings() != settings:
                self._launch(self._daemons.succeed, settings)
            self._access.refresh(self._runtime)
            self._push(self._saved())

    def stop(self) -> None:
        """End HAProxy: requests in flight get a few seconds. Do nothing if none runs.

        :raises ServiceError: if it cannot be ended
        """
        if self._dir.is_dir():
            with self._locked():
                self._daemons.stop()

    def ready(self) -> bool:
        """Tell whether the edge answers and reaches its upstream."""
        host, _, port = self.config.bind.rpartition(":")
        host = "127.0.0.1" if host in ("*", "0.0.0.0") else host.strip("[]")  # noqa: S104 - compared, not bound
        connection = http.client.HTTPConnection(host, int(port), timeout=_READY_TIMEOUT_S)
        if self.config.certificate is not None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = (
                False,
                ssl.CERT_NONE,
            )  # the only question is whether it answers
            connection = http.client.HTTPSConnection(host, int(port), timeout=_READY_TIMEOUT_S, context=context)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def since(self) -> str | None:
        """Return an id of the HAProxy that runs; None: none runs. When the id changes, the counters began anew."""
        try:
            match = re.search(r"TAXIWAY_EDGE_ID=(\w+)", self._runtime.ask("show env TAXIWAY_EDGE_ID"))
        except ServiceError:
            return None
        return match[1] if match else None

    # ------------------------------------------------------------------ routes

    def live(self) -> dict[str, LiveRoute]:
        """Return the routes that HAProxy uses now, with the ends of their leases.

        :raises ServiceError: if HAProxy does not answer
        """
        return _by_model(self._runtime.map_lines(_MAP))

    def routes(self) -> dict[str, Route]:
        """Return the routes that HAProxy uses now.

        :raises ServiceError: if HAProxy does not answer
        """
        return {model: live.route for model, live in self.live().items()}

    def set_route(self, route: Route, *, lease_expires_at: float | None = None) -> Route:
        """Save a route and give it to HAProxy. No request sees half of the change.

        An open breaker closes, unless only the end of the lease has changed.

        :param lease_expires_at: unix seconds; None: ``lease_s`` from now. Ignored if the route needs no lease
        :raises ServiceError: if HAProxy does not take it; it is saved, and the next try or start will give it
        """
        with self._locked():
            saved = self._saved()
            self._replace(saved | {route.model: _placed(saved.get(route.model), route, lease_expires_at)})
        return route

    def set_routes(self, routes: Iterable[tuple[Route, float | None]]) -> None:
        """Replace all routes in one step; a model that is not among them is forgotten.

        :param routes: each with the end of its lease in unix seconds; None: ``lease_s`` from now
        :raises ServiceError: if HAProxy does not take them; they are saved, and the next try or start will give them
        """
        with self._locked():
            saved = self._saved()
            self._replace({route.model: _placed(saved.get(route.model), route, end) for route, end in routes})

    def renew(self, model: str, expires_at: float) -> None:
        """Renew the lease of a model: its canary and shadow go on until ``expires_at``. One cheap command.

        :param expires_at: unix seconds
        :raises RejectedError: if the model has no lease, or it has ended: only a new route brings the canary back
        :raises ServiceError: if HAProxy does not answer
        """
        with self._locked():
            routes = self._saved()
            live = routes.get(model)
            if live is None or live.lease_expires_at is None:
                raise RejectedError(f"model {model!r} has no lease that could be renewed")
            if live.lease_expires_at <= time.time():
                raise RejectedError(f"the lease of {model} has ended; set the route again to go on with the canary")
            routes[model] = live.renewed(expires_at)
            self._runtime.tell(f"set map {_MAP} {routes[model].line()}")
            self._save(routes, durable=False)

    def remove(self, model: str) -> None:
        """Forget a model: its requests get a 404. Its counters stay.

        :raises ServiceError: if HAProxy does not take it; it is saved, and the next try or start will give it
        """
        with self._locked():
            self._replace({name: live for name, live in self._saved().items() if name != model})

    # ------------------------------------------------------------------ counters

    def counters(self, model: str) -> list[Row]:
        """Return a row for each version, arm and weight of a model that had traffic, and one for its callers.

        :raises ServiceError: if HAProxy does not answer
        """
        return read_counters(self._runtime.ask("show table counters"), model)

    def in_flight(self, model: str) -> dict[str, int]:
        """Return how many requests each version is answering now, on all arms. A version without any may be missing.

        :raises ServiceError: if HAProxy does not answer
        """
        total = Counter(read_in_flight(self._runtime.ask("show table versions"), model))
        for replaced in self._daemons.replaced():
            with contextlib.suppress(ServiceError):  # it has just ended
                total.update(read_in_flight(replaced.ask("show table versions"), model))
        return dict(total)

    def breaker(self, model: str) -> Literal["closed", "open"]:
        """Tell whether stable answers in place of a canary that failed again and again.

        The breaker is open until the canary has answered a request, even if none arrives.

        :raises ServiceError: if HAProxy does not answer
        """
        live = self.live().get(model)
        if live is None:
            return "closed"
        key = f"{model}/{live.route.canary}/{live.generation}"
        open_until = re.search(r" gpt1=(\d+)", self._runtime.ask(f"show table breakers key {key}"))
        return "open" if open_until is not None and int(open_until[1]) else "closed"

    def forget(self, model: str, version: str) -> None:
        """Remove the counters of a deleted version. HAProxy drops its units 20 days after their last request.

        :raises ServiceError: if HAProxy does not answer, or the version still has requests
        """
        for row in self.counters(model):
            if row.version == version:
                self._runtime.tell(f"clear table counters key {key_of(model, row)}")

    # ------------------------------------------------------------------ inside

    def _settings(self) -> dict[str, str]:
        digest = hashlib.sha256("".join(process.files(self.config.template).values()).encode()).hexdigest()
        return {**self.config.environment(), "files_sha256": digest}

    def _running_settings(self) -> dict[str, str] | None:
        try:
            return dict(json.loads((self._dir / _SETTINGS).read_text()))
        except FileNotFoundError:
            return None

    def _launch(self, launch: Callable[[], None], settings: dict[str, str]) -> None:
        self._saved()  # a map that cannot be read is reported before HAProxy sees it
        (self._dir / _MAP).touch(mode=0o600)
        self._access.prepare()
        # Without the file, the next start launches again: this process may be killed before the end.
        (self._dir / _SETTINGS).unlink(missing_ok=True)
        launch()
        write(self._dir / _SETTINGS, json.dumps(settings, indent=1))

    def _saved(self) -> dict[str, LiveRoute]:
        try:
            lines = (self._dir / _MAP).read_text().splitlines()
        except FileNotFoundError:
            return {}
        return _by_model(filter(str.strip, lines))

    def _save(self, routes: dict[str, LiveRoute], *, durable: bool = True) -> None:
        write(self._dir / _MAP, "".join(f"{line}\n" for line in _lines(routes)), durable=durable)

    def _replace(self, routes: dict[str, LiveRoute]) -> None:
        self._save(routes)
        self._push(routes)

    def _push(self, routes: dict[str, LiveRoute]) -> None:
        self._runtime.replace_map(_MAP, _lines(routes))
        for replaced in self._daemons.replaced():  # its open connections get one more answer
            with contextlib.suppress(ServiceError):  # it has just ended
                replaced.replace_map(_MAP, _lines(routes))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads and processes out."""
        with self._thread_lock, locked(self._dir / _LOCK, process.START_TIMEOUT_S + STOP_TIMEOUT_S):
            yield


def _placed(before: LiveRoute | None, route: Route, lease_expires_at: float | None) -> LiveRoute:
    """Return a route as it is set now."""
    expires_at = None
    if route.needs_lease and route.lease_s is not None:
        expires_at = time.time() + route.lease_s if lease_expires_at is None else lease_expires_at
    same = before is not None and before.route == route
    return LiveRoute(route, expires_at, before.generation if before is not None and same else time.time_ns())


def _by_model(lines: Iterable[str]) -> dict[str, LiveRoute]:
    return {live.route.model: live for live in map(LiveRoute.parse, lines)}


def _lines(routes: dict[str, LiveRoute]) -> list[str]:
    return [routes[model].line() for model in sorted(routes)]
