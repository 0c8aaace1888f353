"""Late evidence for looks that are made every second: read in a thread now and then, never waited for."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from operators.core.errors import ServiceError, TaxiwayError
from operators.core.settings import LONGEST_SILENCE_S
from operators.core.spec import ModelSpec
from operators.core.spec_release import CONTROL_BP
from operators.judge.evidence import Evidence
from operators.rollout.delayed.window import Facts, Late, Span, with_late

if TYPE_CHECKING:
    from operators.rollout.delayed.collector import Collector
    from operators.rollout.steps.live_phase import LivePhase

_LONGEST_READING_S = 290.0  # the first look reads all that the release has left so far


def facts_of(live: LivePhase, spec: ModelSpec) -> Facts:
    """Return what a phase under way asks of the prediction log. Pure."""
    phase, shadow = live.phase, spec.release.shadow
    spans = [Span(weight_bp=bp) for bp in phase.weights_bp if bp < phase.pool_bp] if phase.kind == "canary" else []
    spans.append(Span(kind="watch", weight_bp=CONTROL_BP))
    if shadow is not None:
        spans.append(Span(kind="shadow", weight_bp=round(shadow.sample_pct * 100)))
    return Facts(
        model=live.model,
        stable=live.stable,
        canary=live.canary,
        begin_s=live.released_at,
        spans=tuple(spans),
    )


class LateSource:
    """Adds late evidence to a look. A look never waits: it gets the evidence that was read last.

    :param every_s: how often the log is read; default: as often as a replica writes
    :param collector: makes the reader, in a thread; default: `Collector` with the settings' storage
    :param clock: Unix time in seconds
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        every_s: float | None = None,
        collector: Callable[[ModelSpec, Facts], Collector] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spec = spec
        self._every_s = spec.monitoring.prediction_log.flush_every_s if every_s is None else every_s
        self._make = collector or _collector
        self._clock = clock
        self._facts: Facts | None = None
        self._collector: Collector | None = None
        self._reading: asyncio.Task[Late] | None = None
        self._began_at = -math.inf
        self._read_at: float | None = None
        self._late: Late | None = None
        self._failure: TaxiwayError | None = None

    async def add(self, evidence: Evidence, live: LivePhase) -> Evidence:
        """Return the evidence with the late part that was read last; start to read again when it is time.

        :raises ServiceError: nothing could be read for a minute, or reading takes longer than some minutes
        """
        facts = self._facts = self._facts or facts_of(live, self._spec)
        now = self._clock()
        if self._read_at is None:
            self._read_at = now
        self._take()
        if self._reading is None and now - self._began_at >= self._every_s:
            self._began_at = now
            self._reading = asyncio.create_task(asyncio.to_thread(self._read, facts, now))
        self._complain(now - self._read_at)
        return with_late(evidence, facts, self._late) if self._late else evidence

    def _complain(self, silent_s: float) -> None:
        what = "predictions, labels or business numbers cannot be read"
        if self._failure and silent_s > LONGEST_SILENCE_S + self._every_s:
            raise ServiceError(f"{what}: {self._failure}")
        if self._reading and silent_s > _LONGEST_READING_S + self._every_s:
            raise ServiceError(f"{what}: the storage has answered nothing for {silent_s:.0f} s")

    async def close(self) -> None:
        """End the reading and forget what was read."""
        if self._reading is not None:
            await asyncio.wait({self._reading})
            self._take()
        if self._collector is not None:
            await asyncio.to_thread(self._collector.close)
            self._collector = None

    def _read(self, facts: Facts, now: float) -> Late:
        if self._collector is None:
            self._collector = self._make(self._spec, facts)
        return self._collector.look(now)

    def _take(self) -> None:
        if self._reading is None or not self._reading.done():
            return
        reading, self._reading = self._reading, None
        try:
            self._late = reading.result()
        except TaxiwayError as error:
            self._failure = error
        else:
            self._failure, self._read_at = None, self._began_at


def _collector(spec: ModelSpec, facts: Facts) -> Collector:
    from operators.rollout.delayed.collector import Collector

    return Collector(spec, facts)
