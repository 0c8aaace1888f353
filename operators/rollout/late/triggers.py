"""Waiting for labels and business numbers, for hours or days, without a worker slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.core.errors import ServiceError
from operators.core.spec import ModelSpec
from operators.rollout.evidence import Evidence, Judgement, Outcome, Period
from operators.rollout.judge import judge
from operators.rollout.late.facts import Facts, Late, longest_wait_s, only_late, with_late

if TYPE_CHECKING:
    from operators.rollout.late.collect import Collector


class LabelsTrigger(BaseTrigger):
    """Fire when labels or business numbers prove harm, or when no more of them can come.

    The event has ``late``, ``judgement`` and ``complete``: whether everything was waited for. A triggerer that starts again
    reads the log again, and goes on.

    :param spec: JSON of the model's spec
    :param facts: JSON of the release's `Facts`, with ``end_s``: answers given after it are not waited for
    :param every_s: how long from one look to the next
    """

    def __init__(self, *, spec: str, facts: dict[str, Any], every_s: float = 60.0) -> None:
        super().__init__()
        self.spec = spec
        self.facts = facts
        self.every_s = every_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that make this trigger again."""
        kind = type(self)
        kept = {"spec": self.spec, "facts": self.facts, "every_s": self.every_s}
        return f"{kind.__module__}.{kind.__qualname__}", kept

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, and sleep. What cannot be read now may be readable at the next look."""
        from operators.rollout.late.collect import Collector

        spec, facts = ModelSpec.from_json(self.spec), Facts.model_validate(self.facts)
        if facts.end_s is None:
            raise ValueError("`facts` needs end_s: without it, the wait for labels has no end")
        collector = await asyncio.to_thread(Collector, spec, facts)
        try:
            while True:
                now = time.time()
                complete = now > facts.end_s + longest_wait_s(spec.release.judge) + collector.writing_s
                try:
                    late, judgement = await asyncio.to_thread(_look, collector, spec, facts, now)
                except ServiceError as error:
                    self.log.warning("%s", error)
                else:
                    if complete or judgement.outcome is Outcome.FAILED:
                        yield TriggerEvent(_event(late, judgement, complete=complete))
                        return
                await asyncio.sleep(self.every_s)
        finally:
            await asyncio.to_thread(collector.close)


def _look(collector: Collector, spec: ModelSpec, facts: Facts, now: float) -> tuple[Late, Judgement]:
    late = collector.look(now)
    evidence = with_late(Evidence(periods=tuple(Period(weight=span.share) for span in facts.spans)), facts, late)
    elapsed_s = round(max(0.0, now - facts.begin_s), 3)
    return late, judge(only_late(spec.release.judge), evidence, elapsed_s=elapsed_s)


def _event(late: Late, judgement: Judgement, *, complete: bool) -> dict[str, Any]:
    return {
        "late": late.model_dump(mode="json", exclude={"loss_differences"}),
        "judgement": judgement.model_dump(mode="json"),
        "complete": complete,
    }
