"""Why a request went where it did: by the edge's own arithmetic, and by what ledger and log say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from operators.audit.explanation import Answer, Moment, asked_at, decisions, in_force, why
from operators.core.ledger_entry import Entry
from operators.core.traffic import Route
from operators.traffic.assignment import ALL_BP, bucket, in_canary, xxh32
from tests.support import edge_servers

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", 0x02CC5D05),
        (b"a", 0x550D7456),
        (b"abc", 0x32D153FF),
        (b"Nobody inspects the spammish repetition", 0xE2293B2F),
    ],
)
def test_published_digests(data: bytes, digest: int) -> None:
    assert xxh32(data) == digest


@given(st.binary(max_size=70))
def test_the_same_digest_as_the_edges_tests_use(data: bytes) -> None:
    assert xxh32(data) == edge_servers.xxh32(data)


@given(st.integers(0, ALL_BP - 1), st.integers(0, ALL_BP), st.integers(0, ALL_BP), st.booleans())
def test_who_is_in_a_canary(place: int, weight_bp: int, holdout_bp: int, from_top: bool) -> None:
    assume(weight_bp + holdout_bp <= ALL_BP)
    route = Route(
        model="m", stable="1", canary="2", weight_bp=weight_bp, holdout_bp=holdout_bp, from_top=from_top, lease_s=60
    )
    free = [one for one in range(ALL_BP) if one < ALL_BP - holdout_bp]
    mine = free[len(free) - weight_bp :] if from_top and weight_bp < len(free) else free[:weight_bp]
    expected = bool(mine) and mine[0] <= place <= mine[-1]
    assert in_canary(route, place) is expected


def unit_of(low: int, high: int) -> str:
    return next(name for name in (f"u{n}" for n in range(100_000)) if low <= bucket("m", name) < high)


def answer(arm: str | None, *, unit: str | None, weight_bp: int | None = 500, version: str = "2") -> Answer:
    return Answer(
        request_id="r-1", model="m", version=version, arm=arm, weight_bp=weight_bp, unit=unit, predicted_at=NOW, rows=1,
        predictions=(0.5,),
    )  # fmt: skip


def moment(weight_bp: int = 500) -> Moment:
    route = Route(model="m", stable="1", canary="2", weight_bp=weight_bp, lease_s=60)
    return Moment(route=route, release_id="m/r#1", since=NOW - timedelta(minutes=1))


def test_arms_in_words() -> None:
    mine, other = unit_of(0, 500), unit_of(500, ALL_BP)
    assert f"unit {mine} has bucket {bucket('m', mine)}" in (said := why(answer("canary", unit=mine), moment()))
    assert "the canary had 5 %" in said
    assert said.count(".") == 0
    assert "belongs to stable" in why(answer("stable", unit=other, version="1"), moment())
    assert "the canary failed this request" in why(answer("fallback", unit=mine, version="1"), moment())
    assert "never gets a canary" in why(answer("holdout", unit=other, version="1"), moment())
    assert "did not get it" in why(answer("shadow", unit=other), moment())
    assert "did not come through the edge" in why(answer(None, unit=None), None)
    assert "named no unit" in why(answer("stable", unit=None, weight_bp=None, version="1"), moment(0))


def test_what_does_not_fit_is_said() -> None:
    mine, other = unit_of(0, 500), unit_of(500, ALL_BP)
    assert "was being changed" in why(answer("canary", unit=mine), moment(2500))
    assert "belongs to the other arm" in why(answer("canary", unit=other), moment())
    assert "has no route of that time" in why(answer("canary", unit=mine), None)


def row(kind: str, seconds: int, release_id: str | None = None, key: str = "k", **payload: Any) -> Entry:
    at = NOW + timedelta(seconds=seconds)
    return Entry(
        model="m", seq=1, at=at, kind=kind, release_id=release_id, key=key, payload=payload, previous_hash="", hash=""
    )


def test_what_was_in_force() -> None:
    rows = [
        row("weight_set", 0, "m/a#1", stable="1", canary="2", weight_bp=500),
        row("weight_set", 60, "m/a#1", stable="1", canary="2", weight_bp=2500),
        row("edge", 300, at=(NOW + timedelta(seconds=90)).timestamp(), **{"kind_": ""}),
    ]
    rows[-1] = rows[-1].model_copy(update={"payload": {**rows[-1].payload, "kind": "lease_expired"}})
    at = [in_force(rows, NOW + timedelta(seconds=s)) for s in (-1, 30, 70, 100)]
    assert at[0] is None
    assert [(m.route.weight_bp, m.ended) for m in at[1:] if m] == [
        (500, ""),
        (2500, ""),
        (2500, "lease expired at 12:01:30"),
    ]


def test_how_a_version_got_its_traffic() -> None:
    rows = [
        row("gate", 0, key="m/train-1/gate/1", passed=True, reasons=["log_loss is better"]),
        row("gate", 1, key="m/train-2/gate/1", passed=False, reasons=[]),
        row("release_started", 2, "m/a#1", version="2"),
        row("approval", 3, "m/a#1", step="canary", answer="go_on", by="ada", note=""),
        row("promoted", 4, "m/a#1", version="2", previous="1"),
        row("release_started", 9, "m/b#1", version="2"),
    ]
    said = decisions(rows, "2", NOW + timedelta(seconds=5), "train-1")
    assert [text.partition(" ")[2].partition(" ")[2] for text in said] == [
        "gate: passed log_loss is better",
        "release started: version 2",
        "approval: canary: ada decided to go on",
        "promoted: version 2 replaced version 1",
    ]


def test_an_id_may_tell_its_time() -> None:
    # The example of RFC 9562, appendix A.6.
    assert asked_at("017F22E2-79B0-7CC3-98C4-DC0C0C07398F") == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)
    for other in ("r-1", "", "f81d4fae-7dec-41d0-a765-00a0c91e6bf6", "ffffffff-ffff-7cc3-98c4-dc0c0c07398f"):
        assert asked_at(other) is None
