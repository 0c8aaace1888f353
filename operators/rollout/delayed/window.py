"""What is asked of the late evidence, and what it says. Pure: frozen, JSON both ways."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from operators.core.spec_judge import Judge
from operators.judge.evidence import Arm, Evidence, Losses, Moments, Pairs


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(_Fact):
    """One period of a release: the weight that it had at the edge, and when.

    :param kind: control: after the promotion, when at the edge the new version is stable and the old one keeps this weight;
        shadow: requests that both answered
    :param share: names the period of the evidence that this is: its ``weight``
    :param weight_bp: at the edge, in 0.01 %; of no matter for a shadow
    :param begin_s: Unix time in seconds. Only for rows whose weight the edge has not told: they belong to the span of their
        time, or to none
    :param end_s: the same; None: not over
    """

    kind: Literal["canary", "control", "shadow"] = "canary"
    share: float = Field(gt=0, lt=1)
    weight_bp: int = Field(0, ge=0, le=10_000)
    begin_s: float | None = None
    end_s: float | None = None


class Facts(_Fact):
    """What a reader of the prediction log must know of a release.

    :param stable: version that was there before
    :param canary: version on trial; the shadow, too
    :param begin_s: Unix time in seconds; nothing before it is looked at
    :param end_s: nothing after it is looked at, though its labels are; None: not over
    :param spans: one for each period that the evidence may have
    """

    model: str
    stable: str
    canary: str
    begin_s: float
    end_s: float | None = None
    spans: tuple[Span, ...] = ()


class Numbers(_Fact):
    """What one arm gave in one period; as in `Arm`."""

    prediction: Moments | None = None
    business: dict[str, Moments] = Field(default_factory=dict)


class Waiting(_Fact):
    """How far the labels of one guard have come.

    :param labelled: in the evidence
    :param unlabelled: left out for good: the label did not come within its time
    :param open: the label may still come, or one before it is waited for
    """

    labelled: int = 0
    unlabelled: int = 0
    open: int = 0


class Late(_Fact):
    """The late evidence of a release.

    :param arms: stable and canary, for each span
    :param waiting: for each guard that waits for something
    """

    arms: tuple[tuple[Numbers, Numbers], ...] = ()
    pairs: Pairs | None = None
    losses: Losses | None = None
    waiting: dict[str, Waiting] = Field(default_factory=dict)


def with_late(evidence: Evidence, facts: Facts, late: Late) -> Evidence:
    """Return the evidence with the late part in its place.

    :param facts: what the late part was collected for; a period that is not in it stays as it is
    """
    arms = {span.share: both for span, both in zip(facts.spans, late.arms, strict=True)}
    periods = tuple(
        period.model_copy(
            update={
                "stable": _with_numbers(period.stable, arms[period.weight][0]),
                "canary": _with_numbers(period.canary, arms[period.weight][1]),
            }
        )
        if period.weight in arms
        else period
        for period in evidence.periods
    )
    return evidence.model_copy(update={"periods": periods, "pairs": late.pairs, "losses": late.losses})


def _with_numbers(arm: Arm, numbers: Numbers) -> Arm:
    return arm.model_copy(update={"prediction": numbers.prediction, "business": numbers.business})


def needs_late(judge: Judge) -> bool:
    """Say whether a guard rests on the prediction log."""
    return bool(judge.prediction or judge.labels or judge.loss or judge.business)


def longest_wait_s(judge: Judge) -> float:
    """Return how long after the last answer a label or a business number may still come."""
    waits = [guard.within_s for guard in (judge.labels, judge.loss, *judge.business.values()) if guard]
    return max(waits, default=0.0)
