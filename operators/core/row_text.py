"""The rows of the ledger in words: what a person reads in the console, in `taxiway explain` and in an approval."""

from __future__ import annotations

from operators.core import rows
from operators.core.rows import Row

_TELLING = ("kind", "step", "version", "stable", "by", "actor", "why", "reason", "did", "fault", "drill_id")


def in_words(row: Row) -> str:  # noqa: C901 - one sentence for each kind
    """Return in a few words what a row decided, without its kind."""
    match row:
        case rows.ReleaseStartedRow():
            return _because(_started(row), row.reason or row.why)
        case rows.WeightSetRow():
            return _route(row)
        case rows.VerdictRow():
            return f"{row.step}: {row.outcome}: {row.reason}"
        case rows.ApprovalRow():
            return f"{row.step}: {row.by} decided to {row.answer.replace('_', ' ')}"
        case rows.PromotedRow():
            return f"version {row.version} replaced {_version(row.previous)}"
        case rows.RolledBackRow():
            return _because(f"version {row.version} is out, {_version(row.stable)} has all traffic", row.reason)
        case rows.ManualRollbackRow():
            return _because(f"{row.actor} sent all traffic to version {row.version}", row.reason)
        case rows.WatchEndedRow():
            return _because(f"version {row.version} stays", row.why)
        case rows.AbandonedRow():
            return _because(f"ended by {row.by}", row.why)
        case rows.WithdrawnRow():
            return _because(f"{row.by} took the model out of service", row.reason)
        case rows.ReconciledRow():
            return _because(f"{row.did.replace('_', ' ')} version {row.version or row.stable}", row.why)
        case rows.QuarantinedRow():
            return _because(f"version {row.version} is not released again", row.reason)
        case rows.QuarantineLiftedRow():
            return _because(f"{row.by} lets version {row.version} be released again", row.reason)
        case rows.EdgeRow():
            return _because(_edge(row), row.reason)
        case rows.GateRow():
            return f"{'passed' if row.passed else 'closed'} {'; '.join(row.reasons)}".rstrip()
        case rows.DrillRow():
            return f"{row.fault}: " + ("passed" if row.passed else _because("failed", "; ".join(row.problems)))
        case _:
            fields = row.payload()
            return ", ".join(f"{key} {fields[key]}" for key in _TELLING if fields.get(key))


def _because(text: str, reason: str) -> str:
    return f"{text}: {reason}" if reason else text


def _version(version: str | None) -> str:
    return f"version {version}" if version else "nothing"


def _started(row: rows.ReleaseStartedRow) -> str:
    if row.kind == "withdrawal":
        return f"withdrawal, by {row.by}"
    if row.kind == "return":
        return f"return to version {row.version}, by {row.by}"
    return f"reconciliation of version {row.version}" if row.kind == "reconciliation" else f"version {row.version}"


def _route(row: rows.WeightSetRow) -> str:
    parts = [f"{row.step}: {_version(row.stable)} answers"]
    parts += [f"canary {row.canary} has {row.weight_bp / 100:g} %"] if row.canary else []
    parts += [f"shadow {row.shadow} gets copies"] if row.shadow else []
    return "; ".join(parts)


def _edge(row: rows.EdgeRow) -> str:
    if row.kind == "rolled_back":
        return f"{row.actor} sent all traffic to version {row.stable}, at the agent"
    return row.kind.replace("_", " ")
