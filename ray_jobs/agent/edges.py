"""The edges as the agent knows them: which routes each has, and what each counts.

Keepers call the agent, which answers as soon as it has something new, at the latest after a second. So a change is
everywhere in milliseconds, an edge that was away gets all of it with its first call, and no node needs an open port.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from operators.core.traffic import Counters, EdgeReading, LeasedRoute, ModelCounters
from ray_jobs.agent.journal import Journal
from ray_jobs.agent.state import HeldRoute, Store
from ray_jobs.agent.sums import add_rows
from ray_jobs.agent.wire import DeletedVersion, EdgeState, Orders, Report

POLL_S = 1.0
LIVE_S = 3.0
SETTLE_S = 1.0
_FORGET_S = 900.0
_log = logging.getLogger(__name__)


@dataclass
class _KnownEdge:
    """One edge: its last report, and its last counters, which are used while it is away.

    :param at: when the report came
    :param new: it joined without routes and without a HAProxy, so it had counted nothing
    """

    report: Report
    at: float
    new: bool
    readings: dict[str, ModelCounters] = field(default_factory=dict)


class Edges:
    """All edges. For one event loop.

    :param clock: monotonic seconds
    """

    def __init__(self, store: Store, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock
        self._seen: dict[str, _KnownEdge] = {}
        self._began = clock()
        # A reading's number; greater than all that an agent before this one gave out.
        self._ask = time.time_ns() // 1_000_000
        self._asked: dict[str, int] = {}  # model → number of the newest reading that was asked for
        self._gone: dict[str, set[DeletedVersion]] = {}  # edge → deleted versions whose counters it still has
        self._news = asyncio.Event()

    # ------------------------------------------------------------------ the keepers' side

    async def sync(self, edge: str, report: Report) -> Orders:
        """Take a keeper's report, and answer once there is something new for it, at the latest after a second.

        :param edge: its id
        """
        known = self._seen.get(edge)
        heard = [event.id for event in report.events]
        await asyncio.to_thread(self._note, edge, report)
        if self._ahead(report):
            if report.leased is None:
                return self._orders(report, heard)
            await self._adopt(edge, report, report.leased)
        new = known.new if known is not None else not report.since and not report.lineage
        seen = _KnownEdge(report, self._clock(), new, dict(report.readings))
        if known is not None and known.report.since == report.since:
            seen.readings = known.readings | report.readings
        self._seen[edge] = seen
        self._gone.get(edge, set()).difference_update(report.forgotten)
        if self._store.state.edges.get(edge) != report.url:
            self._store.state.edges[edge] = report.url
            await self._store.save()
            await asyncio.to_thread(self._journal.append, "edge_joined", edge=edge, url=report.url)
        self.tell()
        if not heard:
            await self._until(lambda: self._has_news(edge, report), POLL_S)
        return self._orders(report, heard, self._gone.get(edge, set()))

    def _has_news(self, edge: str, report: Report) -> bool:
        return not self._has_all(report) or bool(self._wanted(report.answered)) or bool(self._gone.get(edge))

    def _orders(self, report: Report, heard: list[str], gone: Iterable[DeletedVersion] = ()) -> Orders:
        state, ahead = self._store.state, self._ahead(report)
        return Orders(
            lineage=state.lineage,
            generation=state.generation,
            now=time.time(),
            leased=None if ahead or self._has_all(report) else state.leased(),
            tell=ahead,
            ask=self._ask,
            models=self._wanted(report.answered),
            heard=heard,
            gone=list(gone),
        )

    def _wanted(self, answered: int) -> list[str]:
        return sorted(model for model, ask in self._asked.items() if ask > answered)

    def _note(self, edge: str, report: Report) -> None:
        """Write an edge's events into the journal, each once: a keeper repeats them until they are confirmed."""
        for event in report.events:
            if not self._journal.has(event.id):
                self._journal.append(
                    event.kind, model=event.model, at=event.at, id=event.id, edge=edge, detail=event.detail
                )

    def _ahead(self, report: Report) -> bool:
        """Tell whether the agent has lost its routes: it saves each generation before an edge gets it."""
        state = self._store.state
        if report.lineage == state.lineage:
            return report.generation > state.generation
        return state.generation == 0 and report.generation > 0

    async def _adopt(self, edge: str, report: Report, leased: dict[str, LeasedRoute]) -> None:
        """Take over an edge's routes, as the agent has lost its own. Callers notice nothing."""
        state = self._store.state
        state.lineage, state.generation = report.lineage, report.generation
        state.held = {
            model: HeldRoute(route=lease.route, expires_at=lease.expires_at) for model, lease in leased.items()
        }
        await self._store.save()
        await asyncio.to_thread(self._journal.append, "routes_adopted", edge=edge, models=sorted(leased))
        _log.warning("the agent's state was lost or old; it has taken over the routes of edge %s", edge)

    def _has_all(self, report: Report) -> bool:
        state = self._store.state
        return (report.lineage, report.generation) == (state.lineage, state.generation)

    # ------------------------------------------------------------------ the agent's side

    def tell(self) -> None:
        """Wake every call that waits for a change."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def settled(self, generation: int, timeout_s: float = SETTLE_S) -> list[str]:
        """Wait until every live edge has a generation.

        :param timeout_s: an edge that needs longer is not waited for
        :returns: ids of the edges that do not have it, also of those that are away
        """
        await self._until(lambda: not [edge for edge in self.behind(generation) if self._live(edge)], timeout_s)
        return self.behind(generation)

    def behind(self, generation: int) -> list[str]:
        """Return the edges that have not confirmed a generation."""
        return sorted(edge for edge in self._store.state.edges if not self._has(edge, generation))

    def _has(self, edge: str, generation: int) -> bool:
        seen = self._seen.get(edge)
        return (
            seen is not None
            and seen.report.lineage == self._store.state.lineage
            and seen.report.generation >= generation
        )

    def _live(self, edge: str) -> bool:
        seen = self._seen.get(edge)
        return seen is not None and self._clock() - seen.at < LIVE_S

    async def read(self, *models: str, timeout_s: float = SETTLE_S) -> int:
        """Ask every live edge for its counters of now, and return the number of this reading.

        :param timeout_s: an edge that needs longer is not waited for
        """
        self._ask += 1
        wanted = self._ask
        self._asked |= dict.fromkeys(models, wanted)
        self.tell()
        await self._until(lambda: all(self._has_read(e, wanted) for e in self._seen if self._live(e)), timeout_s)
        return wanted

    def _has_read(self, edge: str, ask: int) -> bool:
        return edge in self._seen and self._seen[edge].report.answered >= ask

    async def _until(self, reached: Callable[[], bool], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not reached() and (left_s := deadline - loop.time()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left_s)

    def forget(self, model: str, version: str) -> None:
        """Let every edge remove the counters of a deleted version, as the room in its table is limited."""
        for edge in self._store.state.edges:
            self._gone.setdefault(edge, set()).add(DeletedVersion(model=model, version=version))
        self.tell()

    def count_anew(self, model: str, version: str) -> None:
        """Keep the counters of a version that is deployed again."""
        for gone in self._gone.values():
            gone.discard(DeletedVersion(model=model, version=version))

    def forget_lost(self, gone: set[str] | None = None) -> bool:
        """Forget edges whose node has gone, or that have been away for a quarter of an hour.

        :param gone: ids of edges whose nodes are known to have gone
        :returns: whether any was forgotten
        """
        now, edges = self._clock(), self._store.state.edges
        last = {edge: self._seen[edge].at if edge in self._seen else self._began for edge in edges}
        lost = [edge for edge in edges if edge in (gone or ()) or now - last[edge] > _FORGET_S]
        for edge in lost:
            del edges[edge]
            self._seen.pop(edge, None)
            self._gone.pop(edge, None)
        return bool(lost)

    # ------------------------------------------------------------------ sums

    def states(self) -> list[EdgeState]:
        """Return where each edge stands."""
        states = []
        for edge, url in sorted(self._store.state.edges.items()):
            seen, live = self._seen.get(edge), self._live(edge)
            states.append(
                EdgeState(
                    id=edge,
                    url=url,
                    ready=live and seen is not None and seen.report.ready,
                    generation=seen.report.generation if seen else 0,
                    behind=not live or not self._has(edge, self._store.state.generation),
                    error=seen.report.error if seen and live else "its keeper has not reported lately",
                )
            )
        return states

    def counters(self, model: str, ask: int) -> Counters:
        """Return a model's counters: of each edge, and summed. Of an edge that is away, the sums have its last counters.

        :param ask: number of a reading; an edge that has not answered it could not be asked
        """
        return Counters(
            rows=tuple(add_rows(row for reading in self.readings(model).values() for row in reading.rows)),
            in_flight=self.in_flight(model),
            edges=tuple(self._reading(edge, model, ask) for edge in sorted({*self._seen, *self._store.state.edges})),
        )

    def readings(self, model: str) -> dict[str, ModelCounters]:
        """Return each edge's last counters of a model."""
        return {edge: seen.readings[model] for edge, seen in self._seen.items() if model in seen.readings}

    def _reading(self, edge: str, model: str, ask: int) -> EdgeReading:
        seen = self._seen.get(edge)
        if seen is None or model not in seen.readings or not self._has_read(edge, ask):
            return EdgeReading(edge=edge, since=None, new=seen is not None and seen.new)
        counters = seen.readings[model]
        rows = tuple(row.model_copy(update={"latency": ()}) for row in counters.rows)
        return EdgeReading(edge=edge, since=seen.report.since, new=seen.new, rows=rows, in_flight=counters.in_flight)

    def in_flight(self, model: str) -> dict[str, int]:
        """Return the requests of a model that are under way, by version."""
        total: dict[str, int] = {}
        for reading in self.readings(model).values():
            for version, count in reading.in_flight.items():
                total[version] = total.get(version, 0) + count
        return total

    def idle(self, model: str, version: str, *, generation: int, ask: int) -> bool:
        """Tell whether no edge sends requests to a version any more, and none waits for its answers.

        :param generation: of the routes that no longer name it
        :param ask: number of a reading that began after that
        """
        edges = self._store.state.edges
        sure = all(self._live(edge) and self._has(edge, generation) and self._has_read(edge, ask) for edge in edges)
        return sure and self.in_flight(model).get(version, 0) == 0

    def breaker_open(self, model: str) -> bool:
        """Tell whether some edge has taken a model's canary out."""
        return any(model in seen.report.breakers for edge, seen in self._seen.items() if self._live(edge))
