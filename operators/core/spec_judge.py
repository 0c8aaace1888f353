"""The part of a spec that says when a version passes or fails: `release.judge`. Frozen, strict, free of Airflow and Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from operators.core.durations import DurationS, parse_duration_s
from operators.core.frozen import Written

GuardName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
_BUILT_IN = ("failures", "slow", "labels", "loss", "prediction")
BlockS = Annotated[
    float | None,
    BeforeValidator(lambda value: None if value is None or value == "none" else parse_duration_s(value)),
    PlainSerializer(lambda seconds: "none" if seconds is None else f"{seconds!r}s"),
]
_BLOCK = (
    "Length of a block. Labels of answers from one block are counted as one observation, because outside causes (a holiday, a "
    "storm) hit them together. The judge needs five to ten blocks to prove a small loss or to pass the version. `none` counts "
    "each pair by itself; it is right only where no day favours one version."
)
_WITHIN = "A label that arrives later than this after the answer is not counted."
_MIN_PAIRS = "Labelled pairs that the judge needs before the version passes. A pair is one request with both answers."


class Failures(Written):
    """Guard on failures: status 5xx, broken connections and time-outs, counted before the fallback hides them."""

    margin_pct: float = Field(
        1.0, gt=0, le=100, description="Percentage points by which the share of failed units may exceed stable's."
    )


class Slow(Written):
    """Guard on slow answers: those over a fixed limit, or over a limit that follows from stable's own answer times."""

    margin_pct: float = Field(
        5.0, gt=0, le=100, description="Percentage points by which the share of slow units may exceed stable's."
    )
    limit_s: Annotated[DurationS, Field(ge=0.005)] | None = Field(
        None,
        alias="limit",
        description="An answer that takes longer is slow; 5 ms or more. If you leave it out, the limit follows from "
        "`quantile`, `ratio` and `increase`.",
    )
    quantile: float = Field(
        0.95, ge=0.5, lt=1, description="Quantile of stable's answer times, read when the release begins."
    )
    ratio: float = Field(1.5, gt=1, description="The limit is at least the quantile times this number.")
    # Below 5 ms it is the machine's hiccups that decide, not the version.
    increase_s: DurationS = Field(
        0.02,
        alias="increase",
        ge=0.005,
        description="The limit is at least the quantile plus this time; 5 ms or more. It matters where stable is very fast.",
    )


class LabelsGuard(Written):
    """Guard on right and wrong, for requests that the shadow and stable both answered, once the label arrives."""

    margin_pct: float = Field(1.0, gt=0, le=100, description="Percentage points of accuracy that may be lost.")
    min_pairs: int = Field(200, ge=1, description=_MIN_PAIRS)
    within_s: DurationS = Field(alias="within", description=_WITHIN)
    threshold: float = Field(0.5, description="A prediction at or above this value counts as yes.")
    block_s: BlockS = Field(86400.0, alias="block", description=_BLOCK)
    block_margin_pct: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Percentage points of accuracy that no block may lose. More than this fails the version without waiting "
        "for more blocks. If you leave it out, it is three times `margin_pct`.",
    )

    @property
    def most_in_a_block(self) -> float:
        """The share that no block may lose."""
        return (3 * self.margin_pct if self.block_margin_pct is None else self.block_margin_pct) / 100


class Loss(Written):
    """Guard on the absolute error |prediction - label|, for requests that the shadow and stable both answered."""

    margin: float = Field(gt=0, description="How much the mean error may grow, in the unit of the label.")
    largest: float = Field(
        gt=0,
        description="A larger error counts as this one, in the unit of the label. It bounds what one outlier can do.",
    )
    min_pairs: int = Field(200, ge=1, description=_MIN_PAIRS)
    within_s: DurationS = Field(alias="within", description=_WITHIN)
    block_s: BlockS = Field(86400.0, alias="block", description=_BLOCK)
    block_margin: float | None = Field(
        None,
        gt=0,
        description="How much the mean error of no block may grow, in the unit of the label. More than this fails the version "
        "without waiting for more blocks. If you leave it out, it is three times `margin`.",
    )

    @property
    def most_in_a_block(self) -> float:
        """The mean error that no block may gain."""
        return 3 * self.margin if self.block_margin is None else self.block_margin


class Prediction(Written):
    """Guard on the mean prediction: the means of the two versions must not differ by more than the margin."""

    margin: float = Field(gt=0, description="Largest difference of the two means, in the unit of the prediction.")


class Business(Written):
    """Guard on a business number that arrives later for each request id: revenue, or 1 for accepted and 0 for not.

    Callers are assigned by chance, so a day that is good or bad for everybody cannot mislead the judge. A version that is better
    on some days and worse on others is judged on the days on which it was in service.
    """

    better: Literal["higher", "lower"] = Field(description="Which way the number is better.")
    margin: float = Field(gt=0, description="How much worse the mean may be, in the unit of the number.")
    lowest: float = Field(description="Smallest possible value. A value below it counts as this one.")
    highest: float = Field(description="Largest possible value. A value above it counts as this one.")
    within_s: DurationS = Field(
        alias="within",
        description="A value that arrives later than this after the answer is not counted. Values count in the order of their "
        "requests, so a missing value delays the later ones by up to this time.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Business:
        if self.highest <= self.lowest:
            raise ValueError("highest must be greater than lowest")
        return self


class Series(Written):
    """Guard on a number that exists only as a time series for each version, read from Prometheus."""

    better: Literal["higher", "lower", "equal"] = Field(
        "lower", description="Which way the number is better. `equal`: a change in either direction is bad."
    )
    query: str = Field(
        min_length=1,
        description="PromQL that returns one value. `{version}` in it is replaced by the number of each version.",
    )
    every_s: DurationS = Field(60.0, alias="every", description="Time between two readings.")
    margin_pct: float = Field(
        10.0, gt=0, description="How much worse the canary's value may be, in percent of the median of stable's values."
    )


class Judge(Written):
    """The rules by which a version passes or fails."""

    alpha: float = Field(
        0.01,
        gt=0,
        le=0.5,
        description="Largest chance that the judge fails a version that is no worse than stable, for the whole release and all "
        "its guards together.",
    )
    confidence: float = Field(
        0.95,
        ge=0.5,
        lt=1,
        description="How sure each guard must be that the version is not worse by more than its margin before the version "
        "passes.",
    )
    min_requests: int = Field(
        100, ge=1, description="Units that each version must have had in a step before the canary passes it."
    )
    max_wait_s: DurationS = Field(
        1800.0,
        alias="max_wait",
        description="A step that has not passed or failed by then is Inconclusive, and `approval` says what happens.",
    )
    failures: Failures | None = Field(Failures(), description="Guard on failures. `null` turns it off.")
    slow: Slow | None = Field(Slow(), description="Guard on slow answers. `null` turns it off.")
    labels: LabelsGuard | None = Field(
        None, description="Guard on right and wrong answers, once labels arrive. It needs `shadow`."
    )
    loss: Loss | None = Field(
        None, description="Guard on the absolute error of the answers, once labels arrive. It needs `shadow`."
    )
    prediction: Prediction | None = Field(None, description="Guard on the mean prediction of the two versions.")
    business: dict[GuardName, Business] = Field(
        default_factory=dict,
        description="Guards on business numbers that arrive later for each request. The key is the name of the guard.",
    )
    series: dict[GuardName, Series] = Field(
        default_factory=dict, description="Guards on Prometheus queries. The key is the name of the guard."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Judge:
        names = [*_BUILT_IN, "split", *self.business, *self.series]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"a guard's name is used twice or belongs to Taxiway: {', '.join(twice)}")
        if not self.guards:
            raise ValueError("a judge without guards would find every version good; give it at least `failures`")
        return self

    def parts(self, *, late: bool) -> tuple[Judge, ...]:
        """Return what a step is held to, and then what can only fail it.

        A step that cannot wait for labels and business numbers is not held to them, but those that have come by then may
        still say that the version is worse. All parts together spend what the whole spends: alpha is split as before.

        :param late: whether the step waits for them
        """
        if late or not (self.labels or self.loss or self.business):
            return (self,)
        at_once = self._part({"labels": None, "loss": None, "business": {}})
        return at_once, self._part({"failures": None, "slow": None, "prediction": None, "series": {}})

    def _part(self, without: dict[str, object]) -> Judge:
        part = self.model_copy(update=without)
        return part.model_copy(update={"alpha": self.alpha * len(part.guards) / len(self.guards)})

    @property
    def guards(self) -> tuple[str, ...]:
        """Names of the guards that share alpha."""
        built_in = [name for name in _BUILT_IN if getattr(self, name) is not None]
        return (*built_in, *self.business, *self.series)
