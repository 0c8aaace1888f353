"""A phase of a release that is under way: what it is, who is compared, and what was known when it began. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from operators.core.frozen import Frozen
from operators.core.spec_judge import Judge
from operators.core.spec_release import CONTROL_BP
from operators.core.traffic import Counters
from operators.judge.evidence import Judgement, Kind, Period
from operators.judge.phases import Phase
from operators.judge.tally import Tally, added, weight_of


class LivePhase(Frozen):
    """One phase under way; travels as JSON in a trigger's arguments.

    :param step: name of the task
    :param canary: version on trial
    :param stable: version that it is compared with
    :param deadline_s: after this the edge cuts off a canary
    :param released_at: Unix time in seconds when the release began
    :param began_at: Unix time in seconds when the phase began, the first try of it
    :param before: the counters when this try of the phase began
    :param earlier: what this kind of phase had shown by then, in steps before and in earlier tries
    """

    phase: Phase
    model: str
    release_id: str
    step: str
    canary: str
    stable: str
    lease_s: float
    deadline_s: float = 2.0
    released_at: float
    began_at: float
    before: Counters
    earlier: tuple[Period, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_version(cls, data: Any) -> Any:
        """Read a phase that an older version has deferred: flat, with other words, its periods named by their weight alone."""
        if not isinstance(data, dict) or "phase" in data:
            return data
        kind: Kind = "watch" if data["kind"] == "control" else data["kind"]
        weights_bp: list[int] = data["weights_bp"]
        if kind != "canary":
            weights_bp = [data["shadow_bp"] if kind == "shadow" else CONTROL_BP]
        names = {weight_of(kind, weight_bp, data["pool_bp"]): weight_bp for weight_bp in weights_bp}
        return {
            **{name: data[name] for name in cls.model_fields if name in data},
            "phase": {**data, "kind": kind, "weights_bp": weights_bp, "max_wait_s": data["bake_s"]},
            "earlier": [
                {**period, "kind": kind, "weight_bp": names.get(period["weight"])} for period in data["earlier"]
            ],
        }

    def periods(self, tally: Tally) -> tuple[Period, ...]:
        """Return what this kind of phase has shown in the release, by weight."""
        phase = self.phase
        gained = tally.periods(
            phase.kind, canary=self.canary, stable=self.stable, weights_bp=phase.weights_bp, pool_bp=phase.pool_bp
        )
        return added(self.earlier, gained)

    def policy(self, whole: Judge, judgement: Judgement) -> Judge:
        """Return the part of the spec's judge that has given this judgement."""
        policies = self.phase.policies(whole)
        return policies[-1] if judgement.part == "veto" else policies[0]

    def elapsed_s(self, now: float) -> float:
        """Return how long the phase has been watched, over all its tries; rounded to milliseconds, as it is recorded.

        :param now: Unix time in seconds
        """
        return round(max(0.0, now - self.began_at), 3)
