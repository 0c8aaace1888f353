"""From the edge's counters to evidence: gains since the release began, by weight. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from operators.core.traffic import Counters, EdgeReading, Key, Row
from operators.judge.evidence import Arm, Period


@dataclass(frozen=True)
class Tally:
    """Gains since a step began, over restarts, comings and goings of edges.

    Each edge is followed by itself. A counting that is seen for the first time has gained all that it shows if it must have
    begun after the step: its edge had another one before, or joined later and had counted nothing. Of any other nobody knows
    how much is older than the step, so its gains begin at the first sight.

    :param now: the last reading
    :param seen: of each edge, the last reading that could be had
    :param gained: by version, arm and weight
    """

    now: Counters
    seen: Mapping[str, EdgeReading]
    gained: Mapping[Key, Row] = field(default_factory=dict)

    @classmethod
    def begin(cls, counters: Counters) -> Tally:
        """Start at this reading."""
        return cls(counters, {edge.edge: edge for edge in counters.edges})

    def advance(self, counters: Counters) -> Tally:
        """Take in a later reading."""
        seen, gained = dict(self.seen), dict(self.gained)
        for edge in counters.edges:
            if edge.since is None:
                continue
            for row in _gains(seen.get(edge.edge), edge):
                gained[row.key] = row.plus(gained[row.key]) if row.key in gained else row
            seen[edge.edge] = edge
        return Tally(counters, seen, gained)

    def periods(
        self, *, canary: str, stable: str, weights_bp: Iterable[int], pool_bp: int = 10_000
    ) -> tuple[Period, ...]:
        """Return the evidence of both arms for each weight.

        :param weights_bp: the weights that the release has had, oldest first
        :param pool_bp: share of the units that may see a canary: those that are not held out
        """
        weights = tuple(weights_bp)

        def arm(version: str, name: str, weight_bp: int) -> Arm:
            busy = self.now.in_flight.get(version, 0) if weight_bp == weights[-1] else 0
            return _arm(self.gained.get((version, name, weight_bp)), busy)

        return tuple(
            Period(weight=bp / pool_bp, stable=arm(stable, "stable", bp), canary=arm(canary, "canary", bp))
            for bp in weights
        )


def _gains(before: EdgeReading | None, now: EdgeReading) -> Iterator[Row]:
    if before is None:
        rows = () if now.new else now.rows
    elif before.since is None:
        rows = now.rows
    else:
        rows = before.rows if before.since == now.since else ()
    known = {row.key: row for row in rows}
    return (row.gain(known.get(row.key)) for row in now.rows)


def control_period(tally: Tally, *, new: str, old: str, control_bp: int) -> Period:
    """Return the evidence after a promotion: the new version has nearly all, the old one keeps a control group.

    At the edge the old version is the canary then; for the judge, the new one still is.
    """
    gains = tally.gained
    return Period(
        weight=1 - control_bp / 10_000,
        stable=_arm(gains.get((old, "canary", control_bp))),
        canary=_arm(gains.get((new, "stable", control_bp))),
    )


def shadow_period(tally: Tally, *, shadow: str, stable: str, shadow_bp: int) -> Period:
    """Return the evidence of a shadow, which answers copies of what stable answers.

    A share s of the units is answered by both. Of events that each version has by itself, s / (1 + s) are the shadow's if it
    is no worse; where both fail on the same request, one is on either side, which is evidence for neither.
    """
    gains = tally.gained
    share = shadow_bp / 10_000
    return Period(
        weight=share / (1 + share),
        stable=_arm(_sum(row for row in gains.values() if (row.version, row.arm) == (stable, "stable"))),
        canary=_arm(_sum(row for row in gains.values() if (row.version, row.arm) == (shadow, "shadow"))),
    )


def overdue(past: Counters, now: Counters, version: str) -> int:
    """Return how many of a version's requests to take for late ones that nobody has counted yet.

    A canary is cut off at its deadline and counted; stable is counted when it answers. In a moment in which everything stands
    still the canary would look worse. If a request from before ``past`` is still under way on an edge, all of that edge's are
    taken for late. An edge that was not asked both times, or has begun anew in between, has none.

    :param past: a reading that is as old as the canary's deadline, or older
    """
    before = {(edge.edge, edge.since): edge for edge in past.edges}
    asked = [edge for edge in now.edges if edge.since is not None and (edge.edge, edge.since) in before]
    both = ((before[edge.edge, edge.since], edge) for edge in asked)
    return sum(edge.in_flight.get(version, 0) for then, edge in both if _is_stuck(then, edge, version))


def _is_stuck(past: EdgeReading, now: EdgeReading, version: str) -> bool:
    then, answered = (sum(row.requests for row in edge.rows if row.version == version) for edge in (past, now))
    return 0 <= answered - then < past.in_flight.get(version, 0)


def with_overdue(periods: Sequence[Period], count: int) -> tuple[Period, ...]:
    """Count requests of stable's that are under way as late ones, in the newest period.

    :param count: as :func:`overdue` returns it
    """
    if not count or not periods:
        return tuple(periods)
    stable = periods[-1].stable
    counted = {
        name: value + count
        for name in ("requests", "failed", "slow", "failed_first", "slow_first")
        if (value := getattr(stable, name)) is not None
    }
    counted["unanswered"] = max(0, stable.unanswered - count)
    return (*periods[:-1], periods[-1].model_copy(update={"stable": stable.model_copy(update=counted)}))


def added(earlier: Sequence[Period], gained: Sequence[Period]) -> tuple[Period, ...]:
    """Add gains to what was known before, weight by weight; weights without either are left out."""
    known = {period.weight: period for period in earlier}
    for period in gained:
        if period.weight in known:
            before = known.pop(period.weight)
            period = period.model_copy(
                update={"stable": _plus(before.stable, period.stable), "canary": _plus(before.canary, period.canary)}
            )
        known[period.weight] = period
    return tuple(known.values())


def _plus(first: Arm, second: Arm) -> Arm:
    names = ("requests", "failed", "slow", "failed_first", "slow_first", "unanswered")
    return second.model_copy(
        update={name: (getattr(first, name) or 0) + (getattr(second, name) or 0) for name in names}
    )


def _sum(rows: Iterable[Row]) -> Row | None:
    total = None
    for row in rows:
        total = row if total is None else total.plus(row)
    return total


def _arm(row: Row | None, in_flight: int = 0) -> Arm:
    if row is None:
        return Arm(requests=0, failed=0, slow=0, unanswered=in_flight)
    return Arm(
        requests=row.units,
        failed=row.failed_units,
        slow=row.slow_units,
        failed_first=row.failed_first,
        slow_first=row.slow_first,
        # A failure that the fallback mended is among the units already.
        unanswered=in_flight + max(0, row.fallbacks - row.failures),
    )
