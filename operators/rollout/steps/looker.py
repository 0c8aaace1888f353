"""Look at a phase under way: counters and other evidence in, a judgement out. Looks are written down."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pydantic import ConfigDict

from operators.core.frozen import Frozen
from operators.core.spec_judge import Judge
from operators.core.traffic import Counters
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.judge.tally import Tally, overdue, with_overdue
from operators.rollout.steps.live_phase import LivePhase
from operators.traffic.client import AsyncAgent

# Looks are written down when something has changed, at first each second and later more rarely: a release that lasts a day
# leaves some hundreds of rows, not a hundred thousand.
_WRITE_AFTER_SHARE = 0.02


class Look(Frozen):
    """One look: the evidence, and what the judge concludes from it.

    :param blind: the judge was not asked, because nothing could be read
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    evidence: Evidence
    judgement: Judgement
    elapsed_s: float
    blind: bool = False

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        return self.judgement.outcome

    def event(self) -> dict[str, Any]:
        """Return the look as the payload of a trigger's event.

        As text: Airflow's database keeps the numbers of an event as decimals. An e-value of 1e30 would come back as a whole
        number with 31 digits, which cannot be sent to a task.
        """
        return {"look": self.model_dump_json()}

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> Look:
        """Return the look of an event; one of an older version has `blind` beside the look."""
        look = cls.model_validate_json(event["look"])
        return look.model_copy(update={"blind": True}) if event.get("blind") else look


Write = Callable[[Evidence], object]
"""Writes a look down. Blocking: called in a thread."""


class Source(Protocol):
    """Evidence beside the edge's counters."""

    async def add(self, evidence: Evidence, live: LivePhase) -> Evidence:
        """Return the evidence with what this source knows by now."""

    async def close(self) -> None:
        """Close what is open."""


class Looker:
    """Looks at one phase.

    :param policy: the spec's judge
    :param agent: reads the counters and renews the lease
    :param write: writes looks down
    :param clock: Unix time in seconds
    """

    def __init__(
        self,
        live: LivePhase,
        policy: Judge,
        *,
        agent: AsyncAgent,
        write: Write,
        sources: Sequence[Source] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._policies = live.phase.policies(policy)
        self._agent = agent
        self._write_down = write
        self._sources = sources
        self._clock = clock
        self._tally = Tally.begin(live.before)
        self._known = Evidence()
        self._written: Look | None = None
        self._renewed_at = -math.inf
        self._recent: deque[tuple[float, Counters]] = deque()

    async def look(self) -> Look:
        """Renew the lease when it is time, read all evidence, and ask the judge.

        :raises ServiceError: the agent or the ledger did not answer
        :raises ServiceRefusedError: the lease has ended, or another release holds the route
        """
        live = self._live
        await self._renew()
        # Kept only once everything has been read: a look that breaks off is repeated, and nothing is lost or counted twice.
        counters = await self._agent.counters(live.model)
        tally = self._tally.advance(counters)
        periods = with_overdue(live.periods(tally), self._overdue(counters))
        evidence = self._known.model_copy(update={"periods": periods})
        for source in self._sources:
            evidence = await source.add(evidence, live)
        self._tally, self._known = tally, evidence
        elapsed_s = live.elapsed_s(self._clock())
        judgement = live.phase.judge(self._policies, evidence, elapsed_s=elapsed_s)
        look = Look(evidence=evidence, judgement=judgement, elapsed_s=elapsed_s)
        if self._is_news(look):
            await asyncio.to_thread(self._write_down, look.evidence)
            self._written = look
        return look

    async def close(self) -> None:
        """Close the sources."""
        for source in self._sources:
            await source.close()

    def _overdue(self, counters: Counters) -> int:
        """Return how many requests to stable are late and not counted yet."""
        now, live = self._clock(), self._live
        self._recent.append((now, counters))
        old_enough = now - live.deadline_s
        while len(self._recent) > 1 and self._recent[1][0] <= old_enough:
            self._recent.popleft()
        at, past = self._recent[0]
        # After a promotion the edge cuts off the old version, which is the judge's stable.
        if live.phase.kind == "watch" or at > old_enough:
            return 0
        return overdue(past, counters, live.stable)

    async def _renew(self) -> None:
        now = self._clock()
        if now - self._renewed_at >= self._live.lease_s / 4:
            await self._agent.renew(self._live.model, self._live.release_id)
            self._renewed_at = now

    def _is_news(self, look: Look) -> bool:
        before = self._written
        if before is None or look.outcome is not before.outcome:
            return True
        waited_s = look.elapsed_s - before.elapsed_s
        return look.evidence != before.evidence and waited_s >= max(1.0, _WRITE_AFTER_SHARE * look.elapsed_s)
