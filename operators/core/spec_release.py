"""The part of a model's spec that says how a version gets the traffic: `release:`. Frozen, strict, free of Airflow and Ray."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from operators.core.durations import DurationS
from operators.core.frozen import Written
from operators.core.spec_judge import Judge
from operators.core.spec_operations import Approval, Drill, Freeze, Notify, Outage
from operators.core.traffic import Unit

CONTROL_BP = 100  # the share of the old version while a promotion is watched, in basis points: 1 %


class Step(Written):
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


class Shadow(Written):
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


class Release(Written):
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
