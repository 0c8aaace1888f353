from __future__ import annotations

import pytest

from operators.core.spec_release import Release
from operators.core.traffic import Counters, Row
from operators.traffic.limits import AnswerLimits, limits_from, quantile_ms

_STEP = {"weight_pct": 5, "bake": "60s"}


def release(judge: dict[str, object] | None = None, **more: object) -> Release:
    return Release.model_validate({"steps": [_STEP], "judge": judge or {}, **more})


def answered(*latency: tuple[float | None, int], arm: str = "stable", version: str = "1") -> Counters:
    return Counters(rows=(Row(version=version, arm=arm, latency=latency),))


@pytest.mark.parametrize(
    ("latency", "timeout_ms"),
    [
        ([(10.0, 1000)], 250),  # quick versions still get a quarter of a second
        ([(10.0, 980), (100.0, 20)], 400),
        ([(10.0, 1000), (5000.0, 5)], 250),  # a few that took long are not what is usual
        ([(9000.0, 10)], 36_000),
        ([(None, 10)], 2000),
        ([], 2000),
    ],
)
def test_a_canary_gets_four_times_what_is_usual(latency: list[tuple[float | None, int]], timeout_ms: int) -> None:
    assert limits_from(release(), answered(*latency), "1").canary_timeout_ms == timeout_ms


def test_only_what_stable_answered_is_usual() -> None:
    assert limits_from(release(), answered((900.0, 10), arm="bypass"), "1") == AnswerLimits()
    assert limits_from(release(), answered((900.0, 10), version="2"), "1") == AnswerLimits()


def test_the_spec_has_the_last_word() -> None:
    limits = limits_from(release({"slow": {"limit": "30ms"}}, canary_timeout="3s"), answered((10.0, 9)), "1")
    assert limits == AnswerLimits(slow_us=30_000, canary_timeout_ms=3000)
    assert limits_from(release({"slow": None}), answered((10.0, 9)), "1").slow_us is None


def test_slow_is_what_stable_does_rarely() -> None:
    limits = limits_from(
        release({"slow": {"quantile": 0.95, "ratio": 1.5, "increase": "20ms"}}), answered((100.0, 9)), "1"
    )
    assert limits.slow_us == 150_000
    limits = limits_from(
        release({"slow": {"quantile": 0.95, "ratio": 1.5, "increase": "20ms"}}), answered((10.0, 9)), "1"
    )
    assert limits.slow_us == 30_000


def test_quantile_over_all_rows() -> None:
    rows = [
        Row(version="1", arm="stable", latency=((1.0, 90), (2.0, 5), (None, 0))),
        Row(version="1", arm="stable", weight_bp=500, latency=((1.0, 0), (2.0, 4), (None, 1))),
    ]
    assert [quantile_ms(rows, q) for q in (0.5, 0.95, 0.99, 0.995)] == [1.0, 2.0, 2.0, float("inf")]
    assert quantile_ms([], 0.5) is None
