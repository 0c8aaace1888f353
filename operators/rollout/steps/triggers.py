"""Watching a phase without a worker slot, until the judge has a verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from airflow.triggers.base import TriggerEvent

from operators.core.errors import ServiceError, ServiceRefusedError, TaxiwayError
from operators.core.rows import VerdictRow
from operators.core.settings import LONGEST_SILENCE_S
from operators.core.spec import ModelSpec
from operators.core.spec_judge import Judge
from operators.judge.digest import judge_digest
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.release_moves import ReleaseMoves
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Look, Looker
from operators.rollout.steps.sources import sources_for
from operators.traffic.client import AsyncAgent
from operators.triggers import KeptTrigger

LOOK_EVERY_S = 0.25
# A task that is resumed before the scheduler has heard of its deferral is taken for one that was killed, and tried again.
SETTLE_S = 5.0


def write_verdict(moves: ReleaseMoves, judge: Judge, live: LivePhase, look: Look) -> None:
    """Write a verdict with all that the judge was given: `verify` judges again from this row alone.

    :param judge: the spec's
    :raises RejectedError: the release no longer holds the model
    """
    row = VerdictRow(
        step=live.step,
        policy=live.policy(judge, look.judgement).model_dump(mode="json", by_alias=True),
        evidence=look.evidence.model_dump(mode="json"),
        elapsed_s=look.elapsed_s,
        bake_s=live.phase.bake_s,
        min_requests=live.phase.min_requests,
        harm_weight=live.phase.harm_weight,
        judgement=look.judgement.model_dump(mode="json"),
        judge=judge_digest(),
        blind=look.blind,
    )
    moves.record_verdict(live.release_id, row)


class LookLoop:
    """One look after another, with patience for an agent that is away for a moment.

    A version that has failed loses its traffic here and now: the tasks that do the rest need seconds to start.

    :param spec: JSON of the model's spec
    :param live: JSON of the `LivePhase`
    """

    def __init__(self, spec: str, live: dict[str, Any], log: Any) -> None:
        self.live = LivePhase.model_validate(live)
        model = ModelSpec.from_json(spec)
        self._judge = model.release.judge
        self._agent = AsyncAgent()
        self._looker = Looker(
            self.live,
            self._judge,
            agent=self._agent,
            write=self._write,
            sources=sources_for(model),
        )
        self._release_moves: ReleaseMoves | None = None
        self._log = log
        self._last: Look | None = None
        self._answered_at = time.monotonic()

    async def look(self) -> Look | None:
        """Return a look; None while a service does not answer."""
        try:
            self._last = await self._looker.look()
            self._answered_at = time.monotonic()
        except ServiceRefusedError as error:
            return self._blind(f"the canary lost its traffic: {error}")
        except ServiceError as error:
            self._log.warning("%s", error)
            if time.monotonic() - self._answered_at > LONGEST_SILENCE_S:
                return self._blind(f"no evidence could be read for {LONGEST_SILENCE_S:.0f} s: {error}")
            return None
        if self._last.outcome is Outcome.FAILED:
            await asyncio.to_thread(self._take_out, self._last)
        return self._last

    def _moves(self) -> ReleaseMoves:
        """Return the moves of the release; call it in a thread: it imports SQLAlchemy."""
        if self._release_moves is None:
            self._release_moves = ReleaseMoves(ModelTraffic(self.live.model))
        return self._release_moves

    def _write(self, evidence: Evidence) -> None:
        self._moves().record_look(self.live.release_id, self.live.step, evidence)

    def _take_out(self, look: Look) -> None:
        live = self.live
        try:
            write_verdict(self._moves(), self._judge, live, look)
            self._moves().take_out(live.release_id, live.canary, live.stable)
        except TaxiwayError as error:
            self._log.warning("the version keeps its traffic until the task `roll_back` runs: %s", error)

    def _blind(self, reason: str) -> Look:
        """Return a look that is Inconclusive: without evidence there is no success."""
        known = self._last
        return Look(
            evidence=known.evidence if known else Evidence(periods=self.live.earlier),
            judgement=Judgement(
                outcome=Outcome.INCONCLUSIVE, reason=reason, guards=known.judgement.guards if known else {}
            ),
            elapsed_s=self.live.elapsed_s(time.time()),
            blind=True,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._looker.close()
        await self._agent.close()
        if self._release_moves is not None:
            await asyncio.to_thread(self._release_moves.traffic.close)


@dataclass(kw_only=True, eq=False, repr=False)
class JudgeTrigger(KeptTrigger):
    """Watch a phase and fire its verdict.

    :param spec: JSON of the model's spec
    :param watched: JSON of the `LivePhase`
    :param until: Unix time in seconds when the phase ends, whatever the judge says; None: when there is a verdict
    """

    spec: str
    watched: dict[str, Any]
    until: float | None = None

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look again and again."""
        loop = LookLoop(self.spec, self.watched, self.log)
        settled_at = time.monotonic() + SETTLE_S
        try:
            while True:
                look = await loop.look()
                if look is not None and self._ends(look):
                    await asyncio.sleep(max(0.0, settled_at - time.monotonic()))
                    yield TriggerEvent(look.event())
                    return
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await loop.close()

    def _ends(self, look: Look) -> bool:
        if self.until is None:
            return look.outcome is not Outcome.CONTINUE
        # After a promotion only a proof of harm ends the watch early; a control group that is too small does not.
        return look.outcome is Outcome.FAILED or look.blind or time.time() >= self.until
