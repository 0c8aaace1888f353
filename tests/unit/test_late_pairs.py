"""Which labels count, and what they say."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from operators.rollout.evidence import Moments, Pairs
from operators.rollout.late.business import Value, moments
from operators.rollout.late.pairs import Pair, loss_differences, right_or_wrong, settled


def pair(at: int, arrived: int | None, *, stable: float = 0.9, canary: float = 0.1, label: float = 1.0) -> Pair:
    return Pair(at, at, stable, canary, None if arrived is None else label, arrived)


def test_labels_count_up_to_the_first_that_is_awaited() -> None:
    rows = [pair(0, 5), pair(1, None), pair(2, 3), pair(3, None), pair(4, 6)]
    found = [(row.at_us, counts) for row, counts in settled(rows, now_us=12, within_us=10)]
    # 1 is closed without a label; 3 is still awaited, so 4 does not count though it is known.
    assert found == [(0, True), (1, False), (2, True)]
    assert len(list(settled(rows, now_us=13, within_us=10))) == 5


def test_a_label_that_came_after_its_time_or_is_from_the_future_does_not_count() -> None:
    assert [counts for _, counts in settled([pair(0, 11)], now_us=20, within_us=10)] == [False]
    assert list(settled([pair(0, 8)], now_us=7, within_us=10)) == []


def test_what_labels_say_cannot_choose_which_count() -> None:
    """Every look is a beginning of one sequence, whatever the delays; the labels that are there are not."""
    rng = random.Random(7)
    rows = []
    for at in range(400):
        late = rng.random() < 0.3  # a flight that lands late is known late, or never
        delay = rng.randrange(60, 140) if late else rng.randrange(1, 20)
        rows.append(pair(at, None if rng.random() < 0.05 else at + delay, label=float(late)))
    looks = [list(settled(rows, now_us=now, within_us=100)) for now in range(0, 600, 7)]
    for earlier, later in pairwise(looks):
        assert later[: len(earlier)] == earlier
    assert len(looks[-1]) == 400
    now = 200
    there = [row for row in rows if row.arrived_us is not None and row.arrived_us <= now]
    assert {row.label for row in there if row.at_us > 150} == {0.0}  # whoever takes what is there sees no late flight


def test_pairs_are_counted_by_who_was_wrong() -> None:
    both_right = Pair(0, 0, 0.5, 0.8, 1.0, 0)
    stable_wrong = Pair(1, 1, 0.49, 0.5, 1.0, 0)
    canary_wrong = Pair(2, 2, 0.1, 0.5, 0.0, 0)
    both_wrong = Pair(3, 3, 0.9, 0.9, 0.0, 0)
    first = right_or_wrong([both_right, stable_wrong], 0.5)
    assert first == Pairs(total=2, stable_only_wrong=1)
    whole = right_or_wrong([canary_wrong, both_wrong], 0.5, before=first)
    assert whole == Pairs(total=4, stable_only_wrong=1, canary_only_wrong=1)
    assert right_or_wrong([Pair(0, 0, 0.7, 0.9, 1.0, 0)], 0.8) == Pairs(total=1, stable_only_wrong=1)


def test_errors_beyond_the_largest_count_as_this() -> None:
    rows = [Pair(0, 0, 1.0, 3.0, 1.5, 0), Pair(1, 1, 0.0, 1e9, 0.0, 0), Pair(2, 2, -1e9, 0.0, 0.0, 0)]
    assert list(loss_differences(rows, 10.0)) == [1.0, 10.0, -10.0]
    with pytest.raises(ValueError, match="without a label"):
        list(loss_differences([pair(0, None)], 1.0))


def test_business_numbers_are_clipped_and_folded() -> None:
    values = [Value(i, i, span, canary, value, 0) for i, (span, canary, value) in enumerate(
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
