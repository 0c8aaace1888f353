"""Late evidence beside a look that comes every second: it is never waited for, and never quietly missing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from operators.core.errors import RejectedError, ServiceError
from operators.core.spec_release import Shadow
from operators.core.traffic import Counters
from operators.judge.evidence import Evidence, Pairs, Period
from operators.judge.tally import Tally
from operators.rollout.delayed.source import LateSource, window_of
from operators.rollout.delayed.window import ArmNumbers, LateEvidence, Span
from operators.rollout.steps.live_phase import LivePhase
from tests.support.late_world import BEGIN, spec_with
from tests.support.phases import live_phase

SPEC = spec_with(labels={"within": "1h"})
EVIDENCE = Evidence(periods=(Period(weight_bp=2500, weight=0.25),))


def live(**changes: Any) -> LivePhase:
    given = {"model": "flight_delay", "canary": "4", "stable": "3", "weights_bp": (500, 2500)}
    return live_phase(**{**given, "released_at": BEGIN, "began_at": BEGIN + 60, **changes})


class Reader:
    """Stands for a collector whose storage is slow, or away."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.may_end.set()
        self.failure: Exception | None = None
        self.looks: list[float] = []
        self.closed = 0

    def look(self, now_s: float) -> LateEvidence:
        self.looks.append(now_s)
        self.may_end.wait(10)
        if self.failure:
            raise self.failure
        return LateEvidence(arms=((ArmNumbers(), ArmNumbers()),) * 4, pairs=Pairs(total=len(self.looks)))

    def close(self) -> None:
        self.closed += 1


class SlowRead:
    """A source whose reading ends when the test says so."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.reader = Reader()
        self.made: list[Any] = []
        self.source = LateSource(SPEC, every_s=10, collector=self._make, clock=lambda: self.now)

    def _make(self, spec: Any, window: Any) -> Any:
        self.made.append(window)
        return self.reader

    async def add(self, at_s: float) -> Evidence:
        """Look, then let the reading end."""
        self.now = BEGIN + at_s
        try:
            return await self.source.add(EVIDENCE, live())
        finally:
            if self.reader.may_end.is_set() and self.source._reading:
                await asyncio.wait({self.source._reading})


def play(script: Callable[[SlowRead], Awaitable[None]]) -> SlowRead:
    world = SlowRead()

    async def run() -> None:
        try:
            await script(world)
        finally:
            world.reader.may_end.set()
            await world.source.close()

    asyncio.run(run())
    return world


def test_a_look_gets_what_was_read_last() -> None:
    async def script(world: SlowRead) -> None:
        assert await world.add(0) == EVIDENCE
        assert (await world.add(1)).pairs == Pairs(total=1)
        assert (await world.add(9)).pairs == Pairs(total=1)
        assert (await world.add(10)).pairs == Pairs(total=1)
        assert (await world.add(11)).pairs == Pairs(total=2)

    world = play(script)
    assert world.reader.looks == [BEGIN, BEGIN + 10]
    assert (len(world.made), world.reader.closed) == (1, 1)


def test_a_slow_storage_delays_no_look_and_is_asked_once_at_a_time() -> None:
    async def script(world: SlowRead) -> None:
        world.reader.may_end.clear()
        for second in range(0, 40, 5):
            assert await world.add(second) == EVIDENCE
        with pytest.raises(ServiceError, match="nothing for 301 s"):
            await world.add(301)

    world = play(script)
    assert len(world.reader.looks) == 1
    assert world.reader.closed == 1


@pytest.mark.parametrize("failure", [ServiceError("the store is away"), RejectedError("x.parquet is no Parquet")])
def test_what_cannot_be_read_for_a_minute_is_said(failure: Exception) -> None:
    async def script(world: SlowRead) -> None:
        await world.add(0)
        assert (await world.add(1)).pairs == Pairs(total=1)
        world.reader.failure = failure
        for second in range(10, 70, 10):
            assert (await world.add(second)).pairs == Pairs(total=1)
        with pytest.raises(ServiceError, match=f"cannot be read: {failure}"):
            await world.add(80)
        world.reader.failure = None
        with pytest.raises(ServiceError):
            await world.add(90)
        assert (await world.add(91)).pairs is not None

    play(script)


def test_the_facts_of_a_step() -> None:
    window = window_of(live(pool_bp=8000), SPEC)
    assert (window.begin_s, window.stable, window.canary) == (BEGIN, "3", "4")
    assert window.spans == (
        Span(weight_bp=500),
        Span(weight_bp=2500),
        Span(kind="watch", weight_bp=100),
        Span(kind="shadow", weight_bp=5000),
    )


def test_a_step_of_half_the_callers_hides_no_shadow_of_all() -> None:
    """Both compare one half with the other."""
    shadow = Shadow.model_validate({"sample_pct": 100.0, "bake": "1h"})
    spec = SPEC.model_copy(update={"release": SPEC.release.model_copy(update={"shadow": shadow})})
    spans = window_of(live(weights_bp=(5000,)), spec).spans
    assert [span.key for span in spans] == [("canary", 5000), ("watch", 100), ("shadow", 10_000)]


@pytest.mark.parametrize(("kind", "weight_bp"), [("shadow", 5000), ("canary", 2500), ("watch", 100)])
def test_every_period_of_a_phase_has_its_span(kind: str, weight_bp: int) -> None:
    step = live(kind=kind, pool_bp=9700, weights_bp=(weight_bp,))
    periods = step.periods(Tally.begin(Counters()))
    assert periods
    assert {period.key for period in periods} <= {span.key for span in window_of(step, SPEC).spans}
