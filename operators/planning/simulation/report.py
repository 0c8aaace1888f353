"""A summary of the simulated releases of one scenario. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import sqrt

from operators.core.frozen import Frozen
from operators.planning.simulation.engine import Run
from operators.planning.simulation.runner import Batch
from operators.planning.simulation.traffic_model import TrafficModel

_Z = 1.959964  # 95 %, two-sided


class Share(Frozen):
    """A share of the releases.

    :param low: lower end of its 95 % confidence interval
    :param high: upper end
    """

    count: int
    share: float
    low: float
    high: float


class Spread(Frozen):
    """How a number varies over the releases: in half of them it is at most ``median``, in nine of ten at most ``p90``."""

    mean: float
    median: float
    p90: float


class Summary(Frozen):
    """What happened in the simulated releases of one scenario.

    :param false_alarms: rollbacks, if the version is as good as stable; None: it is not
    :param found_s: seconds from the moment at which the version became bad to the rollback
    :param found_units: the canary's units until the rollback
    :param exposed_units: callers that the new version answered at least once
    :param exposed_requests: callers' requests that were sent to the new version; the fallback hides those that it failed
    :param harmed_requests: how many more of these failed or were slow than stable would have had
    :param promoted_after_s: seconds to the promotion, for the releases that were promoted
    :param ends: how many releases ended at which phase by which guard; without those that were promoted
    :param looks: number of looks
    :param asked: how often the judge was asked; at the other looks its answer could only be Continue
    :param judge_us: mean time of one answer in microseconds
    """

    scenario: str
    meaning: str
    releases: int
    promoted: Share
    rolled_back: Share
    inconclusive: Share
    false_alarms: Share | None
    found_s: Spread | None
    found_units: Spread | None
    exposed_units: Spread
    exposed_requests: Spread
    harmed_requests: float
    promoted_after_s: Spread | None
    ends: dict[str, int]
    looks: int
    asked: int
    judge_us: float
    releases_per_minute: float


def summarise(batch: Batch, load: TrafficModel) -> Summary:
    """Return the summary of a batch.

    :param load: says how many of stable's answers are bad
    """
    runs = batch.runs
    by_end = {end: [run for run in runs if run.end == end] for end in ("promoted", "rolled back", "inconclusive")}
    shares = {end: share_of(len(some), len(runs)) for end, some in by_end.items()}
    back = by_end["rolled back"]
    base = load.error_rate + load.slow_rate
    requests = sum(run.canary_requests for run in runs)
    harmed = sum(run.canary_bad for run in runs) - base * requests
    return Summary(
        scenario=batch.scenario.name,
        meaning=batch.scenario.meaning,
        releases=len(runs),
        promoted=shares["promoted"],
        rolled_back=shares["rolled back"],
        inconclusive=shares["inconclusive"],
        false_alarms=shares["rolled back"] if batch.scenario.harmless else None,
        found_s=_spread([run.found_s for run in back if run.found_s is not None]),
        found_units=_spread([run.found_units for run in back if run.found_units is not None]),
        exposed_units=_spread([run.exposed_units for run in runs]) or Spread(mean=0, median=0, p90=0),
        exposed_requests=_spread([run.canary_requests for run in runs]) or Spread(mean=0, median=0, p90=0),
        harmed_requests=0.0 if batch.scenario.harmless else max(0.0, harmed / len(runs)),
        promoted_after_s=_spread([run.lasted_s for run in by_end["promoted"]]),
        ends=dict(Counter(_where(run) for run in runs if run.end != "promoted").most_common()),
        looks=batch.clock.looks,
        asked=batch.clock.asked,
        judge_us=round(1e6 * batch.clock.spent_s / batch.clock.asked, 1),
        releases_per_minute=round(60 * len(runs) / batch.wall_s),
    )


def share_of(count: int, total: int) -> Share:
    """Return a share with its confidence interval (Wilson, "Probable inference", JASA 22, 1927)."""
    share = count / total
    spread = _Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    low = 0.0 if count == 0 else max(0.0, middle - half)
    high = 1.0 if count == total else min(1.0, middle + half)
    return Share(count=count, share=share, low=low, high=high)


def _spread(numbers: Sequence[float]) -> Spread | None:
    if not numbers:
        return None
    ordered = sorted(numbers)
    return Spread(
        mean=round(sum(ordered) / len(ordered), 2),
        median=ordered[(len(ordered) - 1) // 2],
        p90=ordered[-(-9 * len(ordered) // 10) - 1],
    )


def _where(run: Run) -> str:
    if run.end == "inconclusive":
        return f"inconclusive at {run.phase}: {run.why}"
    after = "after the promotion" if run.phase == "watch" else f"at {run.phase}"
    return f"rolled back {after} by {run.why}"
