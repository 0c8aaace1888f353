"""A release and `taxiway rollback` with a real agent, HAProxy and ledger: the command takes effect in under a second."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from operators.core.errors import RejectedError, ServiceRefusedError
from operators.rollout.reconcile.client import Reconciler, copy_journal
from operators.rollout.release_moves import ReleaseMoves
from operators.traffic.limits import AnswerLimits
from tests.support.agent_world import MODEL, World, answers
from tests.support.specs import small_spec
from tests.support.waiting import seconds_until


def _in_ten_minutes() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=10)


def test_a_release_is_watched_rolled_back_and_mended(to: ReleaseMoves, world: World) -> None:
    spec = small_spec(name=MODEL, release={"watch": "60s", "holdout_pct": 10.0})
    release = spec.release
    port = world.ports["a"]
    to.promote(to.begin("first", to.find("1")).release_id, "1", None, spec)
    assert answers(port) == "1"

    release_id = to.begin("second", to.find("2")).release_id
    to.set_route(release_id, "canary_50", release, stable="1", version="2", weight_bp=5000, limits=AnswerLimits(30_000))
    call = world.call()
    assert {call(f"u{n}")[1] for n in range(60)} == {"1", "2"}
    assert to.promote(release_id, "2", "1", spec) is True
    route = to.agent.route(MODEL)
    assert route is not None
    assert (route.stable, route.canary, route.weight_now_bp, route.holder) == ("2", "1", 100, release_id)

    # One HTTP call, while the promotion is watched: back to the old version, whose control group was no canary.
    done = to.agent.roll_back(MODEL, reason="complaints", actor="bob")
    assert (done.stable, done.left) == ("1", "2")
    assert answers(port) == "1"
    with pytest.raises((RejectedError, ServiceRefusedError), match="rolled back"):
        to.end_watch(release_id, "2", release)
    to.roll_back(release_id, "2", "1", "its watch ended blind")  # what the release's task does then
    assert [one.version for one in to.traffic.quarantine.standing()] == ["2"]
    copy_journal(to.ledger, to.agent)
    Reconciler(to.traffic, alive=lambda _: False).run()
    assert answers(port) == "1"
    champion = to.registry.alias(MODEL, "champion")
    assert champion is not None
    assert champion.version == "1"
    assert to.ledger.broken_links(MODEL) == []


def test_the_command_takes_effect_at_once(to: ReleaseMoves, world: World) -> None:
    spec = small_spec(name=MODEL)
    port = world.ports["a"]
    if answers(port) != "1":
        to.promote(to.begin("first", to.find("1")).release_id, "1", None, spec)
    to.promote(to.begin("third", to.find("3")).release_id, "3", "1", spec)
    assert answers(port) == "3"

    program = (
        "import sys, argparse; from operators.cli import rollback; p = argparse.ArgumentParser(); "
        "rollback.add_parser(p.add_subparsers()); o = p.parse_args(sys.argv[1:]); raise SystemExit(o.run(o))"
    )
    command = [sys.executable, "-c", program, "rollback", MODEL, "--reason", "wrong prices"]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
    taken_s = seconds_until(lambda: answers(port) == "1")
    said, _ = process.communicate(timeout=300)
    assert "version 1 of flights has all the traffic" in said
    moved_s = float(said.split(" after ")[1].split(" s")[0])
    print(f"{moved_s} s from the call, {taken_s:.2f} s with the start of Python")
    assert moved_s < 20  # it waits for no timeout, of the alias or the ledger

    # MLflow is away: the alias waits for `reconcile`, the traffic did not.
    assert process.returncode == 1
    assert "the DAG `reconcile` will write it" in said
    copy_journal(to.ledger, to.agent)
    later = Reconciler(to.traffic, alive=lambda _: False, clock=_in_ten_minutes).run()
    assert later.actions[0].do == "return"
    champion = to.registry.alias(MODEL, "champion")
    assert champion is not None
    assert champion.version == "1"
    assert to.ledger.holder(MODEL) is None
