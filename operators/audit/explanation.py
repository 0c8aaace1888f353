"""Explain why a request was answered by the version that answered it. Pure: from the rows of log and ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from operators.core import rows
from operators.core.ledger_entry import Entry
from operators.core.row_text import in_words
from operators.core.traffic import Route
from operators.traffic.assignment import bucket, in_canary

_ENDED_BY = ("lease_expired", "rolled_back", "breaker_opened")


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True)


class Answer(_Fact):
    """One version's answer to a request.

    :param arm: as the edge wrote it: stable, canary, fallback, bypass, holdout, tester, shadow; None: it did not pass the edge
    :param weight_bp: the canary's weight when the request was assigned; None: not in the log
    :param rows: how many rows the request had
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
    """The route at one moment, by the ledger.

    :param since: when the route was written
    :param ended: what ended its weight after that, in words; empty: nothing
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
    """One answer, and what led to it."""

    answer: Answer
    why: str
    moment: Moment | None
    origin: Origin | None


def asked_at(request_id: str) -> datetime | None:
    """Return the time in a request's id, if the id is a UUID of version 7 (RFC 9562, 5.7).

    The caller or the edge made the id, so its time is a hint only.
    """
    try:
        uuid = UUID(request_id)
    except ValueError:
        return None
    if uuid.version != 7:
        return None
    try:
        return datetime.fromtimestamp((uuid.int >> 80) / 1000, UTC)
    except (ValueError, OverflowError):
        return None


def in_force(entries: Iterable[Entry], at: datetime) -> Moment | None:
    """Return the route at a time; None: the ledger has none.

    :param entries: of one model, oldest first; only `weight_set` and `edge` count
    """
    moment: Moment | None = None
    for entry in entries:
        if entry.kind == rows.WeightSetRow.KIND and entry.at <= at:
            moment = Moment(
                route=Route.recorded(entry.model, entry.payload), release_id=entry.release_id, since=entry.at
            )
        elif entry.kind == rows.EdgeRow.KIND and moment is not None:
            event = rows.EdgeRow.of(entry)
            ended_at = datetime.fromtimestamp(event.at, UTC)
            if event.kind in _ENDED_BY and moment.since <= ended_at <= at:
                ended = f"{event.kind.replace('_', ' ')} at {ended_at:%H:%M:%S}"
                moment = moment.model_copy(update={"ended": ended})
    return moment


def why(answer: Answer, moment: Moment | None) -> str:
    """Return in one or two sentences why this version answered."""
    if answer.arm is None:
        return "the request did not come through the edge: it was sent to the version itself"
    place = bucket(answer.model, answer.unit or answer.request_id)
    who = f"unit {answer.unit}" if answer.unit else "the request named no unit; its id"
    weight = f"the canary had {answer.weight_bp / 100:g} %" if answer.weight_bp else "there was no canary"
    text = _BY_ARM[answer.arm].format(who=who, place=place, weight=weight) if answer.arm in _BY_ARM else answer.arm
    return text + _doubt(answer, moment, place)


_BY_ARM = {
    "stable": "{who} has bucket {place} of 10000, which belongs to stable; {weight}",
    "canary": "{who} has bucket {place} of 10000, which belongs to the canary; {weight}",
    "holdout": "{who} has bucket {place} of 10000, which is in the holdout: it never gets a canary",
    "fallback": "{who} has bucket {place} of 10000, which belongs to the canary; but the canary failed this request, was at its "
    "limit, or had lost its traffic after too many failures, so stable answered",
    "bypass": "the edge cannot send the request a second time (its body is too large, or came in chunks), so stable answered",
    "tester": "a tester chose the version with the header X-Taxiway-Version",
    "shadow": "this is the answer to a copy of the request; the caller did not get it",
}


def _doubt(answer: Answer, moment: Moment | None, place: int) -> str:
    """Return where log and ledger disagree, as a sentence; empty: nowhere."""
    if answer.arm not in ("stable", "canary", "fallback") or not answer.weight_bp:
        return ""
    if moment is None:
        return ". The ledger has no route of that time"
    if moment.route.weight_bp != answer.weight_bp:
        return f". The ledger has {moment.route.weight_bp / 100:g} % for that moment: the route was being changed just then"
    if in_canary(moment.route, place) != (answer.arm != "stable"):
        return ". By the route in the ledger the bucket belongs to the other arm: the edge used a unit that is not in the log"
    return ""


def decisions(entries: Sequence[Entry], version: str, at: datetime, dag_run: str) -> tuple[str, ...]:
    """Return in words how a version got its traffic: its gate, and its last release that began before a time.

    :param entries: all rows of the model, oldest first
    :param dag_run: the training run, whose gate it is; empty: not known
    """
    lines = [
        _line(row) for row in entries if row.kind == rows.GateRow.KIND and dag_run and f"/{dag_run}/gate" in row.key
    ]
    begun = [row for row in entries if row.kind == rows.ReleaseStartedRow.KIND and row.at <= at]
    mine = [row.release_id for row in begun if rows.ReleaseStartedRow.of(row).version == version]
    if mine:
        lines += [_line(row) for row in entries if row.release_id == mine[-1] and isinstance(rows.read(row), _SHOWN)]
    return tuple(lines)


_SHOWN = (
    rows.ReleaseStartedRow, rows.VerdictRow, rows.ApprovalRow, rows.PromotedRow, rows.RolledBackRow, rows.ManualRollbackRow,
    rows.WatchEndedRow,
)  # fmt: skip


def _line(entry: Entry) -> str:
    return f"{entry.at:%Y-%m-%d %H:%M:%S} {entry.kind.replace('_', ' ')}: {in_words(rows.read(entry))}"
