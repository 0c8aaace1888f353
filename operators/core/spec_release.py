"""The part of a model's spec that says how a version gets the traffic: `release:`. Frozen, strict, free of Airflow and Ray."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from operators.core.durations import DurationS, parse_duration_s
from operators.core.frozen import Written

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
    "answers of so long a time share their weather: all their labels together say one thing. A small loss shows, and a success "
    "comes, after five to ten blocks. none: each pair speaks for itself, which is right only if no day favours a version"
)


class Step(Written):
    """One step of a canary."""

    weight_pct: float = Field(ge=0.01, le=99, description="the last step to 100 is the promotion")
    bake_s: DurationS = Field(alias="bake", description="how long the step is observed at least")
    min_requests: int | None = Field(None, ge=1, description="of the canary in this step; default: the judge's")

    @property
    def weight_bp(self) -> int:
        """The weight in basis points, 0.01 %, which is what the edge splits by."""
        return round(self.weight_pct * 100)


class Shadow(Written):
    """Before the first step: live requests are copied to the new version, whose answers nobody sees."""

    sample_pct: float = Field(ge=0.01, le=100, description="share of the units whose requests are copied")
    bake_s: DurationS = Field(alias="bake", description="how long the shadow is observed at least")
    min_requests: int = Field(100, ge=1, description="copied requests that the shadow must have answered")
    max_in_flight: int = Field(16, ge=1, le=1024, description="copies at one time; a request over it is not copied")
    await_labels: bool = Field(
        False, description="whether a caller may meet the version only once the labels have spoken for it"
    )


class Failures(Written):
    """Bad events: 5xx, broken connections and time-outs, before the fallback hides them."""

    margin_pct: float = Field(1.0, gt=0, le=100, description="percentage points above stable that are still accepted")


class Slow(Written):
    """Bad events: answers over a limit, or over what stable's own recent quantile allows."""

    margin_pct: float = Field(5.0, gt=0, le=100, description="percentage points of slow answers above stable")
    limit_s: Annotated[DurationS, Field(ge=0.005)] | None = Field(
        None, alias="limit", description="fixed limit, in place of stable's quantile; 5ms or more"
    )
    quantile: float = Field(0.95, ge=0.5, lt=1, description="of stable's answers when the step begins")
    ratio: float = Field(1.5, gt=1, description="the limit is the quantile times this …")
    # Below 5 ms it is the machine's hiccups that decide, not the version.
    increase_s: DurationS = Field(
        0.02, alias="increase", ge=0.005, description="… and at least this much above it; 5ms or more"
    )


class Labels(Written):
    """Right or wrong, for requests that shadow and stable both answered, once the label arrives."""

    margin_pct: float = Field(1.0, gt=0, le=100, description="percentage points of accuracy that may be lost")
    min_pairs: int = Field(200, ge=1, description="labelled pairs before a success")
    within_s: DurationS = Field(alias="within", description="labels that come later than this are not waited for")
    threshold: float = Field(0.5, description="a prediction at or over it says yes")
    block_s: BlockS = Field(86400.0, alias="block", description=_BLOCK)
    block_margin_pct: float | None = Field(
        None, gt=0, le=100, description="points lost that fail a version in however few blocks; default: three margins"
    )

    @property
    def most_in_a_block(self) -> float:
        """The share that no block may lose."""
        return (3 * self.margin_pct if self.block_margin_pct is None else self.block_margin_pct) / 100


class Loss(Written):
    """Absolute error, for pairs of a regression, once the label arrives."""

    margin: float = Field(gt=0, description="mean error that may be gained, in the label's unit")
    largest: float = Field(gt=0, description="errors beyond it count as this; in the label's unit")
    min_pairs: int = Field(200, ge=1, description="labelled pairs before a success")
    within_s: DurationS = Field(alias="within", description="labels that come later than this are not waited for")
    block_s: BlockS = Field(86400.0, alias="block", description=_BLOCK)
    block_margin: float | None = Field(
        None, gt=0, description="error gained that fails a version in however few blocks; default: three margins"
    )

    @property
    def most_in_a_block(self) -> float:
        """The mean error that no block may gain."""
        return 3 * self.margin if self.block_margin is None else self.block_margin


class Prediction(Written):
    """The mean prediction of both arms must not differ."""

    margin: float = Field(gt=0, description="difference of means that is still accepted, in the prediction's unit")


class Business(Written):
    """A number for each request id that arrives later: revenue, accepted or not.

    Callers are assigned by chance, so days that are good or bad for both versions cannot mislead it. A version that is better on
    some days and worse on others is judged by those that it was there.
    """

    better: Literal["higher", "lower"]
    margin: float = Field(gt=0, description="how much worse the mean may be, in the metric's unit")
    lowest: float = Field(description="smallest value; what is below counts as this")
    highest: float = Field(description="largest value; what is above counts as this")
    within_s: DurationS = Field(
        alias="within",
        description="values that come later than this are not waited for; one that is missing holds up those after it until then",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Business:
        if self.highest <= self.lowest:
            raise ValueError("highest must be greater than lowest")
        return self


class Series(Written):
    """A number that exists as a time series only, one for each arm: a Prometheus query, a business number per minute."""

    better: Literal["higher", "lower", "equal"] = Field("lower", description="equal: a change to either side is bad")
    query: str = Field(min_length=1, description="PromQL; {version} stands for the arm's version")
    every_s: DurationS = Field(60.0, alias="every")
    margin_pct: float = Field(10.0, gt=0, description="of stable's median, that is still accepted")


class Judge(Written):
    """When a version counts as good, and when as bad."""

    alpha: float = Field(0.01, gt=0, le=0.5, description="chance that identical versions are rolled back, per release")
    confidence: float = Field(0.95, ge=0.5, lt=1, description="of `not worse by more than the margin`")
    min_requests: int = Field(100, ge=1, description="units of the canary in one step; fewer is not enough evidence")
    max_wait_s: DurationS = Field(1800.0, alias="max_wait", description="for a step's evidence; then Inconclusive")
    failures: Failures | None = Failures()
    slow: Slow | None = Slow()
    labels: Labels | None = None
    loss: Loss | None = None
    prediction: Prediction | None = None
    business: dict[GuardName, Business] = Field(default_factory=dict)
    series: dict[GuardName, Series] = Field(default_factory=dict)

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


class Unit(Written):
    """What a caller is assigned by; without either, the header ``X-Taxiway-Unit``, then the request id."""

    header: str | None = Field(None, pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")
    field: str | None = Field(
        None, pattern=r"^[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*){0,5}$", description="of the JSON body, by dots"
    )

    @model_validator(mode="after")
    def _one(self) -> Unit:
        if (self.header is None) == (self.field is None):
            raise ValueError("give either `header` or `field`")
        return self


class Approval(Written):
    """Who says yes before a version is promoted."""

    mode: Literal["automatic", "manual", "ask"] = Field(
        "automatic", description="ask: a person decides only when the judge is Inconclusive"
    )
    respond_within_s: DurationS = Field(86400.0, alias="respond_within")
    otherwise: Literal["roll_back", "go_on"] = Field("roll_back", description="when nobody has answered in time")
    approvers: tuple[str, ...] = Field(
        ("owner",),
        strict=False,
        min_length=1,
        description="Airflow users; `owner` is the spec's; `anyone` is whoever may act on the DAG",
    )


class Freeze(Written):
    """When no release begins and none goes on to its next step. A rollback is always allowed."""

    start: str = Field(pattern=r"^\S+( \S+){4}$", description="cron of five fields, when it begins")
    lasts_s: DurationS = Field(alias="lasts")
    timezone: str = "UTC"
    reason: str = ""


class Outage(Written):
    """One freeze with dates."""

    begin: Annotated[datetime, BeforeValidator(lambda v: datetime.fromisoformat(v) if isinstance(v, str) else v)]
    end: Annotated[datetime, BeforeValidator(lambda v: datetime.fromisoformat(v) if isinstance(v, str) else v)]
    reason: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Outage:
        if self.begin.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("begin and end need a time zone, e.g. 2026-12-20T00:00+00:00")
        if self.end <= self.begin:
            raise ValueError("end must be after begin")
        return self


class Notify(Written):
    """Who hears of it, by one of Airflow's notifiers."""

    when: tuple[Moment, ...] = Field(("rolled_back", "pause"), strict=False, min_length=1)
    by: Literal["smtp", "slack", "webhook"]
    connection: str = Field(min_length=1, description="id of an Airflow connection; addresses and secrets are there")
    to: str = Field("", description="smtp: addresses, separated by commas; slack: the channel")


class Drill(Written):
    """Practice: a release of a copy of the model is broken on purpose, to see that its callers would be safe."""

    schedule: str = Field(pattern=r"^(@\w+|\S+( \S+){4})$", description="cron of five fields")
    faults: tuple[Fault, ...] = Field(
        FAULTS, strict=False, min_length=1, description="each run takes the one that was drilled longest ago"
    )


class Release(Written):
    """How a version gets the traffic."""

    steps: tuple[Step, ...] = Field(min_length=1, strict=False)
    judge: Judge = Judge()
    shadow: Shadow | None = None
    approval: Approval = Approval()
    freeze: tuple[Freeze | Outage, ...] = Field((), strict=False)
    notify: tuple[Notify, ...] = Field((), strict=False)
    when_busy: Literal["wait", "supersede"] = Field("wait", description="another release of the model is under way")
    unit: Unit | None = Field(None, description="what callers are assigned by")
    holdout_pct: float = Field(0.0, ge=0, le=50, description="share of the units that never see a canary")
    testers: bool = Field(False, description="whether the header X-Taxiway-Version chooses a version that is routed")
    lease_s: DurationS = Field(60.0, alias="lease", description="a canary that nobody watches for so long drains to 0")
    canary_timeout_s: DurationS | None = Field(
        None,
        alias="canary_timeout",
        ge=0.01,
        description="then stable answers; default: four times what 99 % of stable's answers took before the release, 0.25 s "
        "or more, and 2 s where stable has answered nothing yet",
    )
    max_in_flight: int = Field(64, ge=1, le=2000, description="of the canary; what is over it goes to stable")
    drain_s: DurationS = Field(30.0, alias="drain", description="a version that goes may finish requests for so long")
    watch_s: DurationS | None = Field(None, alias="watch", description="after the promotion, the old version kept warm")
    smoke_rows: int = Field(20, ge=1, le=1000)
    keep_warm_s: DurationS = Field(3600.0, alias="keep_warm", description="how long the old version stays deployed")
    drill: Drill | None = Field(None, description="practise rollback on schedule, with a copy of the model")

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
