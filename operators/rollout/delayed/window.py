"""What a reader of late evidence must know, and what it returns. Pure: frozen, JSON both ways."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from operators.core.spec_judge import Judge
from operators.judge.evidence import Arm, Evidence, Key, Kind, Losses, Moments, Pairs


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(_Fact):
    """One period of a release.

    :param kind: watch: after the promotion, when at the edge the new version is stable and the old one keeps this weight;
        shadow: requests that both answered, at any weight
    :param weight_bp: at the edge, in basis points
    """

    kind: Kind = "canary"
    weight_bp: int = Field(ge=0, le=10_000)

    @property
    def key(self) -> Key:
        """Names the period of the evidence that this is."""
        return self.kind, self.weight_bp


class Facts(_Fact):
    """What a reader of the prediction log must know of a release.

    :param stable: version that was there before
    :param canary: version on trial, also while it is a shadow
    :param begin_s: Unix time in seconds; answers before it do not count
    :param spans: one for each period that the evidence may have
    """

    model: str
    stable: str
    canary: str
    begin_s: float
    spans: tuple[Span, ...] = ()


class Numbers(_Fact):
    """The numbers of one arm in one period; as in `Arm`."""

    prediction: Moments | None = None
    business: dict[str, Moments] = Field(default_factory=dict)


class Late(_Fact):
    """The late evidence of a release.

    :param arms: stable and canary, for each span
    """

    arms: tuple[tuple[Numbers, Numbers], ...] = ()
    pairs: Pairs | None = None
    losses: Losses | None = None


def with_late(evidence: Evidence, facts: Facts, late: Late) -> Evidence:
    """Return the evidence with the late part in its place.

    :param facts: what the late part was collected for; a period without a span stays as it is
    """
    arms = {span.key: both for span, both in zip(facts.spans, late.arms, strict=True)}
    periods = tuple(
        period.model_copy(
            update={
                "stable": _with_numbers(period.stable, arms[period.key][0]),
                "canary": _with_numbers(period.canary, arms[period.key][1]),
            }
        )
        if period.key in arms
        else period
        for period in evidence.periods
    )
    return evidence.model_copy(update={"periods": periods, "pairs": late.pairs, "losses": late.losses})


def _with_numbers(arm: Arm, numbers: Numbers) -> Arm:
    return arm.model_copy(update={"prediction": numbers.prediction, "business": numbers.business})


def needs_late(judge: Judge) -> bool:
    """Return whether a guard needs the prediction log."""
    return bool(judge.prediction or judge.labels or judge.loss or judge.business)


def longest_wait_s(judge: Judge) -> float:
    """Return how long after the last answer a label or a business number may still come."""
    waits = [guard.within_s for guard in (judge.labels, judge.loss, *judge.business.values()) if guard]
    return max(waits, default=0.0)
