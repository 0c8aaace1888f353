"""What a release has shown so far, and what the judge concludes from it. Types only: frozen, JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import ConfigDict, Field

from operators.core.frozen import Exact

Kind = Literal["shadow", "canary", "watch"]
"""Of a phase: the version gets copies of requests; it has a share of the callers; it is promoted, and the old version
keeps a small control group."""
Key = tuple[Kind, int | None]
"""What names a period: its kind, and the weight at the edge in basis points."""


class _Fact(Exact):
    model_config = ConfigDict(ser_json_inf_nan="strings")


class Outcome(StrEnum):
    """Argo Rollouts' words, and Continue: keep watching. Missing evidence is never Successful."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    CONTINUE = "Continue"


class Moments(_Fact):
    """Count, mean and spread of one arm's numbers: its predictions, or a business metric.

    :param m2: sum of squared distances from the mean
    """

    count: int = Field(ge=0)
    mean: float
    m2: float


class Arm(_Fact):
    """What one arm did in one period. All counts are of units, each counted once.

    Bad events are counted twice, for two questions. "On which version do failures fall?" is answered by the first bad event of
    each unit in the whole release. "Which share fails?" needs the bad units and all units of the same period.

    :param requests: units that were assigned to the arm
    :param failed: of these, units with a failure of the version's own, before the fallback; None: not known
    :param slow: of these, units with an answer over the limit; None: not known
    :param failed_first: units whose first failure in the release was here; None: the same as ``failed``
    :param slow_first: units whose first slow answer in the release was here; None: the same as ``slow``
    :param unanswered: at most this many further units were assigned to the arm; their requests are under way, or the other
        version answered in its place
    """

    requests: int = Field(0, ge=0)
    failed: int | None = Field(None, ge=0)
    slow: int | None = Field(None, ge=0)
    failed_first: int | None = Field(None, ge=0)
    slow_first: int | None = Field(None, ge=0)
    unanswered: int = Field(0, ge=0)
    prediction: Moments | None = None
    business: dict[str, Moments] = Field(default_factory=dict)

    def first(self, kind: Literal["failed", "slow"]) -> int | None:
        """Return how many units had their first bad event of a kind here; None: not known."""
        first, count = (self.failed_first, self.failed) if kind == "failed" else (self.slow_first, self.slow)
        return count if first is None else first


class Period(_Fact):
    """What both arms gained while the canary had one weight.

    :param weight_bp: the weight at the edge, in basis points; None: a record of an older version of Taxiway
    :param weight: of the units that count, the share that is the canary's; above 0 and below 1
    """

    kind: Kind = "canary"
    weight_bp: int | None = None
    weight: float = Field(gt=0, lt=1)
    stable: Arm = Arm()
    canary: Arm = Arm()

    @property
    def key(self) -> Key:
        """What names the period."""
        return self.kind, self.weight_bp


class PairCounts(_Fact):
    """Requests that both versions answered, called pairs.

    :param total: pairs whose label has arrived
    :param open: pairs with different answers whose label may still come. They count against what is to be proven, so the judge
        need not wait for a label that never comes
    :param answered: all pairs, with or without a label
    """

    total: int = Field(0, ge=0)
    stable_only_wrong: int = Field(0, ge=0)
    canary_only_wrong: int = Field(0, ge=0)
    open: int = Field(0, ge=0)
    answered: int = Field(0, ge=0)


class Pairs(PairCounts):
    """All pairs of a release.

    :param blocks: the pairs of each block of time that is over, oldest first
    """

    blocks: tuple[PairCounts, ...] = ()


class LossSums(_Fact):
    """The canary's absolute error minus stable's, summed over pairs, in the label's unit.

    :param count: pairs whose label has arrived
    :param squares: sum of the squared differences
    :param open: pairs whose label may still come, as in `PairCounts`
    :param open_total: sum of the largest possible differences of the open pairs: how far apart their answers are
    :param open_squares: sum of the squares of these
    :param answered: all pairs, with or without a label
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

    :param blocks: the pairs of each block of time that is over, oldest first
    """

    blocks: tuple[LossSums, ...] = ()


class Point(_Fact):
    """One moment of a series; None: that arm had no value."""

    t: float
    stable: float | None
    canary: float | None


class Evidence(_Fact):
    """All that the judge reads.

    :param periods: oldest first; the last one has the weight that is in force
    :param series: points of each series guard, oldest first
    """

    periods: tuple[Period, ...] = ()
    pairs: Pairs | None = None
    losses: Losses | None = None
    series: dict[str, tuple[Point, ...]] = Field(default_factory=dict)

    def of(self, kind: Kind) -> tuple[Period, ...]:
        """Return the periods if they are of this kind of phase; records of an older version name no weight, and do not count."""
        newest = self.periods[-1:]
        return self.periods if newest and newest[0].kind == kind and newest[0].weight_bp is not None else ()


class GuardResult(_Fact):
    """What one guard concludes.

    :param e: e-value against "the canary is no worse"; the chance that it ever exceeds 1/a for such a canary is at most a
    :param threshold: the e-value at which the guard fails the release: the number of guards over alpha
    :param interval: confidence interval of the canary's harm, valid at all times; None while nothing is known
    :param margin: the harm that is still accepted
    :param refuted: whether the data rule out that the canary is worse by more than the margin
    :param missing: what is lacking for that, in words; empty: nothing
    """

    e: float
    threshold: float
    interval: tuple[float, float] | None
    margin: float | None
    refuted: bool
    missing: str = ""


class Judgement(_Fact):
    """A verdict and what it rests on.

    :param part: which part of the spec's judge gave it. A step must satisfy the guards that are `required` of it; labels and
        business numbers that come too late for the step have a `veto`: they can only fail it
    """

    outcome: Outcome
    reason: str
    guards: Mapping[str, GuardResult]
    part: Literal["required", "veto"] = "required"
