"""The keeper of one node's edge: it keeps HAProxy running, gives it the agent's routes, and reports its counters.

HAProxy runs on without its keeper, and the keeper without the agent.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from operators.core.errors import ServiceError, TaxiwayError
from operators.core.traffic import LeasedRoute, ModelCounters, Route
from ray_jobs.agent.link import Link
from ray_jobs.agent.wire import DeletedVersion, Event, Orders, Report
from ray_jobs.edge import Edge
from ray_jobs.edge.files import write
from ray_jobs.edge.process import recorded_pid

_WATCH_S = 0.25
_PAUSE_S = 0.2
_REFRESH_S = 5.0
# An edge that does not run waits this long for the agent's routes. Then it starts with the routes that it had.
_PATIENCE_S = 3.0
_EVENTS = 500
_log = logging.getLogger(__name__)


class Keeper:
    """Two threads: one watches HAProxy, one talks to the agent.

    :param edge: the edge to keep
    :param link: the connection to the agent
    :param url: where callers reach the edge
    """

    def __init__(self, edge: Edge, link: Link, *, url: str) -> None:
        self._edge, self._link, self._url = edge, link, url
        self._folder = Path(edge.config.state_dir).absolute()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._kept = _KeptRoutes.read(self._folder / "keeper.json")
        self._events: list[Event] = []
        self._open: set[tuple[str, str]] = set()  # (model, canary) whose breaker is open
        self._answered = 0
        self._forgotten: list[DeletedVersion] = []  # to be reported next
        self._problems: dict[str, str] = {}  # thread → why its work fails
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(loop,), name=f"keeper-{loop.__name__}", daemon=True)
            for loop in (self._talk, self._watch)
        ]

    def start(self) -> None:
        """Start both threads. An edge that runs is taken over, and its callers notice nothing."""
        if self._edge.since() is not None:
            self._started.set()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the keeper. HAProxy runs on."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)

    def _run(self, loop: Any) -> None:
        while not self._stopping.is_set():
            try:
                loop()
            except TaxiwayError as error:
                self._note_problem(str(error))
            except Exception as error:  # noqa: BLE001 - nothing else keeps this edge
                _log.exception("the keeper failed, and tries again")
                self._note_problem(f"{type(error).__name__}: {error}")
            self._stopping.wait(_PAUSE_S)

    def _note_problem(self, problem: str) -> None:
        name = threading.current_thread().name
        if problem != self._problems.get(name):
            _log.error("%s", problem)
        self._problems[name] = problem

    def _is_well(self) -> None:
        self._problems.pop(threading.current_thread().name, None)

    # ------------------------------------------------------------------ HAProxy

    def _watch(self) -> None:
        """Bring HAProxy up, and again whenever it ends."""
        if not self._started.wait(_PATIENCE_S) and not self._kept.models:
            return  # without routes it could only answer 404
        refresh_at = 0.0
        while not self._stopping.is_set():
            pid = recorded_pid(self._folder)
            if pid is None or time.monotonic() >= refresh_at:  # settings, tokens or the certificate may have changed
                self._bring_up(pid)
                refresh_at = time.monotonic() + _REFRESH_S
                pid = recorded_pid(self._folder)
            self._wait_for_end(pid)

    def _bring_up(self, pid: int | None) -> None:
        known = (self._folder / "haproxy.pid").exists()
        before = self._edge.since()
        try:
            self._edge.start()
        except TaxiwayError as error:
            if pid is None:
                raise
            self._note_problem(str(error))  # the HAProxy that runs serves as before
            return
        if pid is None and known:
            self._note("edge_restarted")
        elif before is not None and before != self._edge.since():
            self._note("edge_replaced")  # other settings, or another version of Taxiway
        self._is_well()
        self._started.set()

    def _wait_for_end(self, pid: int | None) -> None:
        """Return when HAProxy has ended, or after a moment."""
        try:
            handle = os.pidfd_open(pid or 0)
        except OSError:  # no such process, or a kernel that is too old
            self._stopping.wait(_WATCH_S if pid is None else 0.05)
            return
        try:
            watched = select.poll()
            watched.register(handle, select.POLLIN)
            watched.poll(_WATCH_S * 1000)
        finally:
            os.close(handle)

    def _note(self, kind: str, model: str | None = None, **detail: Any) -> None:
        _log.warning("%s %s %s", kind, model or "", detail or "")
        event = Event(id=uuid.uuid4().hex, at=time.time(), kind=kind, model=model, detail=detail)
        self._events = [*self._events[-_EVENTS:], event]

    # ------------------------------------------------------------------ the agent

    def _talk(self) -> None:
        self._answered = 0  # the last report may not have arrived
        report = self._report()
        while not self._stopping.is_set():
            orders = self._link.sync(report)
            heard = set(orders.heard)
            self._events = [event for event in self._events if event.id not in heard]
            if orders.leased is not None:
                self._take(orders, orders.leased)
            self._forget(orders.gone)
            self._started.set()
            report = self._report(orders)
            self._is_well()

    def _report(self, orders: Orders | None = None) -> Report:
        """Return the report to the agent.

        :raises ServiceError: the agent asks for counters or routes, and HAProxy is away or was replaced meanwhile
        """
        since = self._edge.since() or ""
        lineage, generation = self._kept.lineage, self._kept.generation
        readings = {}
        if orders is not None and since:
            readings = {model: self._read(model) for model in orders.models}
            if self._edge.since() != since:
                raise ServiceError("HAProxy was replaced while its counters were read")
            self._answered = orders.ask
        return Report(
            url=self._url,
            ready=bool(since) and self._edge.ready(),
            lineage=lineage,
            generation=generation,
            since=since,
            answered=self._answered,
            readings=readings,
            breakers=self._breakers() if since else [],
            leased=self._leased() if orders is not None and orders.tell else None,
            events=list(self._events),
            forgotten=list(self._forgotten),
            error="; ".join(list(self._problems.values())) or None,
        )

    def _take(self, orders: Orders, wanted: dict[str, LeasedRoute]) -> None:
        """Give the edge all routes in one step. Before HAProxy's first start they are only saved."""
        ahead_s = time.time() - orders.now  # this node's clock against the agent's
        routes = [
            (Route.of(model, leased.route), None if leased.expires_at is None else leased.expires_at + ahead_s)
            for model, leased in wanted.items()
        ]
        try:
            self._edge.set_routes(routes)
        except ServiceError:
            if self._started.is_set():
                raise
        self._kept = _KeptRoutes(orders.lineage, orders.generation, wanted)
        self._kept.write(self._folder / "keeper.json")

    def _forget(self, versions: list[DeletedVersion]) -> None:
        self._forgotten = []
        for gone in versions:
            try:
                self._edge.forget(gone.model, gone.version)
            except ServiceError as error:  # a last request is under way; the agent will ask again
                _log.info("the counters of %s/%s stay for now: %s", gone.model, gone.version, error)
            else:
                self._forgotten.append(gone)

    def _leased(self) -> dict[str, LeasedRoute]:
        live = self._edge.live()
        return {model: LeasedRoute(route=one.route, expires_at=one.lease_expires_at) for model, one in live.items()}

    # ------------------------------------------------------------------ what it sees

    def _read(self, model: str) -> ModelCounters:
        return ModelCounters(rows=tuple(self._edge.counters(model)), in_flight=self._edge.in_flight(model))

    def _breakers(self) -> list[str]:
        """Return the models whose canary is taken out, and note what has changed."""
        canaries = {
            (model, leased.route.canary)
            for model, leased in self._kept.models.items()
            if leased.route.canary is not None and leased.route.weight_bp
        }
        now = {(model, canary) for model, canary in canaries if self._edge.breaker(model) == "open"}
        for model, canary in sorted(now - self._open):
            self._note("breaker_opened", model, canary=canary)
        for model, canary in sorted((self._open & canaries) - now):
            self._note("breaker_closed", model, canary=canary)
        self._open = now
        return sorted(model for model, _ in now)


class _KeptRoutes:
    """Which of the agent's routes the edge has, also after a restart of the keeper.

    :param lineage: empty: none
    """

    def __init__(self, lineage: str, generation: int, models: dict[str, LeasedRoute]) -> None:
        self.lineage, self.generation, self.models = lineage, generation, models

    @classmethod
    def read(cls, path: Path) -> _KeptRoutes:
        """Return what :meth:`write` wrote; nothing, if that cannot be read."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            models = {model: LeasedRoute.model_validate(leased) for model, leased in kept["models"].items()}
            return cls(str(kept["lineage"]), int(kept["generation"]), models)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls("", 0, {})

    def write(self, path: Path) -> None:
        """Write them to a file. If a power cut loses it, the agent sends the routes again."""
        models = {model: leased.model_dump() for model, leased in self.models.items()}
        text = json.dumps({"lineage": self.lineage, "generation": self.generation, "models": models})
        write(path, text, durable=False)
