"""The rows of the ledger: one frozen type for each kind, to JSON and from it. `row_text` puts them into words.

A row is written with the fields that its writer gave, and no others, so its hash does not depend on fields that were added to
its type later. Where an older Taxiway did not write a field, its default holds. A field that this version does not know is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from operators.core.ledger_entry import Entry


class Row(BaseModel):
    """What all rows share; by itself, a row of a kind that this version does not know."""

    model_config = ConfigDict(frozen=True, extra="allow")

    KIND: ClassVar[str] = ""

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Read an entry of this kind.

        :raises ValueError: it lacks a field that was always written
        """
        return cls.model_validate(entry.payload)

    def payload(self) -> dict[str, Any]:
        """Return what the ledger stores.

        :raises ValueError: it has a number that JSON does not
        """
        fields = self.model_dump(exclude_unset=True, by_alias=True)
        return dict(json.loads(json.dumps(fields, allow_nan=False)))


class ReleaseStartedRow(Row):
    """A release, or what else moves the model's traffic, has claimed the model.

    :param kind: a release; a person's return to a version; a withdrawal of the model; or a reconciliation
    :param version: the version on trial, or the one that gets the traffic
    :param run: the Airflow run, or what else asked for it
    :param stable: of a return: the version that had the traffic
    :param on_trial: of a return: the version whose release it ended
    """

    KIND = "release_started"
    version: str | None = None
    kind: Literal["release", "return", "withdrawal", "reconciliation"] = "release"
    run: str | None = None
    stable: str | None = None
    on_trial: str | None = None
    by: str = ""
    reason: str = ""
    why: str = ""


class WeightSetRow(Row):
    """A change of the model's route. The route's other fields are kept with it; `Route.recorded` reads them.

    :param weight_bp: the canary's share, in basis points
    """

    KIND = "weight_set"
    step: str = ""
    stable: str | None = None
    canary: str | None = None
    shadow: str | None = None
    weight_bp: int = 0


class VerdictRow(Row):
    """The judge's verdict on a step, with all that is needed to judge again.

    :param policy: JSON of the `Judge` that was asked
    :param evidence: JSON of the `Evidence`
    :param judgement: JSON of the `Judgement`
    :param judge: digest of the judge's code
    :param blind: the judge was not asked, because nothing could be measured
    """

    KIND = "verdict"
    step: str
    policy: dict[str, Any]
    evidence: dict[str, Any]
    elapsed_s: int | float  # int, too: what was written as 60 must not become 60.0, which has another hash
    bake_s: int | float = 0.0
    min_requests: int | None = None
    harm_weight: int | float = 1.0
    judgement: dict[str, Any]
    judge: str = ""
    blind: bool = False

    @property
    def outcome(self) -> str:
        """Successful, Failed or Inconclusive."""
        return str(self.judgement.get("outcome", ""))

    @property
    def reason(self) -> str:
        """Why."""
        return str(self.judgement.get("reason", ""))


class ApprovalRow(Row):
    """A person's decision at a step.

    :param by: the user, or `timeout`
    """

    KIND = "approval"
    step: str
    answer: Literal["go_on", "roll_back"]
    by: str
    note: str = ""


class PromotedRow(Row):
    """A version got all traffic.

    :param previous: the version that it replaced; None: the model had none
    """

    KIND = "promoted"
    version: str
    previous: str | None = None


class RolledBackRow(Row):
    """A release ended without its version.

    :param stable: the version that has the traffic; None: none has
    :param promoted: whether it had been promoted before
    """

    KIND = "rolled_back"
    version: str
    stable: str | None
    reason: str = ""
    promoted: bool = False


class WatchEndedRow(Row):
    """The watch after a promotion ended well."""

    KIND = "watch_ended"
    version: str
    why: str = ""


class AbandonedRow(Row):
    """A release ended without a result.

    :param by: the release that took its place, or who ended it
    """

    KIND = "abandoned"
    by: str
    why: str = ""


class ManualRollbackRow(Row):
    """A person sent all traffic to a version.

    :param left: the version that had it
    """

    KIND = "manual_rollback"
    version: str
    left: str | None = None
    reason: str = ""
    actor: str = ""


class WithdrawnRow(Row):
    """The model was taken out of service."""

    KIND = "withdrawn"
    by: str
    reason: str = ""


class RetiredRow(Row):
    """A version without traffic was deleted from the cluster."""

    KIND = "retired"
    version: str


class ReconciledRow(Row):
    """`reconcile`, or a release that had nothing to do, made ledger, traffic and alias agree.

    :param did: what was done, see `operators.rollout.reconcile.policy.Action`
    :param stable: the version that has the traffic; None: this did not change it
    """

    KIND = "reconciled"
    did: str
    version: str | None = None
    stable: str | None = None
    why: str = ""


class QuarantinedRow(Row):
    """A version was rejected: it is not released again.

    :param model_digest: of the model's files; empty: not known
    """

    KIND = "quarantined"
    version: str
    model_digest: str = ""
    reason: str = ""


class QuarantineLiftedRow(Row):
    """A person let a rejected version be released again."""

    KIND = "quarantine_lifted"
    version: str
    model_digest: str = ""
    by: str = ""
    reason: str = ""


class EdgeRow(Row):
    """What the agent or an edge did by itself; copied from the agent's journal.

    :param seq: its number in the journal
    :param at: unix seconds
    :param left: of a rollback: the version that lost the traffic
    """

    KIND = "edge"
    seq: int = 0
    at: float
    kind: str
    stable: str | None = None
    left: str | None = None
    actor: str = ""
    reason: str = ""


class GateRow(Row):
    """Whether a candidate may be released.

    :param measured: the metrics of candidate and champion
    """

    KIND = "gate"
    passed: bool = False
    reasons: tuple[str, ...] = ()
    measured: Mapping[str, Any] = Field(default_factory=dict)


class DrillStartedRow(Row):
    """A drill began; the row is in the chain of the model that is copied."""

    KIND = "drill_started"
    drill_id: str
    copy_name: str
    fault: str
    dag_id: str
    run_id: str


class DrillRow(Row):
    """The result of a drill; what was measured is kept with it."""

    KIND = "drill"
    drill_id: str
    fault: str
    copy_name: str = Field("", alias="copy")
    passed: bool
    problems: tuple[str, ...] = ()


class DrillCleanedRow(Row):
    """Nothing of a drill is left."""

    KIND = "drill_cleaned"
    drill_id: str
    by: str = ""


_KINDS: dict[str, type[Row]] = {kind.KIND: kind for kind in Row.__subclasses__()}


def read(entry: Entry) -> Row:
    """Read an entry of any kind. One that this version cannot read, e.g. of a newer Taxiway, comes back as a plain `Row`."""
    try:
        return _KINDS.get(entry.kind, Row).of(entry)
    except ValidationError:
        return Row.of(entry)
