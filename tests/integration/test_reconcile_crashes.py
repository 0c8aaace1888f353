"""Kill every move between any two of its calls: reconciled, or run again, the release ends promoted or rolled back."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operators.core.errors import RejectedError
from operators.core.ledger import Ledger
from operators.core.traffic import Route
from operators.rollout.manual_moves import ManualMoves
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.reconcile.client import Reconciler, copy_journal, models, recorded
from operators.rollout.reconcile.policy import ModelFacts
from operators.rollout.release_moves import ReleaseMoves
from tests.support.release_world import FakeAgent, FakeRegistry, KilledError, Life, Mortal
from tests.support.specs import small_spec


@dataclass
class Release:
    """A model whose version 1 has the traffic, and whose version 2 is being released."""

    ledger: Ledger
    watch_s: float | None = None
    model: str = field(default_factory=lambda: f"m_{uuid.uuid4().hex[:12]}")

    def __post_init__(self) -> None:
        self.agent = FakeAgent("1", "2", "3", model=self.model)
        self.registry = FakeRegistry("1", "2", "3")
        self.spec = small_spec(name=self.model, release={"watch": f"{self.watch_s}s" if self.watch_s else None})
        release = self.spec.release
        to = self.controller()
        to.promote(to.begin("first", to.find("1")).release_id, "1", None, self.spec)
        self.release_id = to.begin("r", to.find("2")).release_id
        to.set_route(self.release_id, "canary", release, stable="1", version="2", weight_bp=500)

    def controller(self, life: Life | None = None) -> ReleaseMoves:
        services: tuple[Any, ...] = (self.ledger, self.registry, self.agent)
        if life is not None:
            services = tuple(Mortal(service, life) for service in services)
        ledger, registry, agent = services
        return ReleaseMoves(ModelTraffic(self.model, ledger=ledger, registry=registry, agent=agent))

    def reconcile(self, life: Life | None = None, *, alive: bool = False) -> list[str]:
        later = datetime.now(UTC) + timedelta(minutes=10)
        found = Reconciler(self.controller(life).traffic, alive=lambda _: alive, clock=lambda: later).run()
        assert found.problem == ""
        return [action.do for action in found.actions]

    def check(self) -> None:
        """Ledger, traffic and alias agree, and nothing is under way."""
        route = self.agent.route(self.model)
        champion = self.registry.alias(self.model, "champion")
        rows = self.ledger.entries(self.model)
        assert self.ledger.holder(self.model) is None
        assert recorded(rows) == (route.stable if route else None) == (champion.version if champion else None)
        assert route is None or (route.canary, route.shadow) == (None, None)
        assert self.ledger.broken_links(self.model) == []
        assert self.reconcile() == []


Move = Callable[[ReleaseMoves, Release], object]


def promote(to: ReleaseMoves, world: Release) -> None:
    to.promote(world.release_id, "2", "1", world.spec)


def roll_back(to: ReleaseMoves, world: Release) -> None:
    to.roll_back(world.release_id, "2", "1", "bad", rejected=True)


def return_to(to: ReleaseMoves, world: Release) -> None:
    ManualMoves(to.traffic).return_to("hand", "1", "bad", "ada")


def withdraw(to: ReleaseMoves, world: Release) -> None:
    ManualMoves(to.traffic).withdraw("ada", "obsolete")


def supersede(to: ReleaseMoves, world: Release) -> None:
    begun = to.begin("other", to.find("3"), when_busy="supersede")
    to.promote(begun.release_id, "3", begun.stable, world.spec)


def promote_and_watch(to: ReleaseMoves, world: Release) -> None:
    to.promote(world.release_id, "2", "1", world.spec)
    to.end_watch(world.release_id, "2", world.spec.release)


def promote_and_regret(to: ReleaseMoves, world: Release) -> None:
    to.promote(world.release_id, "2", "1", world.spec)
    to.roll_back(world.release_id, "2", "1", "the labels say so")


def by_the_agent(to: ReleaseMoves, world: Release) -> None:
    """What `taxiway rollback` does."""
    done = to.agent.roll_back(world.model, reason="bad", actor="ada")
    ManualMoves(to.traffic).return_to("hand", done.stable, "bad", "ada", left=done.left)


MOVES: list[tuple[Move, float | None]] = [
    (promote, None),
    (roll_back, None),
    (return_to, None),
    (withdraw, None),
    (supersede, None),
    (promote_and_watch, 60.0),
    (promote_and_regret, 60.0),
    (by_the_agent, None),
]


def killed(world: Release, move: Move, calls: int) -> bool:
    """Make a move with a life of so many calls; say whether it was too short."""
    try:
        move(world.controller(Life(calls)), world)
    except KilledError:
        return True
    return False


@pytest.mark.parametrize(("move", "watch_s"), MOVES, ids=lambda value: getattr(value, "__name__", ""))
def test_killed_anywhere_and_reconciled(ledger: Ledger, move: Move, watch_s: float | None) -> None:
    calls, endings = 0, set()
    while killed(world := Release(ledger, watch_s), move, calls):
        copy_journal(ledger, world.agent)
        world.reconcile()
        world.check()
        route = world.agent.route(world.model)
        endings.add(route.stable if route else None)
        calls += 1
    assert calls > 5
    assert endings <= {"1", "2", "3", None}
    expected = {promote: {"1", "2"}, roll_back: {"1"}, promote_and_watch: {"1", "2"}}
    assert endings == expected.get(move, endings)


@pytest.mark.parametrize(
    ("move", "watch_s"),
    [(promote, None), (roll_back, None), (return_to, None), (promote_and_watch, 60.0)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_killed_anywhere_and_run_again(ledger: Ledger, move: Move, watch_s: float | None) -> None:
    calls = 0
    while killed(world := Release(ledger, watch_s), move, calls):
        move(world.controller(), world)
        world.check()
        calls += 1


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_reconciliation_that_is_killed_is_ended_by_the_next(ledger: Ledger, share: float) -> None:
    whole = Life()
    promote((world := Release(ledger)).controller(whole), world)
    calls = 0
    while True:
        world = Release(ledger)
        assert killed(world, promote, int(share * len(whole.made)))
        try:
            assert world.reconcile(Life(calls)) != []
        except KilledError:
            world.reconcile()
            world.check()
            calls += 1
            continue
        break
    assert calls > 10


def test_a_task_that_comes_back_after_reconcile_changes_nothing(ledger: Ledger) -> None:
    world = Release(ledger)
    world.reconcile()
    for move in (
        promote,
        lambda to, w: to.set_route(w.release_id, "c", w.spec.release, stable="1", version="2", weight_bp=1),
    ):
        with pytest.raises(RejectedError, match="no longer holds"):
            move(world.controller(), world)
    world.check()


def test_a_release_at_work_is_left_alone(ledger: Ledger) -> None:
    world = Release(ledger)
    world.registry.aliases["champion"] = "3"  # even so
    before = (world.agent.routes(), len(ledger.entries(world.model)))
    assert world.reconcile(alive=True) == []
    assert (world.agent.routes(), len(ledger.entries(world.model))) == before


def test_a_rollback_at_the_agent_alone_reaches_ledger_and_alias(ledger: Ledger) -> None:
    world = Release(ledger)
    promote(world.controller(), world)
    world.agent.roll_back(world.model, reason="wrong prices", actor="bob")
    assert copy_journal(ledger, world.agent) >= 1
    assert world.reconcile() == ["record_rollback"]
    world.check()
    row = ledger.entries(world.model, kind="manual_rollback")[0].payload
    assert (row["version"], row["left"], row["actor"], row["reason"]) == ("1", "2", "bob", "wrong prices")
    assert [one.version for one in world.controller().traffic.quarantine.standing()] == ["2"]
    copy_journal(ledger, world.agent)
    assert len(ledger.entries(world.model, kind="edge")) == 1


def test_an_alias_that_was_moved_by_hand_follows_the_traffic(ledger: Ledger) -> None:
    world = Release(ledger)
    promote(world.controller(), world)
    world.registry.aliases["champion"] = "3"
    assert world.reconcile() == ["follow"]
    world.check()


def test_a_route_that_was_set_by_hand_is_written_down(ledger: Ledger) -> None:
    world = Release(ledger)
    promote(world.controller(), world)
    world.agent.set_route(Route(model=world.model, stable="3", canary="2"), force=True)
    assert world.reconcile() == ["settle"]
    world.check()


def test_an_edge_that_lost_its_routes_gets_them_again(ledger: Ledger) -> None:
    world = Release(ledger)
    promote(world.controller(), world)
    world.agent.held.clear()
    assert world.reconcile() == ["restore"]
    world.check()
    world.agent.held.clear()
    world.agent.deployed.clear()
    found = Reconciler(world.controller().traffic, alive=lambda _: False).run()
    assert "run the DAG `rollback` with version 2" in found.problem


def test_versions_that_nobody_needs_are_deleted_when_they_are_cold(ledger: Ledger) -> None:
    world = Release(ledger)
    promote(world.controller(), world)
    assert world.reconcile() == []  # version 1 is still warm; nobody knows what 3 is
    later = datetime.now(UTC) + timedelta(hours=3)
    kept = Reconciler(world.controller().traffic, alive=lambda _: False, clock=lambda: later, retires=False).run()
    assert kept.actions == ()
    found = Reconciler(world.controller().traffic, alive=lambda _: False, clock=lambda: later).run()
    assert [(action.do, action.version) for action in found.actions] == [("retire", "1")]
    assert world.agent.deployed == {"2", "3"}


def test_an_agent_that_lost_its_journal_is_copied_anew(ledger: Ledger) -> None:
    world = Release(ledger)
    for _ in range(3):
        world.agent.note("edge_restarted")
    copy_journal(ledger, world.agent)
    world.agent.entries.clear()
    world.agent.note("breaker_opened", model=world.model)
    assert copy_journal(ledger, world.agent) == 1
    assert ledger.entries(world.model, kind="edge")[-1].payload["kind"] == "breaker_opened"
    assert world.model in models(ledger, world.agent)
    assert "*" not in models(ledger, world.agent)


def test_what_is_decided_is_looked_at_again_once_the_model_is_held(ledger: Ledger) -> None:
    world = Release(ledger)
    promote(world.controller(), world)
    world.registry.aliases["champion"] = "3"

    class Late(Reconciler):
        """Somebody returns to version 1 just after the facts were gathered."""

        def facts(self) -> ModelFacts:
            found = super().facts()
            if not returned:
                returned.append(True)
                return_to(world.controller(), world)
            return found

    returned: list[bool] = []
    found = Late(world.controller().traffic, alive=lambda _: False).run()
    assert [action.do for action in found.actions] == ["follow"]
    assert ledger.entries(world.model, last=1)[0].kind == "abandoned"
    world.check()
    route = world.agent.route(world.model)
    assert route is not None
    assert route.stable == "1"
