"""May this candidate replace the champion? A pure decision from the metrics of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from operators.core.frozen import Frozen
from operators.core.spec_training import Gate
from operators.core.tasks import HIGHER_IS_BETTER


class GateDecision(Frozen):
    """The answer, and every reason against the candidate. It passes if there is none."""

    passed: bool
    reasons: tuple[str, ...]
    metric: str
    challenger: float
    champion: float | None


def decide(
    gate: Gate, *, rows: int, challenger: Mapping[str, float], champion: Mapping[str, float] | None
) -> GateDecision:
    """Compare the challenger with the limits of the spec and, where there is one, with the champion.

    Both were measured on the same ``rows``. A challenger may be worse by ``gate.margin`` at most (non-inferiority).

    :param rows: labelled rows of the holdout
    :param champion: None if there is no champion yet
    """
    reasons = list(_objections(gate, rows, challenger, champion))
    return GateDecision(
        passed=not reasons,
        reasons=tuple(reasons),
        metric=gate.metric,
        challenger=challenger[gate.metric],
        champion=None if champion is None else champion[gate.metric],
    )


def _objections(
    gate: Gate, rows: int, challenger: Mapping[str, float], champion: Mapping[str, float] | None
) -> Iterator[str]:
    if rows < gate.min_rows:
        yield f"the holdout has {rows} labelled rows; the gate asks for {gate.min_rows}"
    for name, bounds in gate.require.items():
        value = challenger[name]
        if bounds.min is not None and value < bounds.min:
            yield f"{name} is {value:.4f}; the least allowed is {bounds.min}"
        if bounds.max is not None and value > bounds.max:
            yield f"{name} is {value:.4f}; the most allowed is {bounds.max}"
    if champion is not None:
        ours, theirs = challenger[gate.metric], champion[gate.metric]
        worse_by = theirs - ours if HIGHER_IS_BETTER[gate.metric] else ours - theirs
        if worse_by > gate.margin:
            yield (
                f"{gate.metric} is {ours:.4f}, {worse_by:.4f} worse than the champion's {theirs:.4f}; "
                f"the margin is {gate.margin}"
            )
