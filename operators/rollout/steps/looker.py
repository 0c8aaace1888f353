"""Look at a step under watch: counters and other evidence in, a judgement out. Looks are written down."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from operators.core.spec_judge import Judge
from operators.core.traffic import Counters
from operators.judge.evidence import Evidence, Judgement
from operators.judge.phases import Watched
from operators.judge.tally import Tally, overdue, with_overdue
from operators.traffic.client import AsyncAgent

# Looks are written down when something has changed, at first each second and later more rarely: a release that lasts a day
# leaves some hundreds of rows, not a hundred thousand.
_WRITE_AFTER_SHARE = 0.02


class Look(BaseModel):
    """One look: what was seen, and what the judge says of it."""

    model_config = ConfigDict(frozen=True)

    evidence: Evidence
    judgement: Judgement
    elapsed_s: float


Write = Callable[[Evidence], object]
"""Writes a look down. Blocking: called in a thread."""


class Source(Protocol):
    """Evidence beside the edge's counters."""

    async def add(self, evidence: Evidence, watched: Watched) -> Evidence:
        """Return the evidence with what this source knows by now."""

    async def close(self) -> None:
        """Close what is open."""


class Looker:
    """Looks at one step.

    :param policy: the spec's judge
    :param agent: reads the counters and renews the lease
    :param write: writes looks down
    :param clock: Unix time in seconds
    """

    def __init__(
        self,
        watched: Watched,
        policy: Judge,
        *,
        agent: AsyncAgent,
        write: Write,
        sources: Sequence[Source] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._watched = watched
        self._policy = policy
        self._agent = agent
        self._write_down = write
        self._sources = sources
        self._clock = clock
        self._tally = Tally.begin(watched.before)
        self._known = Evidence()
        self._written: Look | None = None
        self._renewed_at = -math.inf
        self._recent: deque[tuple[float, Counters]] = deque()

    async def look(self) -> Look:
        """Renew the lease when it is time, read what there is, and ask the judge.

        :raises ServiceError: the agent or the ledger did not answer
        :raises ServiceRefusedError: the lease has ended, or another release holds the route
        """
        watched = self._watched
        await self._renew()
        # Kept only once all has been read: a look that breaks off is made again, and nothing is lost or counted twice.
        counters = await self._agent.counters(watched.model)
        tally = self._tally.advance(counters)
        periods = with_overdue(watched.periods(tally), self._overdue(counters))
        evidence = self._known.model_copy(update={"periods": periods})
        for source in self._sources:
            evidence = await source.add(evidence, watched)
        self._tally, self._known = tally, evidence
        now = self._clock()
        look = Look(
            evidence=evidence,
            judgement=watched.judge(self._policy, evidence, now=now),
            elapsed_s=watched.elapsed_s(now),
        )
        if self._is_news(look):
            await asyncio.to_thread(self._write_down, look.evidence)
            self._written = look
        return look

    async def close(self) -> None:
        """Close the sources."""
        for source in self._sources:
            await source.close()

    def _overdue(self, counters: Counters) -> int:
        """Return how many requests of stable's are late and not counted yet."""
        now, watched = self._clock(), self._watched
        self._recent.append((now, counters))
        old_enough = now - watched.deadline_s
        while len(self._recent) > 1 and self._recent[1][0] <= old_enough:
            self._recent.popleft()
        at, past = self._recent[0]
        # After a promotion the edge cuts off the old version, which is the judge's stable.
        if watched.kind == "control" or at > old_enough:
            return 0
        return overdue(past, counters, watched.stable)

    async def _renew(self) -> None:
        now = self._clock()
        if now - self._renewed_at >= self._watched.lease_s / 4:
            await self._agent.renew(self._watched.model, self._watched.release_id)
            self._renewed_at = now

    def _is_news(self, look: Look) -> bool:
        before = self._written
        if before is None or look.judgement.outcome is not before.judgement.outcome:
            return True
        waited_s = look.elapsed_s - before.elapsed_s
        return look.evidence != before.evidence and waited_s >= max(1.0, _WRITE_AFTER_SHARE * look.elapsed_s)
