"""Find the first look that has a verdict without asking the judge at each. The answer is the same.

Counts only grow. So between two looks nothing is worse for the canary than its own bad units of the later one and stable's of
the earlier one, and nothing better than the reverse. If the judge goes on for both, it goes on for all looks between them. Only
a split that is not the one asked for may show in between: looks at which it comes near are asked about one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from operators.judge.evidence import Outcome, Pairs
from operators.judge.statistics import sample_ratio
from operators.planning.simulation.feeds import ARM_COLUMNS, REQUESTS
from operators.planning.simulation.phase_judge import GO_ON, Judged, SimulatedLook, Verdict

_SPLIT_IS_DOUBTFUL = log(100)  # far below what the judge asks for
_FIRST = 4  # looks that are searched first: a version that fails everything is found among them
_FEW = 2


def first_verdict(judged: Judged, looks: Sequence[SimulatedLook]) -> tuple[int, Verdict]:
    """Return which look ends the phase, and how; else the last one and ``GO_ON``."""
    weight = judged.phase.weight
    doubtful = [
        sample_ratio.log_e(look.row[ARM_COLUMNS + REQUESTS], look.row[REQUESTS], weight) > _SPLIT_IS_DOUBTFUL
        for look in looks
    ]
    begin, size, found = 0, _FIRST, None
    while begin < len(looks) and found is None:
        end = min(begin + size, len(looks))
        found = _search(judged, looks, doubtful, begin, end)
        begin, size = end, 2 * size
    index = len(looks) - 1 if found is None else found[0]
    judged.clock.looks += index + 1
    return index, GO_ON if found is None else found[1]


def _search(
    judged: Judged, looks: Sequence[SimulatedLook], doubtful: Sequence[bool], begin: int, end: int
) -> tuple[int, Verdict] | None:
    if end - begin <= _FEW:
        for index in range(begin, end):
            verdict = judged.verdict(looks[index])
            if verdict is not GO_ON:
                return index, verdict
        return None
    if not any(doubtful[begin:end]) and not _may_end(judged, looks[begin], looks[end - 1]):
        return None
    middle = (begin + end) // 2
    return _search(judged, looks, doubtful, begin, middle) or _search(judged, looks, doubtful, middle, end)


def _may_end(judged: Judged, first: SimulatedLook, last: SimulatedLook) -> bool:
    """Return whether a look from the first to the last may have a verdict."""
    if first.pairs and last.pairs and first.pairs.blocks != last.pairs.blocks:
        return True  # of a block that has passed in between it is not known for whom it speaks
    if judged.ask(_mixed(stable=first, canary=last, last=last)).outcome is not Outcome.CONTINUE:
        return True
    if last.elapsed_s < judged.phase.bake_s or judged.phase.kind == "watch":
        return False  # too early for a success, and nothing else is left
    return judged.ask(_mixed(stable=last, canary=first, last=last)).outcome is not Outcome.CONTINUE


def _mixed(*, stable: SimulatedLook, canary: SimulatedLook, last: SimulatedLook) -> SimulatedLook:
    """Return a look with the bad units of the arms from different looks, and as many units as at the last."""
    row = [*stable.row[:ARM_COLUMNS], *canary.row[ARM_COLUMNS:]]
    row[REQUESTS] = last.row[REQUESTS]
    row[ARM_COLUMNS + REQUESTS] = last.row[ARM_COLUMNS + REQUESTS]
    pairs = None
    if stable.pairs and canary.pairs and last.pairs:
        pairs = Pairs.model_construct(
            total=last.pairs.total,
            stable_only_wrong=stable.pairs.stable_only_wrong,
            canary_only_wrong=canary.pairs.canary_only_wrong,
            answered=last.pairs.total,
            blocks=last.pairs.blocks,
        )
    return SimulatedLook(row, last.elapsed_s, pairs)
