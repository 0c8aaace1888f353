"""Late evidence on a real S3: predictions that replicas wrote, and labels that are the flights' own arrivals."""

from __future__ import annotations

import asyncio
import io
import secrets
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from operators.core.dataset import Window, build, snapshot
from operators.core.errors import ConfigurationError
from operators.core.loader import INCLUDE
from operators.core.spec import PredictionSpec
from operators.core.storage import Storage
from operators.demo.seed import seed_flights
from operators.feedback.labels import QueryLabels
from operators.judge.evidence import Evidence, Outcome, Pairs, Period
from operators.rollout.delayed.collector import Collector
from operators.rollout.delayed.source import LateSource, window_of
from operators.rollout.delayed.window import ReleaseWindow, Span, with_late
from ray_jobs.serve.prediction_log import EdgeHeaders, PredictionLog
from tests.support.late_world import CANARY, STABLE, answer, keep, look_once, spec_with
from tests.support.phases import live_phase
from tests.support.specs import shipped_spec
from tests.support.waiting import PATIENCE_S

FROM, UNTIL = datetime(2013, 1, 10, tzinfo=UTC), datetime(2013, 1, 12, tzinfo=UTC)
BEFORE = timedelta(hours=1)  # a prediction is asked for so long before the departure
WITHIN = timedelta(hours=18)


@pytest.fixture(scope="module")
def flights(s3_server: Any) -> Any:
    """A store with the flights of a month, those of two days with their labels, and what two models said of them."""
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        bucket = f"test-{secrets.token_hex(6)}"
        boto3.client("s3").create_bucket(Bucket=bucket)
        storage = Storage(f"s3://{bucket}/some/prefix")
        patch.setenv("TAXIWAY_STORAGE_URL", storage.root)
        seed_flights(storage, months=[1])
        release = spec_with(labels={"within": "18h", "min_pairs": 100}).release
        spec = shipped_spec().model_copy(update={"release": release})
        rows = _rows(storage, spec)
        hours: dict[datetime, list[dict[str, Any]]] = {}
        for index, row in enumerate(rows):
            asked_at = row["event_time"].replace(tzinfo=UTC) - BEFORE
            truth = float(bool(row["label"]))
            said = {"stable": truth if index % 5 else 1 - truth, "shadow": truth if index % 3 else 1 - truth}
            row |= {"asked_at": asked_at, **said}
            hours.setdefault(asked_at.replace(minute=0), []).extend(
                {
                    **answer(f"request {index}", version, arm, said[arm], unit=row["flight_id"]),
                    "predicted_at": asked_at,
                }
                for version, arm in ((STABLE, "stable"), (CANARY, "shadow"))
            )
        for written in hours.values():
            keep(storage, written)
        yield storage, spec, rows


def _rows(storage: Storage, spec: PredictionSpec) -> list[dict[str, Any]]:
    window = Window(start=FROM.replace(tzinfo=None), end=UNTIL.replace(tzinfo=None))
    sql = (INCLUDE / spec.data.query).read_text()
    data = build(
        snapshot(spec.data.tables, window, storage, "snapshots"),
        sql,
        {"as_of": datetime(2014, 1, 1)},
        storage=storage,
        prefix="datasets",
    )
    return pq.read_table(io.BytesIO(storage.get_bytes(data.key))).to_pylist()


def of_the_release() -> ReleaseWindow:
    return ReleaseWindow(
        model="flight_delay",
        stable=STABLE,
        canary=CANARY,
        begin_s=(FROM - timedelta(hours=2)).timestamp(),
        spans=(Span(kind="shadow", weight_bp=5000),),
    )


def expected(rows: list[dict[str, Any]], now: datetime) -> Pairs:
    """All labels that have come in their time, in other words."""
    total = stable_only = canary_only = 0
    for row in rows:
        known_at = row["label_time"].replace(tzinfo=UTC) if row["label_time"] else datetime.max.replace(tzinfo=UTC)
        if known_at <= min(now, row["asked_at"] + WITHIN):
            wrong = [(row[side] >= 0.5) != bool(row["label"]) for side in ("stable", "shadow")]
            total += 1
            stable_only += wrong == [True, False]
            canary_only += wrong == [False, True]
    return Pairs(total=total, stable_only_wrong=stable_only, canary_only_wrong=canary_only, answered=len(rows))


def test_flights_are_judged_as_they_land(flights: Any) -> None:
    storage, spec, rows = flights
    assert len(rows) > 1500
    collector = Collector(spec, of_the_release(), storage=storage, labels_every_s=0)
    try:
        totals = []
        for hours in (12, 24, 40, 72):
            now = FROM + timedelta(hours=hours)
            late = collector.look(now.timestamp())
            whole = expected([row for row in rows if row["asked_at"] <= now], now)
            assert late.pairs is not None
            # Those of the last hours are in the air. Cancelled ones, whose labels never come, hold up nothing.
            missing = whole.total - late.pairs.total
            assert 0 <= missing <= 250, hours
            assert late.pairs.open <= 0.13 * (late.pairs.canary_only_wrong + late.pairs.stable_only_wrong) + 1
            totals.append(late.pairs.total)
        assert late.pairs.model_copy(update={"blocks": ()}) == whole
        assert [block.answered > 300 for block in late.pairs.blocks] == [True, True, False]
        assert totals == sorted(set(totals))
        # Cancelled and diverted flights have no label; one landed when it was no longer waited for.
        assert len(rows) - late.pairs.total == sum(row["label"] is None for row in rows) + 1
        assert late.pairs.open == 0
    finally:
        collector.close()


def test_labels_that_come_during_a_step_fail_it(flights: Any) -> None:
    """The step itself is not held to labels: without them it would go on."""
    storage, spec, _ = flights
    began = of_the_release().begin_s
    live = live_phase(
        model=spec.name, canary=CANARY, stable=STABLE, weights_bp=(500,), bake_s=1e9, released_at=began, began_at=began
    )
    policies = live.phase.policies(spec.release.judge)
    window = window_of(live, spec)
    collector = Collector(spec, window, storage=storage, labels_every_s=0)
    try:
        for now in (began + 3600 * hour for hour in count(6, 6)):
            known = Evidence(periods=(Period(weight_bp=500, weight=0.05),))
            evidence = with_late(known, window, collector.look(now))
            judgement = live.phase.judge(policies, evidence, elapsed_s=now - began)
            if judgement.outcome is not Outcome.CONTINUE:
                break
    finally:
        collector.close()
    assert (judgement.outcome, judgement.part) == (Outcome.FAILED, "veto")
    assert now < UNTIL.timestamp()
    assert live.policy(spec.release.judge, judgement).guards == ("labels",)


def test_a_query_must_say_when_labels_arrived(flights: Any, tmp_path: Path) -> None:
    storage, spec, _ = flights
    sql = (INCLUDE / spec.data.query).read_text().replace("AS label_time", "AS known_at")
    source = QueryLabels(storage, spec.data, sql, within_s=3600)
    with pytest.raises(ConfigurationError, match=r"flight_delay\.sql must return a column label_time"):
        source.write(tmp_path / "labels.parquet", begin=FROM, end=UNTIL, known_before=UNTIL)
    nothing = datetime(2020, 1, 1, tzinfo=UTC)
    source.write(tmp_path / "labels.parquet", begin=nothing, end=nothing, known_before=nothing)
    table = pq.read_table(tmp_path / "labels.parquet")
    assert (table.column_names, table.num_rows) == (["id", "label", "arrived_at"], 0)
    assert not [key for key in storage.list() if "labels" in key]


def test_what_replicas_write_reaches_a_look(flights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, _, _ = flights
    spec = spec_with(prediction={"margin": 0.1}).model_copy(update={"name": "flight_delay_live"})
    began = time.time() - 1
    row = {name: [0.0 if kind.startswith("number") else 1] for name, kind in spec.features.items()}
    row |= {name: ["x"] for name, kind in spec.features.items() if kind == "category"}
    for version, arm, value in (("3", "stable", 0.25), ("4", "canary", 0.5)):
        log = PredictionLog(storage, spec, version)
        for number in range(3):
            headers = {"x-request-id": f"{arm} {number}", "x-taxiway-arm": arm, "x-taxiway-weight": "2500"}
            log.add(EdgeHeaders.of(headers, None), row, [value + number / 8])
        log.close()
    live = live_phase(
        model=spec.name, canary="4", stable="3", weights_bp=(500, 2500), released_at=began, began_at=began
    )
    evidence = Evidence(periods=tuple(Period(weight_bp=bp, weight=bp / 10_000) for bp in (500, 2500)))
    monkeypatch.setenv("TAXIWAY_STORAGE_URL", storage.root)

    async def look() -> Evidence:
        source = LateSource(spec, every_s=0.01)
        try:
            began = time.monotonic()
            found = await source.add(evidence, live)
            while found == evidence:
                assert time.monotonic() - began < PATIENCE_S
                await asyncio.sleep(0.02)
                found = await source.add(evidence, live)
            return found
        finally:
            await source.close()

    found = asyncio.run(look())
    assert found.periods[0] == evidence.periods[0]
    assert [(arm.prediction.count, arm.prediction.mean) for arm in (found.periods[1].stable, found.periods[1].canary) if arm.prediction] == [
        (3, 0.375),
        (3, 0.625),
    ]  # fmt: skip
    window = ReleaseWindow(model=spec.name, stable="3", canary="4", begin_s=began, spans=(Span(weight_bp=2500),))
    once = look_once(spec, window, time.time(), storage)
    assert once.arms[0][0].prediction == found.periods[1].stable.prediction
