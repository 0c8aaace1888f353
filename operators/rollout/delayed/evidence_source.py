"""Late evidence for the judge, which looks every second: a thread reads it now and then, and no look waits for it."""

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
from operators.rollout.delayed.window import LateEvidence, ReleaseWindow, Span, with_late

if TYPE_CHECKING:
    from operators.rollout.delayed.collector import Collector
    from operators.rollout.steps.live_phase import LivePhase

_LONGEST_READING_S = 290.0  # after a restart, the first reading takes in the whole release so far


def window_of(live: LivePhase, spec: ModelSpec) -> ReleaseWindow:
    """Return the window of the release that a phase belongs to. Pure."""
    phase, shadow = live.phase, spec.release.shadow
    spans = [Span(weight_bp=bp) for bp in phase.weights_bp if bp < phase.pool_bp] if phase.kind == "canary" else []
    spans.append(Span(kind="watch", weight_bp=CONTROL_BP))
    if shadow is not None:
        spans.append(Span(kind="shadow", weight_bp=round(shadow.sample_pct * 100)))
    return ReleaseWindow(
        model=live.model, stable=live.stable, canary=live.canary, begin_s=live.released_at, spans=tuple(spans)
    )


class LateSource:
    """Adds late evidence to a look. A look never waits: it gets the evidence that was read last.

    :param every_s: seconds between two readings; default: as often as a replica writes
    :param collector: makes the collector, in a thread; default: `Collector` with the settings' storage
    :param clock: Unix time in seconds
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        every_s: float | None = None,
        collector: Callable[[ModelSpec, ReleaseWindow], Collector] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spec = spec
        self._every_s = spec.monitoring.prediction_log.flush_every_s if every_s is None else every_s
        self._make = collector
        self._clock = clock
        self._window: ReleaseWindow | None = None
        self._collector: Collector | None = None
        self._reading: asyncio.Task[LateEvidence] | None = None
        self._began_at = -math.inf
        self._read_at: float | None = None
        self._late: LateEvidence | None = None
        self._failure: TaxiwayError | None = None

    async def add(self, evidence: Evidence, live: LivePhase) -> Evidence:
        """Return the evidence with the late evidence that was read last. Start the next reading when it is due.

        :raises ServiceError: nothing could be read for a minute, or a reading takes longer than five minutes
        """
        window = self._window = self._window or window_of(live, self._spec)
        now = self._clock()
        if self._read_at is None:
            self._read_at = now
        self._take()
        if self._reading is None and now - self._began_at >= self._every_s:
            self._began_at = now
            self._reading = asyncio.create_task(asyncio.to_thread(self._read, window, now))
        self._check_silence(now - self._read_at)
        return with_late(evidence, window, self._late) if self._late else evidence

    def _check_silence(self, silent_s: float) -> None:
        what = "predictions, labels or business numbers cannot be read"
        if self._failure and silent_s > LONGEST_SILENCE_S + self._every_s:
            raise ServiceError(f"{what}: {self._failure}")
        if self._reading and silent_s > _LONGEST_READING_S + self._every_s:
            raise ServiceError(f"{what}: the storage has answered nothing for {silent_s:.0f} s")

    async def close(self) -> None:
        """Wait for a reading that is under way, then close the collector."""
        if self._reading is not None:
            await asyncio.wait({self._reading})
            self._take()
        if self._collector is not None:
            await asyncio.to_thread(self._collector.close)
            self._collector = None

    def _read(self, window: ReleaseWindow, now: float) -> LateEvidence:
        if self._collector is None:
            from operators.rollout.delayed.collector import Collector

            self._collector = (self._make or Collector)(self._spec, window)
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
