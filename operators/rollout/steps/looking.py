"""Look at a step under watch: counters and other evidence in, a judgement out. Looks are written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from operators.core.spec_release import Judge
from operators.rollout.client import AsyncAgent
from operators.rollout.evidence import Evidence, Judgement, Outcome
from operators.rollout.reading import Tally
from operators.rollout.steps.watched import Watched

# Looks are written down when something has changed, at first each second and later more rarely: a release that lasts a day
# leaves some hundreds of rows, not a hundred thousand.
_WRITE_AFTER_SHARE = 0.02


class Look(BaseModel):
    """One look and what it rests on. A triggerer that was restarted goes on from the last one."""

    model_config = ConfigDict(frozen=True)

    tally: Tally
    evidence: Evidence
    judgement: Judgement | None = None
    elapsed_s: float = 0.0


class Notes(Protocol):
    """Where the looks of a release are written down. Blocking: called in a thread."""

    def last_look(self) -> Look | None:
        """Return the last look of the release, of whichever step."""

    def write_look(self, step: str, look: Look) -> None:
        """Write one down."""


class Source(Protocol):
    """Evidence beside the edge's counters."""

    async def add(self, evidence: Evidence, watched: Watched) -> Evidence:
        """Return the evidence with what this source knows by now."""


class Looker:
    """Looks at one step.

    :param policy: the spec's judge
    :param agent: reads the counters and renews the lease
    :param clock: Unix time in seconds
    """

    def __init__(
        self,
        watched: Watched,
        policy: Judge,
        *,
        agent: AsyncAgent,
        notes: Notes,
        sources: Sequence[Source] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._watched = watched
        self._policy = policy
        self._agent = agent
        self._notes = notes
        self._sources = sources
        self._clock = clock
        self._last: Look | None = None
        self._written: Look | None = None
        self._renewed_at = 0.0

    async def look(self) -> Look:
        """Renew the lease when it is time, read what there is, and ask the judge.

        :raises ServiceError: the agent or the ledger did not answer
        :raises ServiceRefusedError: the lease has ended, or another release holds the route
        """
        watched = self._watched
        await self._renew()
        counters = await self._agent.counters(watched.model)
        if self._last is None:
            self._last = await asyncio.to_thread(self._notes.last_look)
        tally = self._last.tally.advance(counters) if self._last else Tally.begin(counters)
        known = self._last.evidence if self._last else Evidence()
        evidence = known.model_copy(update={"periods": watched.periods(tally)})
        for source in self._sources:
            evidence = await source.add(evidence, watched)
        now = self._clock()
        look = Look(
            tally=tally,
            evidence=evidence,
            judgement=watched.judge(self._policy, evidence, now=now),
            elapsed_s=watched.elapsed_s(now),
        )
        await self._write(look)
        self._last = look
        return look

    async def _renew(self) -> None:
        now = self._clock()
        if self._watched.kind != "shadow" and now - self._renewed_at >= self._watched.lease_s / 4:
            await self._agent.renew(self._watched.model, self._watched.release_id)
            self._renewed_at = now

    async def _write(self, look: Look) -> None:
        if self._is_news(look):
            await asyncio.to_thread(self._notes.write_look, self._watched.step, look)
            self._written = look

    def _is_news(self, look: Look) -> bool:
        before = self._written
        if before is None or _decided(look):
            return True
        waited_s = look.elapsed_s - before.elapsed_s
        return look.evidence != before.evidence and waited_s >= max(1.0, _WRITE_AFTER_SHARE * look.elapsed_s)


def _decided(look: Look) -> bool:
    return look.judgement is not None and look.judgement.outcome is not Outcome.CONTINUE
