"""The part of a model's spec that says how a version gets the traffic: `release:`. Frozen, strict, free of Airflow and Ray."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from operators.core.durations import DurationS, parse_duration_s

GuardName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
Percent = Annotated[float, Field(ge=0, le=100)]
_BUILT_IN = ("failures", "slow", "labels", "loss", "prediction")
Moment = Literal["start", "step", "pause", "rolled_back", "promoted"]
Fault = Literal["bad_canary", "dead_controller", "dead_agent", "dead_replica"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
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


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Step(_Part):
    """One step of a canary."""

    weight_pct: float = Field(
        ge=0.01,
        le=99,
        description="Share of the units that the canary answers. The promotion, not a step, makes it 100.",
    )
    bake_s: DurationS = Field(alias="bake", description="Least time that the step lasts, e.g. `10m`.")
    min_requests: int | None = Field(
        None,
        ge=1,
        description="Units that each version must have had in this step before the canary passes. If you leave it out, "
        "`judge.min_requests` applies.",
    )

    @property
    def weight_bp(self) -> int:
        """The weight in basis points, 0.01 %, which is what the edge splits by."""
        return round(self.weight_pct * 100)


class Shadow(_Part):
    """Before the first step: live requests are copied to the new version, and no caller sees its answers."""

    sample_pct: float = Field(ge=0.01, le=100, description="Share of the units whose requests are copied.")
    bake_s: DurationS = Field(alias="bake", description="Least time that the shadow lasts, e.g. `1h`.")
    min_requests: int = Field(
        100, ge=1, description="Units that each version must have answered before the shadow passes."
    )
    max_in_flight: int = Field(
        16, ge=1, le=1024, description="Copies that may be under way at one time. A request above this is not copied."
    )
    await_labels: bool = Field(
        False,
        description="With `true` the shadow lasts until `judge.labels` or `judge.loss` has passed the version, or "
        "`judge.max_wait` is over. No caller meets the version before.",
    )


class Failures(_Part):
    """Guard on failures: status 5xx, broken connections and time-outs, counted before the fallback hides them."""

    margin_pct: float = Field(
        1.0, gt=0, le=100, description="Percentage points by which the share of failed units may exceed stable's."
    )


class Slow(_Part):
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


class Labels(_Part):
    """Guard on right and wrong, for requests that the shadow and stable both answered, once the label arrives."""

    margin_pct: float = Field(1.0, gt=0, le=100, description="Percentage points of accuracy that may be lost.")
    min_pairs: int = Field(
        200,
        ge=1,
        description="Labelled pairs that the judge needs before the version passes. A pair is one request with both answers.",
    )
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


class Loss(_Part):
    """Guard on the absolute error |prediction - label|, for requests that the shadow and stable both answered."""

    margin: float = Field(gt=0, description="How much the mean error may grow, in the unit of the label.")
    largest: float = Field(
        gt=0,
        description="A larger error counts as this one, in the unit of the label. It bounds what one outlier can do.",
    )
    min_pairs: int = Field(
        200,
        ge=1,
        description="Labelled pairs that the judge needs before the version passes. A pair is one request with both answers.",
    )
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


class Prediction(_Part):
    """Guard on the mean prediction: the means of the two versions must not differ by more than the margin."""

    margin: float = Field(gt=0, description="Largest difference of the two means, in the unit of the prediction.")


class Business(_Part):
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


class Series(_Part):
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


class Judge(_Part):
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
    labels: Labels | None = Field(
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


class Unit(_Part):
    """What a caller is assigned by: a header or a field of the body. Give one of the two."""

    header: str | None = Field(
        None,
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        description="Name of the request header with the caller's id, e.g. `X-Customer-Id`.",
    )
    field: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*){0,5}$",
        description="Path of the field with the caller's id in the JSON body, e.g. `parameters.customer`.",
    )

    @model_validator(mode="after")
    def _one(self) -> Unit:
        if (self.header is None) == (self.field is None):
            raise ValueError("give either `header` or `field`")
        return self


class Approval(_Part):
    """Who says yes before a version is promoted."""

    mode: Literal["automatic", "manual", "ask"] = Field(
        "automatic",
        description="`automatic`: the judge alone decides, and Inconclusive is rolled back. `manual`: a person says yes before "
        "the promotion. `ask`: a person decides when the judge is Inconclusive.",
    )
    respond_within_s: DurationS = Field(
        86400.0, alias="respond_within", description="Time that a person has for the answer."
    )
    otherwise: Literal["roll_back", "go_on"] = Field(
        "roll_back", description="What happens if nobody has answered in time."
    )
    approvers: tuple[str, ...] = Field(
        ("owner",),
        strict=False,
        min_length=1,
        description="Airflow users who may answer. `owner` stands for the spec's owner, `anyone` for every user who may act on "
        "the DAG.",
    )


class Freeze(_Part):
    """A recurring time in which no release begins and none takes its next step. A rollback is always allowed."""

    start: str = Field(
        pattern=r"^\S+( \S+){4}$",
        description="When the freeze begins: a cron expression of five fields, e.g. `0 16 * * 5` for Fridays at 16:00.",
    )
    lasts_s: DurationS = Field(alias="lasts", description="How long the freeze lasts, e.g. `64h`.")
    timezone: str = Field("UTC", description="Time zone of `start`, e.g. `Europe/Paris`.")
    reason: str = Field("", description="Why releases are frozen. A release that waits shows it.")


class Outage(_Part):
    """A single freeze with dates. A rollback is always allowed."""

    begin: Annotated[datetime, BeforeValidator(lambda v: datetime.fromisoformat(v) if isinstance(v, str) else v)] = (
        Field(description="When the freeze begins: ISO time with a zone, e.g. `2026-12-20T00:00+00:00`.")
    )
    end: Annotated[datetime, BeforeValidator(lambda v: datetime.fromisoformat(v) if isinstance(v, str) else v)] = Field(
        description="When the freeze ends: ISO time with a zone, after `begin`."
    )
    reason: str = Field("", description="Why releases are frozen. A release that waits shows it.")

    @model_validator(mode="after")
    def _ordered(self) -> Outage:
        if self.begin.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("begin and end need a time zone, e.g. 2026-12-20T00:00+00:00")
        if self.end <= self.begin:
            raise ValueError("end must be after begin")
        return self


class Notify(_Part):
    """A message to people or to another system, sent by one of Airflow's notifiers."""

    when: tuple[Moment, ...] = Field(
        ("rolled_back", "pause"),
        strict=False,
        min_length=1,
        description="Events that are reported. `pause`: the release waits for a person or for the end of a freeze.",
    )
    by: Literal["smtp", "slack", "webhook"] = Field(
        description="How the message is sent. `slack` needs the extra `slack`; `webhook` posts JSON."
    )
    connection: str = Field(
        min_length=1, description="Id of the Airflow connection that holds the address and the secret."
    )
    to: str = Field("", description="For `smtp` the addresses, separated by commas; for `slack` the channel.")


class Drill(_Part):
    """Practice: a release of a copy of the model is broken on purpose, to see that its callers would be safe."""

    schedule: str = Field(
        pattern=r"^(@\w+|\S+( \S+){4})$",
        description="Cron expression of five fields, or e.g. `@weekly`, in UTC.",
    )
    faults: tuple[Fault, ...] = Field(
        FAULTS,
        strict=False,
        min_length=1,
        description="Faults to practise. Each run takes the one whose last drill is longest ago.",
    )


class Release(_Part):
    """How a version gets the traffic."""

    steps: tuple[Step, ...] = Field(
        min_length=1, strict=False, description="The steps of the canary, in order. `weight_pct` must rise."
    )
    judge: Judge = Field(Judge(), description="The rules by which a version passes or fails.")
    shadow: Shadow | None = Field(
        None, description="Copies of live requests for the new version, before the first step. Leave it out to skip it."
    )
    approval: Approval = Field(Approval(), description="Whether a person is asked, and who.")
    freeze: tuple[Freeze | Outage, ...] = Field(
        (),
        strict=False,
        description="Times in which no release begins or takes its next step. Each is a rule with `start` and `lasts`, or one "
        "span with `begin` and `end`.",
    )
    notify: tuple[Notify, ...] = Field((), strict=False, description="Messages that a release sends.")
    when_busy: Literal["wait", "supersede"] = Field(
        "wait",
        description="What a new release does while another one of the model is under way. `supersede` ends the other one.",
    )
    unit: Unit | None = Field(
        None,
        description="What a caller is assigned by. If you leave it out: the header `X-Taxiway-Unit`, else the body's "
        "`parameters.unit`, else each request is assigned by itself.",
    )
    holdout_pct: float = Field(0.0, ge=0, le=50, description="Share of the units that never get a canary.")
    testers: bool = Field(
        False,
        description="With `true` a caller chooses a version of the release by the header `X-Taxiway-Version`. Such requests "
        "are not counted as evidence.",
    )
    lease_s: DurationS = Field(
        60.0,
        alias="lease",
        description="How long the canary keeps its traffic without a sign of life from the release. After that the edge sends "
        "everything to stable.",
    )
    canary_timeout_s: DurationS | None = Field(
        None,
        alias="canary_timeout",
        ge=0.01,
        description="A canary that takes longer has failed, and stable answers the same request. If you leave it out, it is "
        "four times the 99 % quantile of stable's answer times before the release, and never below 0.25 s. It is 2 s if "
        "stable has answered nothing yet.",
    )
    max_in_flight: int = Field(
        64,
        ge=1,
        le=2000,
        description="Requests that the canary may have under way at one time. A request above this goes to stable.",
    )
    drain_s: DurationS = Field(
        30.0, alias="drain", description="Time that a version has to finish its open requests before it is deleted."
    )
    watch_s: DurationS | None = Field(
        None,
        alias="watch",
        description="How long the new version is watched after the promotion. The old version keeps 1 % of the units as the "
        "control, and takes all of them back if the new one proves worse. Leave it out to skip the watch.",
    )
    smoke_rows: int = Field(
        20, ge=1, le=1000, description="Rows of the holdout that are sent to a new version before any caller meets it."
    )
    keep_warm_s: DurationS = Field(
        3600.0,
        alias="keep_warm",
        description="How long the old version stays deployed after the promotion, so that a rollback takes effect at once.",
    )
    drill: Drill | None = Field(
        None, description="Schedule of drills with a copy of the model. Leave it out to drill by hand only."
    )

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        weights = [step.weight_pct for step in steps]
        if weights != sorted(set(weights)):
            raise ValueError(f"weight_pct must rise from step to step; got {weights}")
        return steps

    @model_validator(mode="after")
    def _consistent(self) -> Release:
        if self.watch_s is not None and self.keep_warm_s < self.watch_s:
            raise ValueError("keep_warm must be at least as long as watch: a rollback needs the old version")
        if self.steps[-1].weight_pct + self.holdout_pct > 100:
            raise ValueError("the last step's weight_pct and holdout_pct are more than 100 together")
        if not self.judge.parts(late=False)[0].guards:
            raise ValueError(
                "judge: the steps cannot wait for labels or business numbers; add a guard, e.g. `failures`"
            )
        paired = self.judge.labels or self.judge.loss
        if paired and self.shadow is None:
            raise ValueError("judge.labels and judge.loss compare answers to the same request: they need `shadow`")
        if self.shadow and self.shadow.await_labels and not paired:
            raise ValueError("shadow.await_labels needs judge.labels or judge.loss")
        return self
