"""Which part of the prediction log belongs to a release, and the late evidence that comes of it. Pure: frozen, JSON both ways."""

from __future__ import annotations

from pydantic import Field

from operators.core.frozen import Exact
from operators.core.spec_judge import Judge
from operators.judge.evidence import Evidence, Key, Kind, Losses, Moments, Pairs, Period


class Span(Exact):
    """One period of a release, as the prediction log shows it.

    :param kind: ``watch``: after the promotion, when the new version is stable at the edge and the old one is the control.
        ``shadow``: requests that stable and the shadow both answered, at any weight
    :param weight_bp: the canary's weight at the edge
    """

    kind: Kind = "canary"
    weight_bp: int = Field(ge=0, le=10_000)

    @property
    def key(self) -> Key:
        """Name the period of the evidence that these answers belong to."""
        return self.kind, self.weight_bp


class ReleaseWindow(Exact):
    """The answers in the prediction log that belong to one release.

    :param stable: the version that answered before the release
    :param canary: the version on trial, also while it is a shadow
    :param begin_s: Unix time in seconds. Answers before it do not count
    :param spans: one for each period that the evidence may have
    """

    model: str
    stable: str
    canary: str
    begin_s: float
    spans: tuple[Span, ...] = ()


class ArmNumbers(Exact):
    """The late numbers of one arm in one period. `Arm` has the same fields."""

    prediction: Moments | None = None
    business: dict[str, Moments] = Field(default_factory=dict)


class LateEvidence(Exact):
    """The evidence of a release that comes after the answers.

    :param arms: for each span, the numbers of stable and of the canary
    """

    arms: tuple[tuple[ArmNumbers, ArmNumbers], ...] = ()
    pairs: Pairs | None = None
    losses: Losses | None = None


def with_late(evidence: Evidence, window: ReleaseWindow, late: LateEvidence) -> Evidence:
    """Return the evidence with the late evidence added.

    :param window: the window that the late evidence was collected for. A period without a span stays as it is
    """
    arms = {span.key: both for span, both in zip(window.spans, late.arms, strict=True)}

    def completed(period: Period) -> Period:
        if period.key not in arms:
            return period
        stable, canary = (
            arm.model_copy(update=dict(numbers))
            for arm, numbers in zip((period.stable, period.canary), arms[period.key], strict=True)
        )
        return period.model_copy(update={"stable": stable, "canary": canary})

    periods = tuple(map(completed, evidence.periods))
    return evidence.model_copy(update={"periods": periods, "pairs": late.pairs, "losses": late.losses})


def needs_late(judge: Judge) -> bool:
    """Say whether a guard needs the prediction log."""
    return bool(judge.prediction or judge.labels or judge.loss or judge.business)


def longest_wait_s(judge: Judge) -> float:
    """Return how long after the last answer a label or a business number may still come."""
    waits = [guard.within_s for guard in (judge.labels, judge.loss, *judge.business.values()) if guard]
    return max(waits, default=0.0)
