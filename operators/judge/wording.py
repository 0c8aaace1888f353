"""What a guard says, and the words for it. Pure."""

from __future__ import annotations

from typing import NamedTuple

from operators.judge.evidence import Reading
from operators.judge.statistics.numeric import e_value, significant


class Rules(NamedTuple):
    """What all guards have in common.

    :param threshold: of the e-value
    :param level: chance of error of each end of an interval
    :param harm_weight: share of the callers that the next step would give the canary
    """

    threshold: float
    level: float
    harm_weight: float

    def margin(self, share: float) -> float:
        """Return the margin on the canary's own share: what harms all callers by the margin in the next step."""
        return significant(share / self.harm_weight)


class Said(NamedTuple):
    """A reading, and the facts that it rests on in words.

    :param points: whether harm is a share of the units or pairs, and is told in percentage points
    """

    reading: Reading
    facts: str
    points: bool = False

    @property
    def proven(self) -> str:
        """What the interval proves; empty while nothing is known."""
        if self.reading.interval is None or self.reading.margin is None:
            return ""
        return proven_text(self.reading.interval[1], self.reading.margin, points=self.points)


def too_few(count: int, needed: int, word: str) -> str:
    """Say that there are too few, or return an empty string."""
    return f"{count:,} of {needed:,} {word}" if count < needed else ""


def proven_text(high: float, margin: float, *, points: bool) -> str:
    """Say how much harm is excluded."""
    if points:
        return f"harm below {high * 100:.3g} points, {margin * 100:.3g} allowed"
    return f"harm below {high:.3g}, {margin:.3g} allowed"


def unproven(high: float, margin: float, *, points: bool = False) -> str:
    """Say by how much harm is not yet excluded, or return an empty string."""
    return "" if high < margin else f"proven so far: {proven_text(high, margin, points=points)}"


def reading_of(
    rules: Rules,
    log_e: float,
    bounds: tuple[float, float] | None,
    margin: float,
    missing: str,
    *,
    worst: float | None = None,
) -> Reading:
    """Put a reading together.

    :param bounds: None: not known
    :param worst: what must be below the margin; default: the upper bound
    """
    inside = None if bounds is None else (significant(bounds[0]), significant(bounds[1]))
    refuted = bounds is not None and (bounds[1] if worst is None else worst) < margin
    return Reading(
        e=e_value(log_e), threshold=rules.threshold, interval=inside, margin=margin, refuted=refuted, missing=missing
    )
