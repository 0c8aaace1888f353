"""Find the first look that ends a phase. The result is that of asking the judge at each look, but it is asked at fewer.

Counts only grow. So for all looks from one to another there is a worst case for the canary: its own bad units of the later look,
and stable's of the earlier one. The reverse is the best case. If the judge answers Continue to both cases, it does so to every
look between. One thing may show only in between: that the split is not the one in force. So looks at which the split is
doubtful are judged one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from operators.judge.evidence import Outcome, Pairs
from operators.judge.statistics import sample_ratio
from operators.planning.simulation.feeds import ARM_COLUMNS, REQUESTS
from operators.planning.simulation.phase_judge import GO_ON, PhaseJudge, SimulatedLook, Verdict

_SPLIT_IS_DOUBTFUL = log(100)  # far below the judge's threshold
_FIRST = 4  # looks that are searched first: most often they show a version that fails everything
_FEW = 2


def first_verdict(judge: PhaseJudge, looks: Sequence[SimulatedLook]) -> tuple[int, Verdict]:
    """Return the index of the look that ends the phase, and its verdict; if none does, the last index and ``GO_ON``."""
    weight = judge.phase.weight
    doubtful = [
        sample_ratio.log_e(look.row[ARM_COLUMNS + REQUESTS], look.row[REQUESTS], weight) > _SPLIT_IS_DOUBTFUL
        for look in looks
    ]
    begin, size, last = 0, _FIRST, None
    while begin < len(looks) and last is None:
        end = min(begin + size, len(looks))
        last = _search(judge, looks, doubtful, begin, end)
        begin, size = end, 2 * size
    index, verdict = last or (len(looks) - 1, GO_ON)
    judge.clock.looks += index + 1
    return index, verdict


def _search(
    judge: PhaseJudge, looks: Sequence[SimulatedLook], doubtful: Sequence[bool], begin: int, end: int
) -> tuple[int, Verdict] | None:
    if end - begin <= _FEW:
        for index in range(begin, end):
            verdict = judge.verdict(looks[index])
            if verdict is not GO_ON:
                return index, verdict
        return None
    if not any(doubtful[begin:end]) and not _may_end(judge, looks[begin], looks[end - 1]):
        return None
    middle = (begin + end) // 2
    return _search(judge, looks, doubtful, begin, middle) or _search(judge, looks, doubtful, middle, end)


def _may_end(judge: PhaseJudge, first: SimulatedLook, last: SimulatedLook) -> bool:
    """Return whether a look from the first to the last may end the phase."""
    if first.pairs and last.pairs and first.pairs.blocks != last.pairs.blocks:
        return True  # it is not known which version a block favours that has ended in between
    if judge.ask(_mixed(stable=first, canary=last, last=last)).outcome is not Outcome.CONTINUE:
        return True
    if last.elapsed_s < judge.phase.bake_s or judge.phase.kind == "watch":
        return False  # only a failure can end it so early
    return judge.ask(_mixed(stable=last, canary=first, last=last)).outcome is not Outcome.CONTINUE


def _mixed(*, stable: SimulatedLook, canary: SimulatedLook, last: SimulatedLook) -> SimulatedLook:
    """Return a look with stable's bad units of one look, the canary's of another, and the number of units of the last."""
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
