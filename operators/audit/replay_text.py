"""A replay as text."""

from __future__ import annotations

from collections.abc import Sequence

from operators.audit.replay import Ended, Replay, StepReplay
from operators.core.render import seconds, table
from operators.judge.evidence import Outcome


def rendered(again: Replay, other: Replay | None, *, width: int) -> str:
    """Return a replay as text.

    :param again: by the recorded policy
    :param other: by another policy; None: there is none
    :param width: columns of the terminal
    """
    differ = {step.step: step.replayed for step in other.steps} if other else {}
    columns = ["step", "looks", "recorded", "judged again", *(["with this policy"] if other else [])]
    rows: list[Sequence[str]] = []
    for step in again.steps:
        cells = [
            step.step,
            str(step.looks),
            _ending(step.recorded),
            "the same" if step.same else _ending(step.replayed),
        ]
        if other:
            cells.append(_ending(differ[step.step]) if step.step in differ else "does not begin")
        rows.append(cells)
    lines = [table(columns, rows, width=width), *map(_unlike, (step for step in again.steps if not step.same))]
    lines += [f"{name}: has looks but no verdict, so its policy is not known." for name in again.unseen]
    return "\n".join([*lines, *(_conclusion(other) if other else ())])


def _ending(ended: Ended) -> str:
    return f"{ended.outcome} at look {ended.look}, {seconds(ended.elapsed_s)}"


def _unlike(step: StepReplay) -> str:
    return f"{step.step}: the record says: {step.recorded.reason}. Its looks give: {step.replayed.reason}."


def _conclusion(other: Replay) -> list[str]:
    lines = []
    for step in other.steps:
        if step.replayed.outcome is Outcome.CONTINUE and not step.blind:
            lines.append(
                f"{step.step}: this policy has no verdict where the real release went on: {step.replayed.reason}. "
                "It would have stayed at this step; the steps below show what the real release did next."
            )
    if (stopped := other.stopped) is not None:
        lines.append(f"With this policy the release ends at {stopped.step}: {stopped.replayed.reason}.")
    else:
        lines.append("With this policy nothing in the record stops the release.")
    return lines
