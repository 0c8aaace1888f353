"""`taxiway explain`, from the rows that a replica writes to the words."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from operators.cli import explain
from operators.core.ledger import Ledger
from operators.core.rows import GateRow
from operators.core.storage import Storage
from operators.registry import client
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.release_moves import ReleaseMoves
from operators.traffic.assignment import bucket
from ray_jobs.serve.prediction_log import EdgeHeaders, PredictionLog
from tests.support.postgres import Postgres
from tests.support.release_world import FakeAgent, FakeRegistry
from tests.support.specs import small_spec


@pytest.fixture
def to(tmp_path: Path, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseMoves]:
    """Version 1 is stable, version 2 a canary at 50 %."""
    spec = small_spec()
    with postgres_server.database() as url:
        for name in (
            "MLFLOW_TRACKING_URI",
            "TAXIWAY_RAY_URL",
            "TAXIWAY_SERVE_URL",
            "TAXIWAY_EDGE_URL",
            "TAXIWAY_AGENT_URL",
        ):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv("TAXIWAY_AGENT_TOKEN", "t")
        monkeypatch.setenv("TAXIWAY_LEDGER_URL", url)
        monkeypatch.setenv("TAXIWAY_STORAGE_URL", (tmp_path / "storage").as_uri())
        registry = FakeRegistry("1", "2")
        registry.tags["2"] |= {"taxiway.dag_run": "train-1", "taxiway.data_digest": "d1e5"}
        monkeypatch.setattr(client, "Registry", lambda _: registry)
        ledger, agent = Ledger(url), FakeAgent("1", "2", model=spec.name)
        made = ReleaseMoves(ModelTraffic(spec.name, ledger=ledger, registry=registry, agent=agent))
        made.promote(made.begin("first", made.find("1")).release_id, "1", None, spec)
        ledger.append(spec.name, GateRow(passed=True, reasons=()), key=f"{spec.name}/train-1/gate/1")
        release_id = made.begin("second", made.find("2")).release_id
        made.set_route(release_id, "canary", spec.release, stable="1", version="2", weight_bp=5000)
        yield made
        ledger.close()


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    explain.add_parser(parser.add_subparsers())
    options = parser.parse_args(["explain", *words])
    return int(options.run(options))


def answer(tmp_path: Path, version: str, asked: EdgeHeaders, values: list[float]) -> None:
    """Let a replica answer, and write."""
    spec = small_spec()
    log = PredictionLog(Storage((tmp_path / "storage").as_uri()), spec, version)
    log.add(asked, {name: [None] * len(values) for name in spec.features}, values)
    log.flush()
    log.close()


def test_an_answer_is_explained(to: ReleaseMoves, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = next(name for name in (f"u{n}" for n in range(1000)) if bucket(to.model, name) < 5000)
    answer(tmp_path, "2", EdgeHeaders("r-1", mine, "canary", 5000), [0.25, 0.5])
    answer(tmp_path, "1", EdgeHeaders("r-2", mine, "fallback", 5000), [0.75])
    answer(tmp_path, "1", EdgeHeaders("r-3", None, "stable", None), [0.1])
    answer(tmp_path, "2", EdgeHeaders("r-3", None, "shadow", None), [0.9])

    assert command("r-1") == 0
    said = capsys.readouterr().out
    for part in (
        f"{to.model} version 2 (canary)",
        "0.25, 0.5",
        f"unit {mine} has bucket {bucket(to.model, mine)} of 10000, which belongs to the canary; the canary had 50 %",
        "stable 1, canary 2 at 50 %",
        f"set by      {to.model}/second#1",
        "data digest       d1e5",
        "gate: passed",
        "release started: version 2",
    ):
        assert part in said

    assert command("r-2", "--model", to.model) == 0
    assert "the canary failed this request" in capsys.readouterr().out

    assert command("r-3", "--json") == 0
    both: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [(one["answer"]["version"], one["answer"]["arm"]) for one in both] == [("1", "stable"), ("2", "shadow")]

    # An id that tells a time is looked for there first, and everywhere if that time was not the request's.
    for at in (datetime.now(UTC), datetime.now(UTC) - timedelta(hours=20)):
        name = f"{int(at.timestamp() * 1000):012x}"
        name = f"{name[:8]}-{name[8:]}-7cc3-98c4-dc0c0c07398f"
        answer(tmp_path, "1", EdgeHeaders(name, None, "stable", None), [0.3])
        assert command(name) == 0
        assert "version 1 (stable)" in capsys.readouterr().out

    assert command("r-4") == 1
    assert "ask again" in capsys.readouterr().out
    assert command("r-1", "--at", "2020-01-01T00:00") == 1
