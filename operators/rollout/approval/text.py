"""A release's evidence in Markdown, for the form in which a person decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from operators.core.rows import VerdictRow
from operators.judge.units import in_unit, unit_of

_HARMLESS = str.maketrans({"|": "\\|", "\n": " ", "<": "&lt;"})


def as_markdown(release: Mapping[str, Any], verdicts: Sequence[VerdictRow]) -> str:
    """Return all verdicts so far, and the last one's guards.

    :param release: what `BeginReleaseOperator` returned
    :param verdicts: oldest first
    """
    lines = [
        f"Version **{release['version']}** against version **{release['stable']}**, release `{release['release_id']}`.",
        "",
        "| step | verdict | why |",
        "|---|---|---|",
    ]
    for row in verdicts:
        lines.append(f"| {row.step} | {row.outcome} | {_plain(row.reason)} |")
    if verdicts:
        lines += ["", *_guards(verdicts[-1])]
    return "\n".join(lines)


def _guards(verdict: VerdictRow) -> list[str]:
    rows = ["| guard | evidence of harm | harm lies between | margin | missing |", "|---|---|---|---|---|"]
    for name, guard in verdict.judgement["guards"].items():
        unit = unit_of(name, verdict.policy.get("series", ()))
        ends = " and ".join(in_unit(end, unit) for end in guard["interval"] or ())
        between = f"{ends} {unit}".rstrip() if ends else "unknown"
        margin = "–" if guard["margin"] is None else f"{in_unit(guard['margin'], unit)} {unit}".rstrip()
        evidence = f"{float(guard['e']):.3g}, fails at {float(guard['threshold']):.3g}"
        rows.append(f"| {name} | {evidence} | {between} | {margin} | {_plain(guard['missing']) or 'nothing'} |")
    return rows


def _plain(text: str) -> str:
    """Escape a reason, which may quote anything, so that it is not rendered as a table or a tag."""
    return text.translate(_HARMLESS)
