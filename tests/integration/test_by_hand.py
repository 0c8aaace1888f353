"""What a person does: verify, roll back, look into the quarantine; on a real ledger, by the commands themselves."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

from operators.cli import connect, quarantine, rollback, verify
from operators.core.errors import ConfigurationError, RejectedError, ServiceError
from operators.core.ledger import Ledger
from operators.core.rows import VerdictRow
from operators.core.spec_judge import Judge
from operators.judge.digest import judge_digest
from operators.judge.evidence import Arm, Evidence, Period
from operators.judge.policy import judge
from operators.rollout.manual_moves import ManualMoves
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.release_moves import ReleaseMoves
from tests.support.release_world import FakeAgent, FakeRegistry
from tests.support.specs import small_spec


@pytest.fixture
def to(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseMoves]:
    """A model whose version 2 was promoted over version 1."""
    model = f"m_{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("TAXIWAY_LEDGER_URL", ledger_url)
    ledger = Ledger(ledger_url)
    agent, registry = FakeAgent("1", "2", "3", model=model), FakeRegistry("1", "2", "3")
    made = ReleaseMoves(ModelTraffic(model, ledger=ledger, registry=registry, agent=agent))
    monkeypatch.setattr(connect, "model_traffic", lambda _: made.traffic)
    monkeypatch.setattr("operators.traffic.client.Agent", lambda: agent)
    spec = small_spec(name=model)
    made.promote(made.begin("first", made.find("1")).release_id, "1", None, spec)
    release_id = made.begin("second", made.find("2")).release_id
    found = look(made, release_id, failed=0)
    assert found == "Successful"
    made.promote(release_id, "2", "1", spec)
    yield made
    ledger.close()


def look(to: ReleaseMoves, release_id: str, *, failed: int, kept: bool = True) -> str:
    arm = Arm(requests=5000, failed=0, slow=0)
    seen = Evidence(periods=(Period(weight=0.5, stable=arm, canary=arm.model_copy(update={"failed": failed})),))
    asked: dict[str, Any] = {"elapsed_s": 60.0, "bake_s": 30.0, "min_requests": 100, "harm_weight": 0.5}
    found = judge(Judge(), seen, **asked)
    if kept:
        to.record_look(release_id, "canary", seen)
    row = VerdictRow(
        step="canary",
        policy=Judge().model_dump(mode="json", by_alias=True),
        evidence=seen.model_dump(mode="json"),
        judgement=found.model_dump(mode="json"),
        judge=judge_digest(),
        **asked,
    )
    to.record_verdict(release_id, row)
    return str(found.outcome)


def command(module: ModuleType, *words: str) -> int:
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    options = parser.parse_args([module.__name__.rpartition(".")[2], *words])
    return int(options.run(options))


def change(url: str, statement: str, **values: Any) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        assert connection.execute(sa.text(statement), values).rowcount == 1
    engine.dispose()


def test_a_ledger_that_holds(to: ReleaseMoves, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(verify, to.model) == 0
    assert "1 verdicts made again: holds" in capsys.readouterr().out
    assert command(verify) == 0
    with pytest.raises(ConfigurationError, match="no rows of 'other'"):
        command(verify, "other")


def test_a_changed_verdict_is_named(to: ReleaseMoves, ledger_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = to.ledger.entries(to.model, kind="verdict")[0]
    turned = "update ledger set payload = replace(payload::text, 'Successful', 'Failed')::json where key = :key"
    change(ledger_url, turned, key=row.key)
    assert command(verify, to.model) == 1
    said = capsys.readouterr().out
    assert f"WRONG  row {row.seq}: its hash" in said
    assert f"WRONG  row {row.seq}: verdict on canary" in said
    assert "its evidence gives Successful" in said


def test_what_only_needs_saying(
    to: ReleaseMoves, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    release_id = to.begin("third", to.find("3")).release_id
    look(to, release_id, failed=60, kept=False)
    assert command(verify, to.model) == 0
    assert "has no recorded look with its evidence" in capsys.readouterr().out
    monkeypatch.setattr("operators.audit.verify.judge_digest", lambda: "another")
    assert command(verify, to.model) == 0
    assert "made by another version of the judge; today's judge gives the same" in capsys.readouterr().out


def test_rows_missing_at_the_end_are_noticed(
    to: ReleaseMoves, ledger_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    last = to.ledger.entries(to.model)[-1]
    change(ledger_url, "delete from ledger where key = :key", key=last.key)
    assert command(verify, to.model) == 1
    assert f"row {last.seq}" in capsys.readouterr().out


def champion(to: ReleaseMoves) -> str:
    found = to.registry.alias(to.model, "champion")
    assert found is not None
    return found.version


def test_rollback_goes_to_the_version_before(to: ReleaseMoves, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(rollback, to.model, "--reason", "wrong prices") == 0
    assert "version 1 of" in (said := capsys.readouterr().out)
    assert "ledger and alias say so, too" in said
    assert champion(to) == "1"
    row = to.ledger.entries(to.model, kind="manual_rollback")[0].payload
    assert (row["left"], row["actor"], row["reason"]) == ("2", connect.actor(), "wrong prices")
    assert command(quarantine, "list", to.model) == 0
    assert f"{to.model} 2 " in capsys.readouterr().out
    assert command(rollback, to.model, "--to", "2", "--reason", "it was the network") == 0
    assert champion(to) == "2"
    assert to.traffic.quarantine.standing() == ()


def test_rollback_takes_a_canary_out_and_ends_its_release(to: ReleaseMoves) -> None:
    spec = small_spec()
    release_id = to.begin("third", to.find("3")).release_id
    to.set_route(release_id, "canary", spec.release, stable="2", version="3", weight_bp=500)
    assert command(rollback, to.model, "--reason", "complaints") == 0
    route = to.agent.route(to.model)
    assert route is not None
    assert (route.stable, route.canary) == ("2", None)
    with pytest.raises(RejectedError, match="no longer holds"):
        to.set_route(release_id, "canary_50", spec.release, stable="2", version="3", weight_bp=5000)
    assert [one.version for one in to.traffic.quarantine.standing()] == ["3"]


def test_an_older_version_on_trial_is_rejected_too(to: ReleaseMoves) -> None:
    ManualMoves(to.traffic).return_to("hand", "1", "first", "ada")
    to.traffic.quarantine.lift("2", by="ada", reason="all well", key=f"{to.model}/l")
    ManualMoves(to.traffic).return_to("hand2", "2", "second", "ada")
    release_id = to.begin("again", to.find("1")).release_id
    to.set_route(release_id, "canary", small_spec().release, stable="2", version="1", weight_bp=500)
    assert command(rollback, to.model, "--reason", "complaints") == 0
    assert champion(to) == "2"
    assert [one.version for one in to.traffic.quarantine.standing()] == ["1"]


def test_a_version_that_was_promoted_stays_though_its_watch_was_put_aside(to: ReleaseMoves) -> None:
    """Its run comes late: the release that put it aside has promoted another version, which may have to go back to it."""
    to.promote(to.begin("third", to.find("3")).release_id, "3", "2", small_spec())
    to.drop_orphan("2")
    assert f"{to.model}-2" in to.agent.apps()


def test_what_is_not_deployed_any_more_is_explained(to: ReleaseMoves) -> None:
    to.agent.retire(to.model, "1")
    for words in ((), ("--to", "1")):
        with pytest.raises(RejectedError, match="the DAG `rollback`"):
            command(rollback, to.model, *words, "--reason", "wrong prices")
    with pytest.raises(RejectedError, match="has all the traffic already"):
        command(rollback, to.model, "--to", "2", "--reason", "wrong prices")
    with pytest.raises(ConfigurationError, match="say in a few words why"):
        command(rollback, to.model, "--reason", " ")


def test_without_a_ledger_the_traffic_moves_all_the_same(
    to: ReleaseMoves, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise ServiceError("the ledger did not answer")

    monkeypatch.setattr(to.ledger, "claim", away)
    assert command(rollback, to.model, "--reason", "wrong prices") == 1
    assert "`reconcile` will make up for it" in capsys.readouterr().out
    assert to.agent.routes()[to.model].stable == "1"


def test_quarantine_by_hand(to: ReleaseMoves, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(quarantine, "put", to.model, "3", "--reason", "trained on the wrong month") == 0
    with pytest.raises(RejectedError, match="wrong month"):
        to.begin("third", to.find("3"))
    assert command(quarantine, "lift", to.model, "3", "--reason", "it was the right one") == 0
    assert command(quarantine, "lift", to.model, "3", "--reason", "it was the right one") == 1
    assert to.begin("third", to.find("3")).stable == "2"
