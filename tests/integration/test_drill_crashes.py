"""Kill a drill between any two of its calls: the next one, or `reconcile`, leaves nothing of it."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from operators.core.ledger import Ledger
from operators.core.spec import PredictionSpec
from operators.core.traffic import AppState
from operators.drills import copies
from operators.drills import operators as drill_operators
from operators.drills.operators import (
    ClaimDrillOperator,
    CleanUpDrillOperator,
    RemoveDrillCopiesOperator,
)
from operators.drills.policy import STEP
from operators.drills.record import Drills
from operators.registry.client import ModelVersion
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.quarantine import DIGEST_TAG
from operators.rollout.release_moves import ReleaseMoves
from tests.support.release_world import FakeAgent, FakeRegistry, KilledError, Life, Mortal
from tests.support.specs import small_spec
from tests.support.tasks import TaskInstance, context


class CopyAgent(FakeAgent):
    """Deploys at once."""

    def deploy(self, _spec: PredictionSpec, version: str, _uri: str) -> AppState:
        self.deployed.add(version)
        return AppState(status="RUNNING", message="")

    def counters(self, _model: str) -> Any:
        return None


class CopyRegistry(FakeRegistry):
    """Gives out versions in order, and never one twice. All are one model: MLflow knows whose copy each is."""

    given = 0

    def register(self, model: str, source: str, run_id: str, *, key: str, tags: dict[str, str]) -> ModelVersion:
        self.given += 1
        self.tags[str(self.given)] = tags = {**tags, DIGEST_TAG: "one"}
        return ModelVersion(model=model, version=str(self.given), source=source, run_id=run_id, tags=tags)

    def versions(self, model: str) -> list[ModelVersion]:
        return [self.version(model, version) for version in self.tags]

    def delete_version(self, _model: str, version: str) -> None:
        del self.tags[version]


class Copied:
    """A model with a champion, and what its copy lives in."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = f"m{uuid.uuid4().hex[:8]}"
        self.copy = f"{self.model}_drill"
        self.ledger = ledger
        self.registry = FakeRegistry("7")
        spec = small_spec(name=self.model)
        self.registry.tags["7"] = {"taxiway.smoke_key": "rows", "taxiway.spec": spec.to_json()}
        self.registry.set_alias(self.model, "champion", "7")
        self.copies, self.agent = CopyRegistry(), CopyAgent(model=self.copy)
        self.files = {f"predictions/{self.copy}/a", f"predictions/{self.model}/b"}
        self.storage = SimpleNamespace(
            list=lambda prefix: [key for key in self.files if key.startswith(f"{prefix}/")], delete=self.files.discard
        )
        self.jobs = SimpleNamespace(stop=lambda: None)
        self.life: Life | None = None
        self.alive: set[str] = set()
        monkeypatch.setattr(copies, "Cluster", lambda _drill: self.jobs)
        monkeypatch.setattr(drill_operators, "release_moves_of", self.controller)
        monkeypatch.setattr(drill_operators, "spec_of", lambda _model: spec)
        monkeypatch.setattr(drill_operators, "_ledger", lambda: self.ledger)
        monkeypatch.setattr(drill_operators, "_storage", lambda: self.storage)

    def controller(self, name: str) -> ReleaseMoves:
        registry = self.copies if name == self.copy else self.registry
        services: list[Any] = [self.ledger, registry, self.agent]
        if self.life is not None:
            services = [Mortal(service, self.life) for service in services]
        return ReleaseMoves(ModelTraffic(name, ledger=services[0], registry=services[1], agent=services[2]))

    def context(self, run_id: str) -> dict[str, Any]:
        ti = TaskInstance(dag_id="drill", run_id=run_id)
        runs = lambda dag_id, run_ids, states: len(self.alive & set(run_ids))  # noqa: E731
        ti.get_dr_count = runs  # type: ignore[attr-defined]
        return context(ti, dag=SimpleNamespace(dag_id="drill"), run_id=run_id)

    def claim(self, run_id: str) -> dict[str, Any]:
        task = ClaimDrillOperator(task_id="claim", model=self.model, faults=["dead_controller"])
        return task.execute(self.context(run_id))

    def play(self, run_id: str) -> None:
        """Do all that a drill does to the world, but for the waiting."""
        claimed = self.claim(run_id)
        about = copies.Original.model_validate(claimed["original"])
        drill = Drills(self.ledger, self.model).unfinished()[-1]
        to = self.controller(self.copy)
        cast = copies.register(to.traffic, self.jobs, drill, about)
        begun = to.begin(f"{drill.drill_id}/stable", to.registry.version(self.copy, cast.stable))
        to.promote(begun.release_id, cast.stable, begun.stable, cast.spec)
        release = to.begin(drill.drill_id, to.registry.version(self.copy, cast.canary)).release_id
        to.set_route(release, STEP, cast.spec.release, stable=cast.stable, version=cast.canary, weight_bp=5000)
        to.roll_back(release, cast.canary, cast.stable, "the lease has ended", rejected=True)
        drills = Drills(to.ledger, self.model)
        drills.record(drill, passed=True, problems=[], facts={})
        copies.clean_up(to.traffic, drills, drill, self.storage, by=drill.drill_id)

    def reconcile(self) -> list[str]:
        task = RemoveDrillCopiesOperator(task_id="remove_drill_copies", model=self.copy)
        return task.execute(self.context("reconcile")).get(self.copy, [])

    def check(self) -> None:
        assert (self.agent.routes(), self.agent.deployed) == ({}, set())
        assert (self.copies.tags, self.copies.aliases) == ({}, {})
        assert self.ledger.holder(self.copy) is None
        assert self.controller(self.copy).traffic.quarantine.standing() == ()
        assert Drills(self.ledger, self.model).unfinished() == ()
        assert self.ledger.broken_links(self.model) == self.ledger.broken_links(self.copy) == []
        assert self.registry.aliases == {"champion": "7"}
        assert self.reconcile() == []


@pytest.fixture
def world(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Copied:
    return Copied(ledger, monkeypatch)


def test_a_drill_leaves_its_result_and_nothing_else(world: Copied) -> None:
    world.play("r")
    world.check()
    (row,) = world.ledger.entries(world.model, kind="drill")
    assert (row.payload["passed"], row.payload["fault"], row.payload["copy"]) == (True, "dead_controller", world.copy)
    assert world.files == {f"predictions/{world.model}/b"}


@pytest.mark.parametrize("passed", [True, False])
def test_who_the_spec_names_hears_of_a_drill_that_failed(
    world: Copied, monkeypatch: pytest.MonkeyPatch, passed: bool
) -> None:
    heard: list[tuple[str, str]] = []
    monkeypatch.setattr(
        drill_operators, "tell", lambda _spec, moment, text, _context, **_: heard.append((moment, text))
    )
    claimed = world.claim("r")
    (drill,) = Drills(world.ledger, world.model).unfinished()
    if passed:
        Drills(world.ledger, world.model).record(drill, passed=True, problems=[], facts={})
    CleanUpDrillOperator(task_id="clean_up", claimed=claimed).execute(world.context("r"))
    said = "the drill dead_controller failed: it ended before it had a result: a task failed, or was killed"
    assert heard == ([] if passed else [("rolled_back", said)])
    world.check()


@pytest.mark.parametrize(("mended_by", "every"), [("reconcile", 1), ("the next drill", 10), ("the same run", 10)])
def test_whatever_is_killed_nothing_is_left(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, mended_by: str, every: int
) -> None:
    calls, died = 0, True
    while died:
        world = Copied(ledger, monkeypatch)
        world.life, died = Life(calls), False
        try:
            world.play("r")
        except KilledError:
            died = True
        world.life = None
        if mended_by == "reconcile":
            world.alive = {"r"}
            assert world.reconcile() == []  # not while its run is at work
            world.alive = set()
            world.reconcile()
        else:
            world.play("r" if mended_by == "the same run" else "next")
        world.check()
        started = ledger.entries(world.model, kind="drill_started")
        results = ledger.entries(world.model, kind="drill")
        assert len(results) == len(started)  # each has one, also the one that died
        calls += every
    assert calls > 30


def test_two_drills_of_a_model_do_not_meet(world: Copied) -> None:
    world.claim("first")
    world.alive = {"first"}
    with pytest.raises(
        AirflowFailException, match=r"a release of .*_drill is under way: dead_controller, by run first of drill"
    ):
        world.claim("second")
    assert [drill.run_id for drill in Drills(world.ledger, world.model).unfinished()] == ["first"]
    world.alive = set()
    world.play("third")
    world.check()
