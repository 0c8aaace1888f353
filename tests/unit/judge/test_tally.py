from __future__ import annotations

from datetime import UTC, datetime

import pytest

from operators.core.spec_operations import Freeze, Outage
from operators.core.traffic import Counters, EdgeReading, Row
from operators.judge.evidence import Arm, Period
from operators.judge.tally import Tally, added, overdue, with_overdue
from operators.rollout.freeze import frozen_until
from tests.support.readings import counted


def row(version: str, arm: str, weight_bp: int, units: int, failed: int = 0, **more: int) -> Row:
    counts = {"units": units, "requests": units, "failed_units": failed, "failed_first": failed, **more}
    return Row(version=version, arm=arm, weight_bp=weight_bp, **counts)


def edge(name: str, since: str | None, *rows: Row, new: bool = False, **in_flight: int) -> EdgeReading:
    return EdgeReading(edge=name, since=since, new=new, rows=rows, in_flight=in_flight)


def units(tally: Tally) -> int:
    return sum(row.units for row in tally.gained.values())


def test_gains_are_counted_by_weight_and_from_the_beginning_of_the_step() -> None:
    before = counted(row("1", "stable", 500, 100, 3), row("2", "canary", 500, 7))
    tally = Tally.begin(before).advance(
        counted(row("1", "stable", 500, 150, 4), row("2", "canary", 500, 9), row("2", "canary", 2500, 5, 5))
    )
    first, second = tally.periods("canary", canary="2", stable="1", weights_bp=(500, 2500))
    assert (first.weight, first.stable.requests, first.stable.failed, first.canary.requests) == (0.05, 50, 1, 2)
    assert (second.weight, second.canary.failed, second.stable.requests) == (0.25, 5, 0)


def test_a_restart_of_the_counters_loses_nothing_that_was_seen() -> None:
    tally = Tally.begin(counted(row("1", "stable", 500, 100)))
    tally = tally.advance(counted(row("1", "stable", 500, 140, 2)))
    tally = tally.advance(counted(row("1", "stable", 500, 10), since="two"))
    tally = tally.advance(counted(row("1", "stable", 500, 30, 1), since="two"))
    tally = tally.advance(counted(since="three"))
    (period,) = tally.periods("canary", canary="2", stable="1", weights_bp=(500,))
    assert (period.stable.requests, period.stable.failed) == (70, 3)


def test_an_edge_that_begins_anew_does_not_bring_in_what_the_others_counted_before() -> None:
    tally = Tally.begin(
        Counters(edges=(edge("a", "x", row("1", "stable", 0, 50)), edge("b", "y", row("1", "stable", 0, 1000))))
    )
    tally = tally.advance(
        Counters(edges=(edge("a", "x", row("1", "stable", 0, 90)), edge("b", "y", row("1", "stable", 0, 1010))))
    )
    tally = tally.advance(
        Counters(edges=(edge("a", "z", row("1", "stable", 0, 10)), edge("b", "y", row("1", "stable", 0, 1050))))
    )
    assert units(tally) == 100


def test_an_edge_that_could_not_be_asked_goes_on_where_it_was() -> None:
    tally = Tally.begin(Counters(edges=(edge("a", "x", row("1", "stable", 0, 50)), edge("b", None))))
    tally = tally.advance(Counters(edges=(edge("a", None), edge("b", "y", row("1", "stable", 0, 700)))))
    assert units(tally) == 0  # how much of b's is older, nobody knows
    tally = tally.advance(Counters(edges=(edge("b", "y", row("1", "stable", 0, 703)),)))
    tally = tally.advance(Counters(edges=(edge("a", "x", row("1", "stable", 0, 55)), edge("b", "y"))))
    assert units(tally) == 5 + 3


@pytest.mark.parametrize(("new", "gained"), [(True, 7), (False, 0)])
def test_only_an_edge_that_joins_with_nothing_counted_has_gained_all_that_it_shows(new: bool, gained: int) -> None:
    joined = Counters(edges=(edge("b", "y", row("1", "stable", 0, 7), new=new),))
    assert units(Tally.begin(Counters()).advance(joined)) == gained
    named = Counters(edges=(edge("b", None, new=new),))  # it joined before, and may have counted before
    assert units(Tally.begin(named).advance(joined)) == 0


def test_a_row_that_was_removed_begins_at_nothing() -> None:
    tally = Tally.begin(counted(row("1", "stable", 0, 10), row("2", "canary", 500, 100)))
    tally = tally.advance(counted(row("1", "stable", 0, 11), row("2", "canary", 500, 4)))
    tally = tally.advance(counted(row("1", "stable", 0, 12)))
    tally = tally.advance(counted(row("1", "stable", 0, 13), row("2", "canary", 500, 5)))
    assert {key: row.units for key, row in tally.gained.items()} == {("1", "stable", 0): 3, ("2", "canary", 500): 9}


def test_what_travels_is_only_what_differences_need() -> None:
    rows = (row("1", "stable", 0, 1), row("1", "fallback", 0, 1), row("9", "stable", 0, 1), row("2", "shadow", 0, 1))
    (found,) = counted(*rows, in_flight={"1": 3}).of("1", "2").edges
    assert found == edge("a", "one", rows[0], rows[3])


def test_what_was_assigned_and_is_not_counted_is_known() -> None:
    rows = (
        row("1", "stable", 500, 100),
        row("2", "canary", 500, 7, 3, failures=3, fallbacks=10),
        row("2", "canary", 300, 1),
    )
    now = counted(*rows, in_flight={"1": 2, "2": 4})
    older, newest = Tally.begin(counted()).advance(now).periods("canary", canary="2", stable="1", weights_bp=(300, 500))
    assert (newest.stable.unanswered, newest.canary.unanswered) == (2, 4 + 7)  # three of the ten had failed before
    assert older.canary.unanswered == 0


@pytest.mark.parametrize(
    ("past", "answered", "waiting", "expected"),
    [
        (0, 50, 5, 0),  # nothing was under way then
        (5, 5, 7, 0),  # all that were under way then may have been answered
        (5, 4, 7, 7),  # one of them was not
        (5, 0, 0, 0),  # its caller has left
    ],
)
def test_requests_are_overdue_if_one_from_before_is_still_under_way(
    past: int, answered: int, waiting: int, expected: int
) -> None:
    def reading(requests: int, busy: int) -> Counters:
        return counted(row("1", "stable", 500, requests), in_flight={"1": busy})

    assert overdue(reading(100, past), reading(100 + answered, waiting), "1") == expected
    assert overdue(counted(since="other", in_flight={"1": 9}), reading(0, 9), "1") == 0


def test_requests_are_overdue_on_the_edge_where_one_is_stuck() -> None:
    def reading(*edges: EdgeReading) -> Counters:
        return Counters(edges=edges, in_flight={"1": 99})

    def one(name: str, since: str | None, requests: int, busy: int) -> EdgeReading:
        return EdgeReading(edge=name, since=since, rows=(row("1", "stable", 0, requests),), in_flight={"1": busy})

    past = reading(one("a", "x", 100, 5), one("b", "y", 100, 5))
    assert overdue(past, reading(one("a", "x", 101, 6), one("b", "y", 900, 7)), "1") == 6  # the busy edge hides nothing
    assert overdue(past, reading(one("a", "x", 900, 6), one("b", "z", 1, 7)), "1") == 0  # began anew
    assert overdue(past, reading(one("a", "x", 900, 6), one("b", None, 100, 5)), "1") == 0  # away
    assert overdue(past, reading(one("a", "x", 900, 6)), "1") == 0  # left
    assert overdue(past, reading(one("a", "x", 0, 6)), "1") == 0  # its row was removed


def test_overdue_requests_count_as_late_in_the_newest_period() -> None:
    arm = Arm(requests=10, failed=1, slow=None, failed_first=1, slow_first=None, unanswered=7)
    old, new = with_overdue([Period(weight=0.1, stable=arm), Period(weight=0.2, stable=arm)], 5)
    assert old.stable == arm
    assert new.stable == Arm(requests=15, failed=6, slow=None, failed_first=6, slow_first=None, unanswered=2)
    assert new.canary == Arm()
    assert with_overdue([], 5) == ()


def test_held_out_units_are_not_in_the_pool() -> None:
    (period,) = Tally.begin(counted()).periods("canary", canary="2", stable="1", weights_bp=(500,), pool_bp=9000)
    assert period.weight == pytest.approx(500 / 9000)


def test_after_the_promotion_the_new_version_is_still_the_one_on_trial() -> None:
    tally = Tally.begin(counted()).advance(counted(row("2", "stable", 100, 990, 9), row("1", "canary", 100, 10)))
    (period,) = tally.periods("watch", canary="2", stable="1", weights_bp=(100,))
    assert period.key == ("watch", 100)
    assert (period.weight, period.canary.requests, period.canary.failed, period.stable.requests) == (0.99, 990, 9, 10)


def test_a_shadow_shares_its_units_with_stable() -> None:
    tally = Tally.begin(counted()).advance(
        counted(row("1", "stable", 0, 100), row("1", "stable", 500, 1), row("2", "shadow", 0, 50, 2))
    )
    (period,) = tally.periods("shadow", canary="2", stable="1", weights_bp=(5000,))
    assert period.key == ("shadow", 5000)
    assert period.weight == pytest.approx(1 / 3)
    assert (period.stable.requests, period.canary.requests, period.canary.failed) == (101, 50, 2)


def test_what_was_known_is_added_weight_by_weight() -> None:
    def period(weight_bp: int, requests: int) -> Period:
        arms = {"stable": Arm(requests=requests, failed=1), "canary": Arm(requests=1, failed_first=1)}
        return Period(weight_bp=weight_bp, weight=weight_bp / 10_000, **arms)

    total = added([period(500, 10), period(2500, 20)], [period(2500, 5)])
    assert [(p.weight_bp, p.stable.requests, p.stable.failed, p.canary.failed_first) for p in total] == [
        (500, 10, 1, 1),
        (2500, 25, 2, 2),
    ]


def test_periods_of_one_weight_but_of_two_kinds_are_two() -> None:
    shadow, canary = (Period(kind=kind, weight_bp=5000, weight=0.5) for kind in ("shadow", "canary"))
    assert added([shadow], [canary]) == (shadow, canary)


def test_the_newest_weight_is_last_also_when_it_was_seen_before() -> None:
    old, new = (Period(weight_bp=bp, weight=bp / 10_000) for bp in (2500, 500))
    assert [p.weight_bp for p in added([old, new], [old])] == [500, 2500]


WEEKEND = Freeze.model_validate(
    {"start": "0 16 * * 5", "lasts": "64h", "timezone": "Europe/Paris", "reason": "weekend"}
)
HOLIDAYS = Outage.model_validate({"begin": "2026-12-24T00:00+00:00", "end": "2027-01-02T00:00+00:00"})


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-11-27T14:59+00:00", None),
        ("2026-11-27T15:00+00:00", "2026-11-30T07:00+00:00"),
        ("2026-11-30T06:59+00:00", "2026-11-30T07:00+00:00"),
        ("2026-11-30T07:00+00:00", None),
        # Summer time: four in the afternoon is an hour earlier in UTC.
        ("2026-07-03T13:59+00:00", None),
        ("2026-07-03T14:00+00:00", "2026-07-06T06:00+00:00"),
        ("2026-12-25T20:00+00:00", "2027-01-02T00:00+00:00"),
        ("2027-01-01T18:00+00:00", "2027-01-04T07:00+00:00"),
    ],
)
def test_freezes(now: str, until: str | None) -> None:
    found = frozen_until([WEEKEND, HOLIDAYS], datetime.fromisoformat(now).astimezone(UTC))
    assert (found[0].astimezone(UTC).isoformat(timespec="minutes") if found else None) == until
