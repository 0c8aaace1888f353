"""Late evidence from a prediction log on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from operators.core.errors import RejectedError
from operators.core.storage import Storage
from operators.judge.evidence import Evidence, Moments, Pairs, Period
from operators.rollout.delayed.collector import Collector
from operators.rollout.delayed.window import LateEvidence, ReleaseWindow, Span, with_late
from tests.support.late_world import (
    BEGIN,
    CANARY,
    STABLE,
    KnownLabels,
    answer,
    at,
    both,
    keep,
    look_once,
    parquet,
    spec_with,
    window,
)

HALF = Span(weight_bp=5000)
LABELS = {"labels": {"within": "1h"}}
PREDICTION = {"prediction": {"margin": 0.1}}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage((tmp_path / "store").as_uri())


@pytest.fixture
def open_collector(storage: Storage) -> Iterator[Any]:
    opened: list[Collector] = []

    def make(asked: ReleaseWindow, known: KnownLabels | None = None, **judge: Any) -> Collector:
        opened.append(
            Collector(spec_with(**judge), asked, storage=storage, labels=known or KnownLabels(), labels_every_s=0)
        )
        return opened[-1]

    yield make
    for collector in opened:
        collector.close()


def look(storage: Storage, *spans: Span, after_s: float = 600.0) -> LateEvidence:
    return look_once(spec_with(**PREDICTION), window(*spans), BEGIN + after_s, storage)


def numbers(late: LateEvidence, span: int = 0) -> list[tuple[int, float] | None]:
    predictions = [arm.prediction for arm in late.arms[span]]
    return [(m.count, round(m.mean, 9)) if m else None for m in predictions]


def test_a_unit_counts_once_by_its_first_prediction(storage: Storage) -> None:
    # The second file, read later, has the earlier answer; and a row that was written twice.
    keep(storage, [answer("b", STABLE, "stable", 9.0, unit="u", after_s=2, weight_bp=5000)])
    keep(storage, [answer("a", STABLE, "stable", 1.0, unit="u", after_s=1, weight_bp=5000)])
    for _ in range(2):
        keep(storage, [answer("c", STABLE, "stable", 3.0, weight_bp=5000), *rows_of_a_batch()])
    keep(storage, [answer("d", CANARY, "canary", 0.5, unit="v", weight_bp=5000)])
    late = look(storage, HALF)
    assert numbers(late) == [(3, 2.0), (1, 0.5)]
    assert late.arms[0][0].prediction == Moments(count=3, mean=2.0, m2=2.0)


def rows_of_a_batch() -> list[dict[str, Any]]:
    """A request is a unit, however many rows it has: the first stands for it."""
    return [answer("e", STABLE, "stable", 2.0 + row, weight_bp=5000, row=row) for row in range(3)]


def test_only_answers_that_can_be_compared_count(storage: Storage) -> None:
    keep(
        storage,
        [
            answer("a", STABLE, "stable", 1.0, weight_bp=5000),
            answer("b", STABLE, "fallback", 9.0, weight_bp=5000),
            answer("c", STABLE, "bypass", 9.0, weight_bp=5000),
            answer("d", STABLE, None, 9.0, weight_bp=5000),
            answer("e", CANARY, "shadow", 9.0, weight_bp=5000),
            answer("f", CANARY, "canary", 2.0, weight_bp=5000),
            answer("i", STABLE, "holdout", 9.0, weight_bp=5000),
            answer("j", CANARY, "tester", 9.0, weight_bp=5000),
            answer("g", "2", "stable", 9.0, weight_bp=5000),
            answer("h", STABLE, "stable", 9.0, weight_bp=5000, after_s=-1),
        ],
    )
    assert numbers(look(storage, HALF)) == [(1, 1.0), (1, 2.0)]


def test_periods_are_told_apart_by_weight_and_roles(storage: Storage) -> None:
    spans = (
        Span(weight_bp=100),
        HALF,
        Span(kind="watch", weight_bp=100),
    )
    keep(
        storage,
        [
            answer("a", STABLE, "stable", 1.0, weight_bp=100),
            answer("b", CANARY, "canary", 2.0, weight_bp=100),
            answer("c", STABLE, "stable", 3.0, weight_bp=5000, unit="a"),
            answer("d", STABLE, "canary", 4.0, weight_bp=100),  # after the promotion the old one is the control
            answer("e", CANARY, "stable", 5.0, weight_bp=100),
            answer("f", CANARY, "stable", 6.0, weight_bp=0),
        ],
    )
    late = look(storage, *spans)
    assert [numbers(late, index) for index in range(3)] == [
        [(1, 1.0), (1, 2.0)],
        [(1, 3.0), None],
        [(1, 4.0), (1, 5.0)],
    ]


def test_an_answer_without_a_weight_belongs_to_no_period(storage: Storage) -> None:
    keep(storage, [answer("a", STABLE, "stable", 1.0)])
    assert numbers(look(storage, HALF)) == [None, None]


def test_a_shadow_is_compared_on_the_requests_that_it_answered(storage: Storage) -> None:
    keep(storage, [*both("a", 1.0, 2.0), answer("c", STABLE, "stable", 99.0)])
    keep(storage, [answer("b", STABLE, "holdout", 3.0), answer("b", CANARY, "shadow", 6.0)])
    late = look(storage, HALF, Span(kind="shadow", weight_bp=5000))
    assert [numbers(late, index) for index in range(2)] == [[None, None], [(2, 2.0), (2, 4.0)]]


def test_each_file_is_read_once_and_a_late_one_is_found(storage: Storage, open_collector: Any) -> None:
    collector = open_collector(window(HALF), **PREDICTION)
    read: list[str] = []
    download = storage.download
    storage.download = lambda key, path: read.append(key) or download(key, path)  # type: ignore[method-assign, func-returns-value]
    keep(storage, [answer("a", STABLE, "stable", 1.0, weight_bp=5000)])
    assert numbers(collector.look(BEGIN + 60))[0] == (1, 1.0)
    assert numbers(collector.look(BEGIN + 61))[0] == (1, 1.0)
    # The store was away for three hours: what was answered then is written now.
    keep(storage, [answer("b", STABLE, "stable", 2.0, weight_bp=5000, after_s=70)], written_after_s=3 * 3600)
    assert numbers(collector.look(BEGIN + 3 * 3600 + 1))[0] == (2, 1.5)
    assert numbers(collector.look(BEGIN + 30 * 3600))[0] == (2, 1.5)
    assert len(read) == 2 == len(set(read))
    assert not list(collector._folder.rglob("*.parquet"))


def test_a_foreign_file_is_named(storage: Storage) -> None:
    storage.put_bytes(f"predictions/flight_delay/version={STABLE}/date=2026-03-01/hour=12/x.parquet", b"nonsense")
    with pytest.raises(RejectedError, match=r"version=3/date=2026-03-01/hour=12 cannot be read"):
        look(storage, HALF)


def test_pairs_wait_for_their_labels_in_their_order(storage: Storage, open_collector: Any) -> None:
    labels = KnownLabels({"u1": (1.0, 300), "b": (0.0, 200), "c": (1.0, 2000)})
    keep(storage, both("a", 0.1, 0.9, unit="u1", after_s=1))  # the label names the unit
    keep(storage, both("b", 0.1, 0.9, unit="u2", after_s=2))  # or the request
    keep(storage, both("c", 0.9, 0.1, unit="u3", after_s=3))
    keep(storage, both("d", 0.9, 0.1, unit="u1", after_s=4))  # a second answer of a unit does not count
    keep(storage, both("e", 0.9, 0.1, unit="u5", after_s=5))  # never gets a label
    keep(storage, both("g", 0.9, 0.1, unit="u1", after_s=6))
    keep(storage, [answer("f", STABLE, "stable", 0.9, after_s=7)])  # the shadow has not answered
    collector = open_collector(window(HALF), labels, **LABELS)
    assert collector.look(BEGIN + 250).pairs == Pairs()  # b is known, but a comes before it
    late = collector.look(BEGIN + 400)
    assert late.pairs == Pairs(total=2, stable_only_wrong=1, canary_only_wrong=1, answered=2)
    late = collector.look(BEGIN + 3700)
    assert late.pairs == Pairs(total=3, stable_only_wrong=1, canary_only_wrong=2, answered=4)
    # What was decided stays: this label comes after its time. And who has nothing to wait for asks for nothing.
    labels.known["u5"] = (1.0, 3690)
    asked = len(labels.asked)
    assert collector.look(BEGIN + 9000).pairs == late.pairs
    assert len(labels.asked) == asked
    assert labels.asked[1][:2] == (at(1), at(5))


def test_another_collector_finds_the_same(storage: Storage, open_collector: Any) -> None:
    labels = KnownLabels({f"r{i}": (float(i % 3 == 0), 100.0 + 37 * i % 900) for i in range(200) if i % 7})
    for i in range(200):
        keep(storage, both(f"r{i}", (i % 5) / 4, (i % 4) / 3, after_s=float(i)))
    judge = {**LABELS, "loss": {"margin": 0.1, "largest": 0.5, "within": "20m"}}
    patient = open_collector(window(HALF), labels, **judge)
    for after_s in range(0, 4200, 300):
        seen = patient.look(BEGIN + after_s)
    fresh = open_collector(window(HALF), labels, **judge).look(BEGIN + 4200)
    assert fresh.pairs == seen.pairs
    assert fresh.losses == patient.look(BEGIN + 4200).losses
    assert seen.pairs.total == seen.losses.count == 171
    assert seen.losses.squares <= 0.5**2 * 171


def test_business_numbers_belong_to_the_arm_of_the_assignment(storage: Storage, open_collector: Any) -> None:
    keep(
        storage,
        [
            answer("a", STABLE, "stable", 0.0, unit="u", weight_bp=5000, after_s=1),
            answer("b", STABLE, "stable", 0.0, unit="u", weight_bp=5000, after_s=2),
            answer("c", CANARY, "canary", 0.0, unit="v", weight_bp=5000, after_s=3),
            answer("d", STABLE, "fallback", 0.0, unit="w", weight_bp=5000, after_s=4),
        ],
    )
    sold = [
        {"request_id": "a", "value": 4.0, "time": at(50)},
        {"request_id": "b", "value": 100.0, "time": at(50)},
        {"request_id": "c", "value": 1e9, "time": at(60)},
        {"request_id": "c", "value": 0.0, "time": at(70)},
        {"request_id": "d", "value": float("nan"), "time": at(60)},
    ]
    storage.put_bytes("business/flight_delay/sales/date=2026-03-01/1.parquet", parquet(sold))
    storage.put_bytes("business/flight_delay/sales/date=2025-01-01/0.parquet", b"from before, never read")
    storage.put_bytes("business/flight_delay/sales/_SUCCESS", b"")
    guard = {"better": "higher", "margin": 1.0, "lowest": 0.0, "highest": 10.0, "within": "1h"}
    collector = open_collector(window(HALF), business={"sales": guard})
    stable, canary = collector.look(BEGIN + 500).arms[0]
    assert stable.business["sales"] == Moments(count=1, mean=4.0, m2=0.0)
    assert canary.business["sales"] == Moments(count=1, mean=10.0, m2=0.0)
    # d failed on the canary. Its number comes in another file: naive times are UTC, ids need not be text.
    storage.put_bytes(
        "business/flight_delay/sales/date=2026-03-01/2.parquet",
        parquet([{"request_id": "d", "value": 2, "time": at(600).replace(tzinfo=None)}]),
    )
    _, canary = collector.look(BEGIN + 700).arms[0]
    assert (canary.business["sales"].count, canary.business["sales"].mean) == (2, 6.0)


def test_a_business_file_that_lacks_a_column_is_named(storage: Storage, open_collector: Any) -> None:
    storage.put_bytes("business/flight_delay/sales/1.parquet", parquet([{"request_id": "a", "time": at(0)}]))
    guard = {"better": "higher", "margin": 1.0, "lowest": 0.0, "highest": 10.0, "within": "1h"}
    with pytest.raises(RejectedError, match=r"business/flight_delay/sales cannot be read.*value"):
        open_collector(window(HALF), business={"sales": guard}).look(BEGIN + 500)


def test_late_evidence_finds_its_period() -> None:
    late = LateEvidence.model_validate(
        {"arms": [[{"prediction": {"count": 1, "mean": 2, "m2": 0}}, {}]], "pairs": {"total": 3}}
    )
    periods = (Period(kind="shadow", weight_bp=5000, weight=1 / 3), Period(weight_bp=5000, weight=0.5))
    evidence = Evidence(periods=periods)
    whole = with_late(evidence, window(HALF), late)
    assert whole.periods[0] == evidence.periods[0]
    assert whole.periods[1].stable.prediction == Moments(count=1, mean=2.0, m2=0.0)
    assert whole.pairs == Pairs(total=3)
