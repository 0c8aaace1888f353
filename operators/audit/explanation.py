"""Why a request was answered by the version that answered it. Pure: from the log's rows and the ledger's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from operators.core.ledger import Entry
from operators.core.traffic import Route
from operators.rollout.model_traffic import MOVED, route_of
from operators.traffic.assignment import bucket, in_canary

_ENDED_BY = ("lease_expired", "rolled_back", "breaker_opened")


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True)


class Answer(_Fact):
    """One version's answer to a request.

    :param arm: what the edge said: stable, canary, fallback, bypass, holdout, tester, shadow; None: it did not pass the edge
    :param weight_bp: the canary's weight when the request was assigned; None: not told
    :param rows: how many rows were asked for
    :param predictions: of the first rows
    """

    request_id: str
    model: str
    version: str
    arm: str | None
    weight_bp: int | None
    unit: str | None
    predicted_at: datetime
    rows: int
    predictions: tuple[float, ...]


class Moment(_Fact):
    """What the ledger says was in force.

    :param since: when the route was written
    :param ended: what the agent did by itself after that, in words; empty: nothing
    """

    route: Route
    release_id: str | None
    since: datetime
    ended: str = ""


class Origin(_Fact):
    """Where a version comes from, and how it got its traffic.

    :param tags: of the version in the registry
    :param decisions: rows of the gate and of the release that brought it, in words
    """

    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    decisions: tuple[str, ...]


class Explanation(_Fact):
    """One answer, and all that led to it."""

    answer: Answer
    why: str
    moment: Moment | None
    origin: Origin | None


def asked_at(request_id: str) -> datetime | None:
    """Return the time that a request's id tells, if it is a UUID of version 7 (RFC 9562, 5.7).

    It is the time when the id was made, by the caller or the edge: a hint, no fact.
    """
    try:
        found = UUID(request_id)
    except ValueError:
        return None
    if found.version != 7:
        return None
    try:
        return datetime.fromtimestamp((found.int >> 80) / 1000, UTC)
    except (ValueError, OverflowError):
        return None


def in_force(rows: Iterable[Entry], at: datetime) -> Moment | None:
    """Return what was in force at a time, by the rows of one model, oldest first; None: the ledger does not know.

    :param rows: of the kinds `weight_set` and `edge`; others are passed over
    """
    found: Moment | None = None
    for row in rows:
        if row.kind == MOVED and row.at <= at:
            found = Moment(route=route_of(row), release_id=row.release_id, since=row.at)
        elif row.kind == "edge" and found is not None:
            done_at = datetime.fromtimestamp(row.payload["at"], UTC)
            if row.payload["kind"] in _ENDED_BY and found.since <= done_at <= at:
                words = f"{row.payload['kind'].replace('_', ' ')} at {done_at:%H:%M:%S}"
                found = found.model_copy(update={"ended": words})
    return found


def why(answer: Answer, moment: Moment | None) -> str:
    """Say in one or two sentences why this version answered."""
    if answer.arm is None:
        return "the request did not come through the edge: somebody asked the version itself"
    place = bucket(answer.model, answer.unit or answer.request_id)
    who = f"unit {answer.unit}" if answer.unit else "the request, which named no unit,"
    weight = f"a canary at {answer.weight_bp / 100:g} %" if answer.weight_bp else "no canary"
    said = _BY_ARM[answer.arm].format(who=who, place=place, weight=weight) if answer.arm in _BY_ARM else answer.arm
    return said + _doubt(answer, moment, place)


_BY_ARM = {
    "stable": "{who} has bucket {place} of 10000, and stable answers it; there was {weight}",
    "canary": "{who} has bucket {place} of 10000, which is the canary's: there was {weight}",
    "holdout": "{who} has bucket {place} of 10000, which is held out: it never meets a canary",
    "fallback": "{who} has bucket {place} of 10000, which is the canary's; the canary failed this request, was at its limit "
    "or was out after too many failures, so stable answered",
    "bypass": "the request cannot be sent a second time (its body is too large, or came in chunks), so stable answers it",
    "tester": "a tester chose the version by the header X-Taxiway-Version",
    "shadow": "a copy of the request, whose answer nobody saw",
}


def _doubt(answer: Answer, moment: Moment | None, place: int) -> str:
    """Say where the log and the ledger disagree; empty: nowhere."""
    if answer.arm not in ("stable", "canary", "fallback") or not answer.weight_bp:
        return ""
    if moment is None:
        return ". The ledger has no route of that time"
    if moment.route.weight_bp != answer.weight_bp:
        return f". The ledger has {moment.route.weight_bp / 100:g} % for that moment: the route was just being changed"
    if in_canary(moment.route, place) != (answer.arm != "stable"):
        return (
            ". By the route in the ledger it is the other arm's: the log does not have the unit that the edge went by"
        )
    return ""


def decisions(rows: Sequence[Entry], version: str, at: datetime, dag_run: str) -> tuple[str, ...]:
    """Return in words how a version got its traffic: its gate, and the last release of it that began before a time.

    :param rows: all rows of the model, oldest first
    :param dag_run: the training run, whose gate it is; empty: not known
    """
    told = [_gate(row) for row in rows if row.kind == "gate" and dag_run and f"/{dag_run}/gate" in row.key]
    begun = [row for row in rows if row.kind == "release_started" and row.payload.get("version") == version]
    before = [row for row in begun if row.at <= at]
    if before:
        release_id = before[-1].release_id
        told += [_told(row) for row in rows if row.release_id == release_id and row.kind in _TOLD]
    return tuple(told)


_TOLD = ("release_started", "verdict", "approval", "promoted", "rolled_back", "manual_rollback", "watch_ended")


def _gate(row: Entry) -> str:
    reasons = "; ".join(row.payload.get("reasons", []))
    return f"{row.at:%Y-%m-%d %H:%M:%S} gate: {'passed' if row.payload.get('passed') else 'closed'} {reasons}".rstrip()


def _told(row: Entry) -> str:
    said = row.payload
    if row.kind == "verdict":
        words = f"{said['step']}: {said['judgement']['outcome']}: {said['judgement']['reason']}"
    elif row.kind == "approval":
        words = f"{said['step']}: {said['answer']}, by {said['by']}"
    else:
        kept = ("version", "previous", "stable", "left", "actor", "by", "reason")
        words = ", ".join(f"{key} {said[key]}" for key in kept if said.get(key))
    return f"{row.at:%Y-%m-%d %H:%M:%S} {row.kind.replace('_', ' ')}: {words}"
