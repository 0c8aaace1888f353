"""From the edge's counters to evidence: gains since the release began, by weight. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from operators.rollout.evidence import Arm, Period

_COUNTS = (
    "requests",
    "failures",
    "fallbacks",
    "slow",
    "units",
    "failed_units",
    "slow_units",
    "failed_first",
    "slow_first",
)
Latency = tuple[tuple[float | None, int], ...]
"""(upper bound in ms, answers in that bucket), bounds rising; the last bound is None: infinite."""


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True)


class Row(_Fact):
    """What one version did on one arm while the canary's weight was this."""

    version: str
    arm: str
    weight_bp: int = 0
    requests: int = 0
    failures: int = 0
    fallbacks: int = 0
    slow: int = 0
    units: int = 0
    failed_units: int = 0
    slow_units: int = 0
    failed_first: int = 0
    slow_first: int = 0
    latency: Latency = ()

    @property
    def key(self) -> tuple[str, str, int]:
        """What names the row."""
        return self.version, self.arm, self.weight_bp

    def plus(self, other: Row, sign: int = 1) -> Row:
        """Add another row's counts, or take them away."""
        sums = {name: getattr(self, name) + sign * getattr(other, name) for name in _COUNTS}
        theirs = dict(other.latency)
        bounds = self.latency or tuple((bound, 0) for bound, _ in other.latency)
        latency = tuple((bound, count + sign * theirs.get(bound, 0)) for bound, count in bounds)
        return self.model_copy(update={**sums, "latency": latency})


class Counters(_Fact):
    """All rows of a model at one moment.

    :param since: changes when the counting begins anew, because HAProxy was started again
    :param in_flight: requests under way, by version
    """

    since: str
    rows: tuple[Row, ...] = ()
    in_flight: dict[str, int] = Field(default_factory=dict)

    def of(self, *versions: str) -> Counters:
        """Return what is needed to take differences for these versions; it travels in a trigger's arguments."""
        rows = tuple(row.model_copy(update={"latency": ()}) for row in self.rows if row.version in versions)
        return Counters(since=self.since, rows=rows)


class Tally(_Fact):
    """Gains since a step began, also over a restart of the counters.

    :param before: the rows when it began, or none after a restart
    :param carried: gains that restarts have taken from the counters
    :param now: the last reading
    """

    before: Counters
    carried: tuple[Row, ...] = ()
    now: Counters

    @classmethod
    def begin(cls, counters: Counters) -> Tally:
        """Start at this reading."""
        return cls(before=counters, now=counters)

    def advance(self, counters: Counters) -> Tally:
        """Take in a later reading."""
        if counters.since == self.now.since:
            return self.model_copy(update={"now": counters})
        nothing = Counters(since=counters.since)
        return Tally(before=nothing, carried=tuple(self.gains().values()), now=counters)

    def gains(self) -> dict[tuple[str, str, int], Row]:
        """Return what was gained, by version, arm and weight."""
        gained = {row.key: row for row in self.now.rows}
        for row in self.before.rows:
            if row.key in gained:
                gained[row.key] = gained[row.key].plus(row, -1)
        for row in self.carried:
            gained[row.key] = row.plus(gained[row.key]) if row.key in gained else row
        return gained

    def periods(
        self, *, canary: str, stable: str, weights_bp: Iterable[int], pool_bp: int = 10_000
    ) -> tuple[Period, ...]:
        """Return the evidence of both arms for each weight.

        :param weights_bp: the weights that the release has had, oldest first
        :param pool_bp: share of the units that may see a canary: those that are not held out
        """
        gains, weights = self.gains(), tuple(weights_bp)

        def arm(version: str, name: str, weight_bp: int) -> Arm:
            busy = self.now.in_flight.get(version, 0) if weight_bp == weights[-1] else 0
            return _arm(gains.get((version, name, weight_bp)), busy)

        return tuple(
            Period(weight=bp / pool_bp, stable=arm(stable, "stable", bp), canary=arm(canary, "canary", bp))
            for bp in weights
        )


def control_period(tally: Tally, *, new: str, old: str, control_bp: int) -> Period:
    """Return the evidence after a promotion: the new version has nearly all, the old one keeps a control group.

    At the edge the old version is the canary then; for the judge, the new one still is.
    """
    gains = tally.gains()
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
    gains = tally.gains()
    share = shadow_bp / 10_000
    return Period(
        weight=share / (1 + share),
        stable=_arm(_sum(row for row in gains.values() if (row.version, row.arm) == (stable, "stable"))),
        canary=_arm(_sum(row for row in gains.values() if (row.version, row.arm) == (shadow, "shadow"))),
    )


def overdue(past: Counters, now: Counters, version: str) -> int:
    """Return how many of a version's requests to take for late ones that nobody has counted yet.

    A canary is cut off at its deadline and counted; stable is counted when it answers. In a moment in which everything stands
    still the canary would look worse. If a request from before ``past`` is still under way, all of them are taken for late.

    :param past: a reading that is as old as the canary's deadline, or older
    """
    waiting = now.in_flight.get(version, 0)
    if not waiting or past.since != now.since:
        return 0
    answered = sum(row.requests for row in now.rows if row.version == version)
    answered -= sum(row.requests for row in past.rows if row.version == version)
    return waiting if past.in_flight.get(version, 0) > answered else 0


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


def quantile_ms(rows: Iterable[Row], q: float) -> float | None:
    """Return the upper bound of the bucket that holds the quantile of all rows' answers; None without answers.

    :param q: above 0 and below 1
    """
    counts: dict[float, int] = {}
    for row in rows:
        for bound, count in row.latency:
            upper = float("inf") if bound is None else bound
            counts[upper] = counts.get(upper, 0) + count
    return _quantile(counts, q)


def _quantile(counts: Mapping[float, int], q: float) -> float | None:
    total, seen = sum(counts.values()), 0
    for bound in sorted(counts):
        seen += counts[bound]
        if total and seen >= q * total:
            return bound
    return None
