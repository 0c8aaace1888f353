"""From the edges' reports, through the agent, to the gains of a step: never more than happened, and nothing lost that was seen."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.core.traffic import Counters, ModelCounters, Row
from operators.judge.tally import Tally
from ray_jobs.agent import edges as module
from ray_jobs.agent.edges import Edges
from ray_jobs.agent.journal import Journal
from ray_jobs.agent.state import Store
from ray_jobs.agent.wire import Report

MODEL = "m"
Step = tuple[str, str, int]


@dataclass
class Edge:
    """What one edge has truly counted, and what somebody has read of it."""

    since: str = ""
    requests: int = 0
    connected: bool = True
    answered: int = 0
    known: bool = False  # the agent has heard of it
    routed: bool = False
    exact: bool = True  # its first gains are known, not only bounded
    at_begin: int = 0
    read: int = 0
    happened: int = 0  # since the beginning, in countings that have ended
    seen: int = 0  # the part of it that was read

    def end(self) -> None:
        self.happened += self.requests - self.at_begin
        self.seen += max(self.read - self.at_begin, 0)
        self.since, self.requests, self.at_begin, self.read = "", 0, 0, 0


@dataclass
class Fleet:
    folder: Path
    edges: dict[str, Edge] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder)
        self.start_agent()

    def start_agent(self) -> None:
        self.agent = Edges(Store(self.folder / "state.json"), self.journal, clock=lambda: self.now)

    async def sync(self, name: str, ask: int | None = None) -> None:
        """Report as a keeper does; `ask`: as the answer to a wish."""
        edge = self.edges[name]
        if ask is not None and edge.since:
            edge.answered, edge.read = ask, edge.requests
        row = Row(version="1", arm="stable", requests=edge.requests, units=edge.requests)
        report = Report(
            url="http://e", ready=True, lineage="l" if edge.routed else "", generation=0, since=edge.since,
            answered=edge.answered, readings={MODEL: ModelCounters(rows=(row,))} if ask is not None and edge.since else {},
        )  # fmt: skip
        await self.agent.sync(name, report)
        edge.routed = True

    async def counters(self) -> Counters:
        ask = await self.agent.read(MODEL, timeout_s=0)
        for name, edge in self.edges.items():
            if edge.connected:
                await self.sync(name, ask)
        found = self.agent.counters(MODEL, ask)
        return Counters.model_validate_json(found.model_dump_json())

    async def join(self, name: str) -> None:
        """A machine comes up: its keeper reports, hears of the routes, and then starts HAProxy."""
        if name not in self.edges:
            self.edges[name] = Edge()
            await self.sync(name)
            self.edges[name].since = secrets.token_hex(4)

    async def play(self, step: Step) -> None:
        kind, name, number = step
        if kind == "join":
            await self.join(name)
        elif kind == "read":
            await self.counters()
        elif kind == "restart_agent":
            self.start_agent()
            for edge in self.edges.values():  # whether a new one had counted nothing is forgotten
                edge.exact &= edge.known
        elif kind == "forget":
            await self.forget()
        elif name in self.edges:
            self.happen(kind, self.edges[name], number)

    async def forget(self) -> None:
        """So much time passes that the agent forgets who is away."""
        self.now += 1000.0
        for name, edge in self.edges.items():
            edge.exact &= edge.known or edge.connected
            if edge.connected:
                await self.sync(name)
        self.agent.forget_lost()

    def happen(self, kind: str, edge: Edge, number: int) -> None:
        if kind == "gain":
            edge.requests += number
        elif kind == "restart":
            edge.end()
            edge.since = secrets.token_hex(4)
        else:
            edge.connected = kind == "back"
            self.now += module.LIVE_S + 1


NAMES = ("a", "b", "c")
KINDS = ("gain", "gain", "gain", "restart", "join", "away", "back", "read", "read", "restart_agent", "forget")
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from(NAMES), st.integers(0, 1000)), min_size=12, max_size=40
)


@pytest.fixture(autouse=True, scope="module")
def _at_once() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "POLL_S", 0.0)
        yield


async def _gained(before: list[Step], after: list[Step], folder: Path) -> None:
    world = Fleet(folder)
    await world.join("a")
    for step in before:
        await world.play(step)
    tally = Tally.begin(await world.counters())
    for edge in world.edges.values():
        edge.happened = edge.seen = 0
        edge.at_begin = edge.requests
        edge.exact = edge.known = edge.connected
    for step in [*after, ("read", "", 0)]:
        if step[0] != "read":
            await world.play(step)
            continue
        tally = tally.advance(await world.counters())
        for edge in world.edges.values():
            edge.known |= edge.connected
        gained = sum(row.requests for row in tally.gained.values())
        seen = {name: e.seen + max(e.read - e.at_begin, 0) for name, e in world.edges.items()}
        happened = sum(e.happened + e.requests - e.at_begin for e in world.edges.values())
        assert sum(seen[name] for name, e in world.edges.items() if e.exact) <= gained <= sum(seen.values()) <= happened


# The agent's state is written durably, thousands of times here: a disk would take four times as long.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@settings(max_examples=300)
@given(before=STEPS, after=STEPS)
def test_gains_are_what_happened_up_to_the_last_reading(before: list[Step], after: list[Step]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        asyncio.run(_gained(before, after, Path(folder)))
