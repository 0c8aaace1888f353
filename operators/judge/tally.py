"""From the edge's counters to evidence: gains since the release began, by weight. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from operators.core.traffic import Counters, EdgeReading, Key, Row
from operators.judge.evidence import Arm, Kind, Period


@dataclass(frozen=True)
class Tally:
    """What the edges have counted since a step began, while edges restart, join and leave.

    Each edge is followed separately. If an edge restarted or joined after the step began, all of its new counters count.
    Otherwise nobody knows how much of them is older than the step, so only what is added from now on counts.

    :param now: the last reading
    :param seen: the last reading of each edge that answered
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
        """Add a later reading."""
        seen, gained = dict(self.seen), dict(self.gained)
        for edge in counters.edges:
            if edge.since is None:
                continue
            for row in _gains(seen.get(edge.edge), edge):
                gained[row.key] = row.plus(gained[row.key]) if row.key in gained else row
            seen[edge.edge] = edge
        return Tally(counters, seen, gained)

    def periods(
        self, kind: Kind, *, canary: str, stable: str, weights_bp: Sequence[int], pool_bp: int = 10_000
    ) -> tuple[Period, ...]:
        """Return the evidence of both arms for each weight.

        :param kind: after a promotion, at the edge the new version is stable and the old one keeps a canary's weight; for the
            judge, the new one is still the canary
        :param weights_bp: weights that the phase has had, oldest first
        :param pool_bp: share of the units that may see a canary: those that are not held out
        """
        return tuple(
            Period(
                kind=kind,
                weight_bp=weight_bp,
                weight=weight_of(kind, weight_bp, pool_bp),
                stable=self._arm(kind, stable, "canary" if kind == "watch" else "stable", weight_bp, weights_bp),
                canary=self._arm(kind, canary, "stable" if kind == "watch" else kind, weight_bp, weights_bp),
            )
            for weight_bp in weights_bp
        )

    def _arm(self, kind: Kind, version: str, arm: str, weight_bp: int, weights_bp: Sequence[int]) -> Arm:
        if kind == "shadow":  # a copy is of whatever stable answers, at all weights
            return _arm(_sum(row for row in self.gained.values() if (row.version, row.arm) == (version, arm)))
        newest = kind == "canary" and weight_bp == weights_bp[-1]
        in_flight = self.now.in_flight.get(version, 0) if newest else 0
        return _arm(self.gained.get((version, arm, weight_bp)), in_flight)


def weight_of(kind: Kind, weight_bp: int, pool_bp: int = 10_000) -> float:
    """Return the canary's share of the units that count: how likely a bad event is the canary's if it is no worse.

    A shadow answers copies. With a share s of the units answered by both, s / (1 + s) of the bad events are the shadow's. If
    both fail on the same request, each arm counts one, which favours neither.
    """
    share = weight_bp / 10_000
    return share / (1 + share) if kind == "shadow" else 1 - share if kind == "watch" else weight_bp / pool_bp


def _gains(before: EdgeReading | None, now: EdgeReading) -> Iterator[Row]:
    if before is None:
        rows = () if now.new else now.rows
    elif before.since is None:
        rows = now.rows
    else:
        rows = before.rows if before.since == now.since else ()
    known = {row.key: row for row in rows}
    return (row.gain(known.get(row.key)) for row in now.rows)


def overdue(past: Counters, now: Counters, version: str) -> int:
    """Return how many of a version's requests under way count as late, though no edge has counted them yet.

    The edge cuts off a canary at its deadline and counts a failure; it counts stable only when stable answers. If the whole
    machine stalls for a moment, the canary would look worse. So if a request that began before ``past`` is still under way on
    an edge, all requests under way on this edge count as late. An edge that did not answer both times, or restarted in between,
    has none.

    :param past: a reading that is at least as old as the canary's deadline
    """
    before = {(edge.edge, edge.since): edge for edge in past.edges}
    asked = [edge for edge in now.edges if edge.since is not None and (edge.edge, edge.since) in before]
    both = ((before[edge.edge, edge.since], edge) for edge in asked)
    return sum(edge.in_flight.get(version, 0) for then, edge in both if _is_stuck(then, edge, version))


def _is_stuck(past: EdgeReading, now: EdgeReading, version: str) -> bool:
    then, answered = (sum(row.requests for row in edge.rows if row.version == version) for edge in (past, now))
    return 0 <= answered - then < past.in_flight.get(version, 0)


def with_overdue(periods: Sequence[Period], count: int) -> tuple[Period, ...]:
    """Count requests that are under way to stable as late, in the newest period.

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
    """Add gains to what was known before, period by period."""
    known = {period.key: period for period in earlier}
    for period in gained:
        before = known.pop(period.key, None)
        if before is not None:
            arms = {"stable": _plus(before.stable, period.stable), "canary": _plus(before.canary, period.canary)}
            period = period.model_copy(update=arms)
        known[period.key] = period
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
        # The units already include a failure that the fallback repaired.
        unanswered=in_flight + max(0, row.fallbacks - row.failures),
    )
