"""The parts of `release:` about people and practice: who is asked and told, when releases are frozen, which drills are made.

Frozen, strict, free of Airflow and Ray.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from operators.core.durations import DurationS
from operators.core.frozen import Written

Moment = Literal["start", "step", "pause", "rolled_back", "promoted"]
Fault = Literal["bad_canary", "dead_controller", "dead_agent", "dead_replica"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
IsoTime = Annotated[datetime, BeforeValidator(lambda v: datetime.fromisoformat(v) if isinstance(v, str) else v)]


class Approval(Written):
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


class Freeze(Written):
    """A recurring time in which no release begins and none takes its next step. A rollback is always allowed."""

    start: str = Field(
        pattern=r"^\S+( \S+){4}$",
        description="When the freeze begins: a cron expression of five fields, e.g. `0 16 * * 5` for Fridays at 16:00.",
    )
    lasts_s: DurationS = Field(alias="lasts", description="How long the freeze lasts, e.g. `64h`.")
    timezone: str = Field("UTC", description="Time zone of `start`, e.g. `Europe/Paris`.")
    reason: str = Field("", description="Why releases are frozen. A release that waits shows it.")


class Outage(Written):
    """A single freeze with dates. A rollback is always allowed."""

    begin: IsoTime = Field(description="When the freeze begins: ISO time with a zone, e.g. `2026-12-20T00:00+00:00`.")
    end: IsoTime = Field(description="When the freeze ends: ISO time with a zone, after `begin`.")
    reason: str = Field("", description="Why releases are frozen. A release that waits shows it.")

    @model_validator(mode="after")
    def _ordered(self) -> Outage:
        if self.begin.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("begin and end need a time zone, e.g. 2026-12-20T00:00+00:00")
        if self.end <= self.begin:
            raise ValueError("end must be after begin")
        return self


class Notify(Written):
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


class Drill(Written):
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
