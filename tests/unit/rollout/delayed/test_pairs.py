"""Which labels count, and what they say."""

from __future__ import annotations

import math
import random
from itertools import pairwise, takewhile

import pytest

from operators.core.spec_judge import Judge
from operators.judge.evidence import Evidence, GuardResult, Losses, LossSums, Moments, Pairs
from operators.judge.policy import judge
from operators.rollout.delayed.business import BusinessNumber, Cohort, moments
from operators.rollout.delayed.pairs import ErrorDifference, Pair, PairTally, RightOrWrong, label_counts


def pair(at: int, arrived: int | None, *, stable: float = 0.9, canary: float = 0.1, label: float = 1.0) -> Pair:
    return Pair(at, at, stable, canary, None if arrived is None else label, arrived)


def value(at: int, arrived: int | None) -> BusinessNumber:
    return BusinessNumber(at, at, 0, False, None if arrived is None else 1.0, arrived)


def test_numbers_count_up_to_the_first_that_is_awaited() -> None:
    rows = [value(0, 5), value(1, None), value(2, 3), value(3, None), value(4, 6)]
    cohort = Cohort(10)
    # 1 is closed without a number; 3 is still awaited, so 4 does not count though it is known.
    assert cohort.take(rows, 12) == [rows[0], rows[2]]
    assert cohort.after == (2, 2)
    assert cohort.take(rows[3:], 13) == [rows[4]]
    assert cohort.after == (4, 4)


def test_a_label_that_came_after_its_time_or_is_from_the_future_does_not_count() -> None:
    assert label_counts(pair(0, 11), now_us=20, within_us=10) is False
    assert label_counts(pair(0, 8), now_us=7, within_us=10) is None
    assert label_counts(pair(0, 8), now_us=8, within_us=10) is True


def settled(rows: list[Pair], *, now_us: int, within_us: int) -> list[tuple[Pair, bool | None]]:
    """The rows before the first that is awaited: what a judge that waits for every label would go by."""
    looked_at = ((row, label_counts(row, now_us=now_us, within_us=within_us)) for row in rows)
    return list(takewhile(lambda one: one[1] is not None, looked_at))


def test_what_labels_say_cannot_choose_which_count() -> None:
    """Every look is a beginning of one sequence, whatever the delays; the labels that are there are not."""
    rng = random.Random(7)
    rows = []
    for at in range(400):
        late = rng.random() < 0.3  # a flight that lands late is known late, or never
        delay = rng.randrange(60, 140) if late else rng.randrange(1, 20)
        rows.append(pair(at, None if rng.random() < 0.05 else at + delay, label=float(late)))
    looks = [settled(rows, now_us=now, within_us=100) for now in range(0, 600, 7)]
    for earlier, later in pairwise(looks):
        assert later[: len(earlier)] == earlier
    assert len(looks[-1]) == 400
    now = 200
    there = [row for row in rows if row.arrived_us is not None and row.arrived_us <= now]
    assert {row.label for row in there if row.at_us > 150} == {0.0}  # whoever takes what is there sees no late flight


def tallied(rows: list[Pair], now: int, *, threshold: float = 0.5, block: int | None = None, within: int = 10) -> Pairs:
    tally = PairTally(RightOrWrong(threshold), begin_us=0, block_us=block, within_us=within)
    tally.take(rows, now_us=now, until_us=now)
    assert isinstance(tally.evidence, Pairs)
    return tally.evidence


def test_pairs_are_counted_by_who_was_wrong() -> None:
    both_right = Pair(0, 0, 0.5, 0.8, 1.0, 0)
    stable_wrong = Pair(1, 1, 0.49, 0.5, 1.0, 1)
    canary_wrong = Pair(2, 2, 0.1, 0.5, 0.0, 2)
    both_wrong = Pair(3, 3, 0.9, 0.9, 0.0, 3)
    rows = [both_right, stable_wrong, canary_wrong, both_wrong]
    assert tallied(rows[:2], 9) == Pairs(total=2, stable_only_wrong=1, answered=2)
    assert tallied(rows, 9) == Pairs(total=4, stable_only_wrong=1, canary_only_wrong=1, answered=4)
    assert tallied([Pair(0, 0, 0.7, 0.9, 1.0, 0)], 9, threshold=0.8) == Pairs(total=1, stable_only_wrong=1, answered=1)
    assert tallied([Pair(0, 0, math.nan, 0.9, 1.0, 0)], 9) == Pairs(total=1, stable_only_wrong=1, answered=1)


def test_errors_beyond_the_largest_count_as_this() -> None:
    rows = [Pair(0, 0, 1.0, 3.0, 1.5, 0), Pair(1, 1, 0.0, 1e9, 0.0, 1), Pair(2, 2, -1e9, 0.0, 0.0, 2)]
    tally = PairTally(ErrorDifference(10.0), begin_us=0, block_us=2, within_us=10)
    tally.take([*rows, Pair(3, 3, 0.0, math.nan, 1.0, 3)], now_us=5, until_us=5)
    # 1.5 - 0.5, 10, -10, and 10 - 1 for an answer that is no number
    assert tally.evidence == Losses(
        count=4,
        total=10.0,
        squares=282.0,
        answered=4,
        blocks=(
            LossSums(count=2, total=11.0, squares=101.0, answered=2),
            LossSums(count=2, total=-1.0, squares=181.0, answered=2),
        ),
    )


def test_blocks_pass_with_the_answers_or_with_time() -> None:
    rows = [pair(at, at + 1) for at in (0, 1, 5, 17)]
    assert [block.answered for block in tallied(rows, 9, block=5).blocks] == [2]
    assert [block.answered for block in tallied(rows, 18, block=5).blocks] == [2, 1]  # in the third, nobody asked
    assert [block.answered for block in tallied(rows, 20, block=5).blocks] == [2, 1, 1]
    assert tallied(rows, 99, block=None).blocks == ()
    # Of a block whose last answer waits for its label, it is not known what it will say: it has not passed.
    assert [block.answered for block in tallied([*rows[:2], pair(4, None), *rows[2:3]], 9, block=5).blocks] == []


def stream(rng: random.Random, size: int, *, never: float, differ: float = 0.1) -> list[Pair]:
    """Pairs of which some differ; those that say no are known soon, the others later, or never."""
    rows = []
    for at in range(size):
        label = float(rng.random() < 0.4)
        drawn = rng.random()
        stable, canary = (0.9, 0.1) if drawn < differ / 2 else (0.1, 0.9) if drawn < differ else (0.1, 0.1)
        known = rng.random() >= never
        arrived = at + rng.randrange(1, 20) * (4 if label else 1)
        rows.append(Pair(at, at, stable, canary, label if known else None, arrived if known else None))
    return rows


def test_labels_that_never_come_hold_up_nothing() -> None:
    """Three in a hundred labels never come, and may come for as long as the whole stream takes and more."""
    rows = stream(random.Random(3), 4000, never=0.03)
    within, waits = 10_000, []
    for now in range(400, 4000, 200):
        pairs = tallied(rows[:now], now, within=within)
        waits.append(now - pairs.answered)
        assert pairs.open <= 0.12 * (pairs.open + pairs.canary_only_wrong + pairs.stable_only_wrong) + 1
    assert max(waits) < 300  # by then, all labels that come have come
    held_up = len(settled(rows, now_us=4000, within_us=within))
    assert held_up < 100  # whoever waits for each is held up by the first


@pytest.mark.parametrize("block", [None, 40])
@pytest.mark.parametrize("guard", ["labels", "loss"])
def test_missing_labels_never_say_more_than_they_will(guard: str, block: int | None) -> None:
    """At every look the evidence is at most that of the same answers with all labels that will ever come.

    So the e-values of all looks together are below one e-process along the answers, whatever the delays have to do with what
    the labels say: Ville's inequality holds for it, and a label cannot choose when it counts.
    """
    rng = random.Random(11)
    of_guard = {
        "labels": {"margin_pct": 8, "block_margin_pct": 20, "within": "1d", "block": "1d" if block else "none"},
        "loss": {"margin": 0.1, "largest": 1.0, "within": "1d", "block": "1d" if block else "none"},
    }
    policy = Judge.model_validate({"failures": None, "slow": None, guard: of_guard[guard]})
    imputed = 0
    for _ in range(12):
        rows = stream(rng, 400, never=0.05, differ=0.5)
        for now in range(30, 460, 43):
            seen = [row for row in rows if row.at_us <= now]
            tallies = [
                PairTally(
                    RightOrWrong(0.5) if guard == "labels" else ErrorDifference(1.0),
                    begin_us=0,
                    block_us=block,
                    within_us=90,
                )
                for _ in range(2)
            ]
            tallies[0].take(seen, now_us=now, until_us=now)
            looked_at = tallies[0].evidence
            to_the_end = looked_at.answered == len(seen)
            beginning = seen[: looked_at.answered]
            until = now if to_the_end or not beginning else beginning[-1].at_us
            tallies[1].take(beginning, now_us=10_000, until_us=until)
            now_says, will_say = (reading(policy, guard, tally.evidence) for tally in tallies)
            assert now_says.e <= will_say.e * (1 + 1e-5)
            if now_says.interval and will_say.interval:
                assert now_says.interval[1] >= will_say.interval[1] - 1e-5
            imputed += looked_at.open
    assert imputed > 50


def reading(policy: Judge, guard: str, evidence: Pairs | Losses) -> GuardResult:
    given = Evidence(pairs=evidence) if isinstance(evidence, Pairs) else Evidence(losses=evidence)
    return judge(policy, given, elapsed_s=1).guards[guard]


def test_looks_only_ever_go_on() -> None:
    rng = random.Random(5)
    for _ in range(5):
        rows = stream(rng, 500, never=0.05)
        patient = PairTally(RightOrWrong(0.5), begin_us=0, block_us=50, within_us=200)
        before = 0
        for now in range(10, 800, 13):
            after = patient.after
            patient.take(
                [row for row in rows if after < (row.at_us, row.request) and row.at_us <= now], now_us=now, until_us=now
            )
            assert patient.evidence.answered >= before
            before = patient.evidence.answered
            assert patient.evidence == tallied([row for row in rows if row.at_us <= now], now, block=50, within=200)
        assert before == 500


def test_business_numbers_are_clipped_and_folded() -> None:
    values = [BusinessNumber(i, i, span, canary, value, 0) for i, (span, canary, value) in enumerate(
        [(0, False, 1.0), (0, False, 3.0), (0, True, -5.0), (1, True, 99.0), (0, False, 8.0)]
    )]  # fmt: skip
    whole = moments(values, lowest=0.0, highest=8.0)
    assert whole[0, False].count == 3
    assert whole[0, False].mean == pytest.approx(4.0)
    assert whole[0, False].m2 == pytest.approx(9 + 1 + 16)
    assert whole[0, True] == Moments(count=1, mean=0.0, m2=0.0)
    assert whole[1, True].mean == 8.0
    in_parts = moments(values[2:], lowest=0.0, highest=8.0, before=moments(values[:2], lowest=0.0, highest=8.0))
    assert in_parts == whole
