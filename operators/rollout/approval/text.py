"""A release's evidence in Markdown, for the form in which a person decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from operators.core.rows import VerdictRow

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
        lines += ["", *_guards(verdicts[-1].judgement["guards"])]
    return "\n".join(lines)


def _guards(guards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = ["| guard | e-value, of | harm lies between | margin | missing |", "|---|---|---|---|---|"]
    for name, guard in guards.items():
        interval = guard["interval"]
        between = f"{interval[0]:.4g} and {interval[1]:.4g}" if interval else "unknown"
        margin = "–" if guard["margin"] is None else f"{guard['margin']:.4g}"
        weight = f"{float(guard['e']):.3g} of {float(guard['threshold']):.3g}"
        rows.append(f"| {name} | {weight} | {between} | {margin} | {_plain(guard['missing']) or 'nothing'} |")
    return rows


def _plain(text: str) -> str:
    """Escape a reason, which may quote anything, so that it is not rendered as a table or a tag."""
    return text.translate(_HARMLESS)
