"""A replay as text."""

from __future__ import annotations

from collections.abc import Sequence

from operators.audit.replay import Replay, StepEnd, StepReplay
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
        replayed = "the same" if step.same else _ending(step.replayed)
        cells = [step.step, str(step.looks), _ending(step.recorded), replayed]
        if other:
            cells.append(_ending(differ[step.step]) if step.step in differ else "not reached")
        rows.append(cells)
    lines = [table(columns, rows, width=width), *map(_unlike, (step for step in again.steps if not step.same))]
    lines += [f"{name}: there are looks but no verdict, so its policy is not known." for name in again.unjudged]
    return "\n".join([*lines, *(_conclusion(other) if other else ())])


def _ending(end: StepEnd) -> str:
    return f"{end.outcome} at look {end.look}, {seconds(end.elapsed_s)}"


def _unlike(step: StepReplay) -> str:
    return f"{step.step}: the recorded reason is: {step.recorded.reason}. Judged again, it is: {step.replayed.reason}."


def _conclusion(other: Replay) -> list[str]:
    lines = [
        f"{step.step}: this policy has no verdict yet when the real release went on: {step.replayed.reason}. "
        "It would have stayed at this step. The next steps are replayed with the evidence of the real release."
        for step in other.steps
        if step.replayed.outcome is Outcome.CONTINUE and not step.blind
    ]
    if (stopped := other.stopped) is not None:
        lines.append(f"With this policy the release ends at {stopped.step}: {stopped.replayed.reason}.")
    else:
        lines.append("With this policy nothing in the record stops the release.")
    return lines
