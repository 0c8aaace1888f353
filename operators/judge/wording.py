"""The words for what a guard concludes. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from operators.judge.evidence import GuardResult
from operators.judge.statistics.numeric import e_value, significant

Unit = Literal["", "points", "%"]


class Rules(NamedTuple):
    """What all guards have in common.

    :param threshold: the e-value at which a guard fails the release
    :param level: chance of error of each end of an interval
    :param harm_weight: share of the callers that the next step would give the canary
    """

    threshold: float
    level: float
    harm_weight: float

    def margin(self, share: float) -> float:
        """Return the margin on the canary's own units: with it, the next step harms all callers by the spec's margin."""
        return significant(share / self.harm_weight)


class GuardReport(NamedTuple):
    """A guard's result, and in words what it rests on.

    :param facts: what was counted
    :param proven: how much harm is ruled out; empty while nothing is known
    """

    result: GuardResult
    facts: str
    proven: str = ""


def too_few(count: int, needed: int, things: str) -> str:
    """Say how many are needed, or return an empty string."""
    return f"at least {needed:,} {things} are needed" if count < needed else ""


def proven(high: float, margin: float, unit: Unit = "", *, differs: bool = False) -> str:
    """Say how much harm is ruled out.

    :param unit: points or %: the numbers are shares
    :param differs: harm is a difference to either side
    """
    verb = "differs from stable" if differs else "is worse"
    return f"the canary {verb} by at most {_amount(high, unit)}, and the margin is {_amount(margin, unit)}"


def unproven(high: float, margin: float, unit: Unit = "", *, differs: bool = False) -> str:
    """Say that the harm may still be over the margin, or return an empty string; parameters as for :func:`proven`."""
    if high < margin:
        return ""
    verb = "differ from stable" if differs else "be worse"
    return f"the canary may still {verb} by up to {_amount(high, unit)}, and the margin is {_amount(margin, unit)}"


def _amount(value: float, unit: Unit) -> str:
    if not unit:
        return f"{value + 0.0:.3g}"
    number = f"{value * 100 + 0.0:.3g}"
    return f"{number} {'point' if (unit, number) == ('points', '1') else unit}"


def result_of(
    rules: Rules,
    log_e: float,
    bounds: tuple[float, float] | None,
    margin: float,
    missing: str,
    *,
    worst: float | None = None,
) -> GuardResult:
    """Return a guard's result.

    :param bounds: None: not known
    :param worst: what must be below the margin; default: the upper bound
    """
    inside = None if bounds is None else (significant(bounds[0]), significant(bounds[1]))
    refuted = bounds is not None and (bounds[1] if worst is None else worst) < margin
    return GuardResult(
        e=e_value(log_e), threshold=rules.threshold, interval=inside, margin=margin, refuted=refuted, missing=missing
    )


def unknown(rules: Rules, margin: float, missing: str) -> GuardReport:
    """Return the report of a guard that has nothing to go by yet."""
    return GuardReport(result_of(rules, 0.0, None, margin, missing), missing)
