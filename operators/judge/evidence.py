"""What a release has shown so far, and what the judge says of it. Types only: frozen, JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Outcome(StrEnum):
    """Argo Rollouts' words, and Continue: go on watching. Missing evidence is never Successful."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    CONTINUE = "Continue"


class Moments(_Fact):
    """Of numbers that one arm gave: predictions, or a business metric.

    :param m2: sum of squared distances from the mean
    """

    count: int = Field(ge=0)
    mean: float
    m2: float


class Arm(_Fact):
    """What one arm did in one period. Everything counts units: a unit once.

    Two counts of bad events, because two questions are asked. "Whose was it?" is exact only if a unit's first bad event in the
    whole release counts and no other. A share needs numerator and denominator of the same period.

    :param requests: units that were assigned to the arm
    :param failed: of these, units with a failure of the version's own, before the fallback; None: not known
    :param slow: of these, units with an answer over the limit; None: not known
    :param failed_first: units whose first failure in the release was here; None: the same as ``failed``
    :param slow_first: units whose first slow answer in the release was here; None: the same as ``slow``
    :param unanswered: at most so many units more were assigned to the arm: under way, or answered by the other version in
        its place
    """

    requests: int = Field(0, ge=0)
    failed: int | None = Field(None, ge=0)
    slow: int | None = Field(None, ge=0)
    failed_first: int | None = Field(None, ge=0)
    slow_first: int | None = Field(None, ge=0)
    unanswered: int = Field(0, ge=0)
    prediction: Moments | None = None
    business: dict[str, Moments] = Field(default_factory=dict)


class Period(_Fact):
    """What happened while the canary's weight was this: gains, not totals.

    :param weight: the canary's share of the units that may see one, above 0 and below 1
    """

    weight: float = Field(gt=0, lt=1)
    stable: Arm = Arm()
    canary: Arm = Arm()


class PairCounts(_Fact):
    """Requests that both versions answered.

    :param total: those whose label has arrived
    :param open: those whose label may still come, and whose answers differ: it will say that one was wrong. They count against
        whatever is to be proven, so a label that never comes holds up nothing
    :param answered: all of them, with a label or without
    """

    total: int = Field(0, ge=0)
    stable_only_wrong: int = Field(0, ge=0)
    canary_only_wrong: int = Field(0, ge=0)
    open: int = Field(0, ge=0)
    answered: int = Field(0, ge=0)


class Pairs(PairCounts):
    """All pairs of a release.

    :param blocks: of these, the blocks of time that have passed, oldest first
    """

    blocks: tuple[PairCounts, ...] = ()


class LossSums(_Fact):
    """The canary's absolute error less stable's, summed over requests that both answered, in the label's unit.

    :param count: those whose label has arrived
    :param squares: sum of the squares
    :param open: those whose label may still come, as in `PairCounts`
    :param open_total: sum of what each of these differences may be at most, up or down: how far the answers are apart
    :param open_squares: sum of the squares of that
    :param answered: all of them, with a label or without
    """

    count: int = Field(0, ge=0)
    total: float = 0.0
    squares: float = Field(0.0, ge=0)
    open: int = Field(0, ge=0)
    open_total: float = Field(0.0, ge=0)
    open_squares: float = Field(0.0, ge=0)
    answered: int = Field(0, ge=0)


class Losses(LossSums):
    """All pairs of a release.

    :param blocks: of these, the blocks of time that have passed, oldest first
    """

    blocks: tuple[LossSums, ...] = ()


class Point(_Fact):
    """One moment of a series; None: that arm had no value."""

    t: float
    stable: float | None
    canary: float | None


class Evidence(_Fact):
    """All that a judge looks at.

    :param periods: oldest first; the last one has the weight that is in force
    :param series: points of each series guard, oldest first
    """

    periods: tuple[Period, ...] = ()
    pairs: Pairs | None = None
    losses: Losses | None = None
    series: dict[str, tuple[Point, ...]] = Field(default_factory=dict)


class Reading(_Fact):
    """What one guard says.

    :param e: e-value against "the canary is no worse"; how often it is ever over 1/a by chance is at most a
    :param threshold: at which the guard fails the release: the number of guards over alpha
    :param interval: of the canary's harm, always valid; None while nothing is known
    :param margin: what the interval must stay below
    :param refuted: whether "worse by more than the margin" is refuted
    :param missing: what is lacking for that, in words; empty: nothing
    """

    e: float
    threshold: float
    interval: tuple[float, float] | None
    margin: float | None
    refuted: bool
    missing: str = ""


class Judgement(_Fact):
    """A verdict and what it rests on."""

    outcome: Outcome
    reason: str
    guards: Mapping[str, Reading]
