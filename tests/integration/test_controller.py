"""A release's moves on a real ledger."""

from __future__ import annotations

import uuid

import pytest

from operators.core.errors import BusyError, RejectedError, ServiceRefusedError
from operators.core.ledger import Ledger
from operators.core.rows import VerdictRow
from operators.core.spec import PredictionSpec
from operators.core.traffic import RouteState
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.rollout.manual_moves import ManualMoves
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.quarantine import DIGEST_TAG, QuarantinedError
from operators.rollout.release_moves import ReleaseMoves
from operators.traffic.limits import AnswerLimits
from tests.support.release_world import FakeAgent, FakeRegistry
from tests.support.specs import small_spec


@pytest.fixture
def model() -> str:
    return f"m_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def agent(model: str) -> FakeAgent:
    return FakeAgent("1", "2", "3", model=model)


@pytest.fixture
def registry(model: str) -> FakeRegistry:
    return FakeRegistry("1", "2", "3")


@pytest.fixture
def spec(model: str) -> PredictionSpec:
    return small_spec(name=model)


@pytest.fixture
def controller(model: str, ledger: Ledger, agent: FakeAgent, registry: FakeRegistry) -> ReleaseMoves:
    return ReleaseMoves(ModelTraffic(model, ledger=ledger, registry=registry, agent=agent))


def first_release(controller: ReleaseMoves, spec: PredictionSpec) -> None:
    begun = controller.begin("first", controller.find("1"))
    assert begun.stable is None
    controller.promote(begun.release_id, "1", None, spec)


def watching(spec: PredictionSpec) -> PredictionSpec:
    return spec.model_copy(update={"release": spec.release.model_copy(update={"watch_s": 60.0})})


def state(controller: ReleaseMoves) -> tuple[str | None, str | None]:
    """Where traffic and alias are."""
    route = controller.agent.route(controller.model)
    champion = controller.registry.alias(controller.model, "champion")
    return route.stable if route else None, champion.version if champion else None


def now(agent: FakeAgent) -> RouteState:
    route = agent.route(agent.model)
    assert route is not None
    return route


def kinds(controller: ReleaseMoves) -> list[str]:
    return [entry.kind for entry in controller.ledger.entries(controller.model)]


def verdict(controller: ReleaseMoves, release_id: str, outcome: Outcome) -> None:
    judgement = Judgement(outcome=outcome, reason="because", guards={}).model_dump(mode="json")
    evidence = Evidence().model_dump(mode="json")
    row = VerdictRow(step="canary", policy={}, evidence=evidence, judgement=judgement, elapsed_s=1.0)
    controller.record_verdict(release_id, row)


def test_a_release_moves_alias_and_traffic(controller: ReleaseMoves, spec: PredictionSpec, agent: FakeAgent) -> None:
    first_release(controller, spec)
    assert state(controller) == ("1", "1")
    begun = controller.begin("r", controller.find("2"))
    move = controller.set_route(begun.release_id, "canary_5", spec.release, stable="1", version="2", weight_bp=500)
    assert (move.route.weight_bp, move.route.holder, move.route.lease_s) == (
        500,
        begun.release_id,
        spec.release.lease_s,
    )
    assert now(agent).weight_bp == 500
    assert controller.promote(begun.release_id, "2", "1", spec) is False
    assert state(controller) == ("2", "2")
    assert controller.promote(begun.release_id, "2", "1", spec) is False  # the task was killed just before its end
    assert kinds(controller)[-4:] == ["weight_set", "weight_set", "weight_set", "promoted"]
    assert controller.ledger.broken_links(controller.model) == []


def test_a_step_that_runs_again_makes_the_move_of_its_first_try(controller: ReleaseMoves, spec: PredictionSpec) -> None:
    first_release(controller, spec)
    release_id = controller.begin("r", controller.find("2")).release_id

    def step(name: str, weight_bp: int, slow_us: int) -> int | None:
        move = controller.set_route(
            release_id, name, spec.release, stable="1", version="2", weight_bp=weight_bp, limits=AnswerLimits(slow_us)
        )
        return move.route.slow_us

    assert step("a", 500, 10_000) == 10_000
    written = len(kinds(controller))
    assert step("a", 500, 99_000) == 10_000
    assert len(kinds(controller)) == written
    step("b", 5000, 10_000)
    assert step("a", 500, 20_000) == 20_000  # somebody has cleared an earlier task: that is a change, and a row
    assert len(kinds(controller)) == written + 2
    assert [m.route.weight_bp for m in controller.traffic.moves_of(release_id)][-3:] == [500, 5000, 500]


def test_a_version_that_was_taken_out_at_once_is_rolled_back_by_the_same_row(
    controller: ReleaseMoves, spec: PredictionSpec, agent: FakeAgent
) -> None:
    first_release(controller, spec)
    release_id = controller.begin("r", controller.find("2")).release_id
    controller.set_route(release_id, "canary", spec.release, stable="1", version="2", weight_bp=5000)
    for _ in range(2):  # the trigger was killed, and made again
        controller.take_out(release_id, "2", "1")
        assert (now(agent).stable, now(agent).canary) == ("1", None)
    written = kinds(controller).count("weight_set")
    controller.roll_back(release_id, "2", "1", "it fails")
    assert kinds(controller).count("weight_set") == written
    assert state(controller) == ("1", "1")


def test_the_second_release_waits(controller: ReleaseMoves, spec: PredictionSpec) -> None:
    first_release(controller, spec)
    begun = controller.begin("r", controller.find("2"))
    with pytest.raises(BusyError) as caught:
        controller.begin("other", controller.find("3"))
    assert caught.value.holder == begun.release_id
    controller.roll_back(begun.release_id, "2", "1", "no longer wanted")
    assert controller.begin("other", controller.find("3")).stable == "1"


def test_the_second_release_supersedes(controller: ReleaseMoves, spec: PredictionSpec, agent: FakeAgent) -> None:
    first_release(controller, spec)
    old = controller.begin("r", controller.find("2")).release_id
    controller.set_route(old, "canary", spec.release, stable="1", version="2", weight_bp=500)
    begun = controller.begin("other", controller.find("3"), when_busy="supersede")
    assert begun.stable == "1"
    assert (now(agent).canary, now(agent).holder) == (None, begun.release_id)
    assert agent.deployed == {"1", "3"}
    assert controller.ledger.end(old).kind == "abandoned"  # type: ignore[union-attr]
    with pytest.raises(RejectedError, match="no longer holds"):
        controller.set_route(old, "canary_50", spec.release, stable="1", version="2", weight_bp=5000)
    with pytest.raises(RejectedError, match="ended by"):
        controller.begin("r", controller.find("2"))
    with pytest.raises(RejectedError, match="no longer holds"):
        controller.roll_back(old, "2", "1", "its run failed")


def test_an_orphan_that_is_released_again_is_not_deleted(
    controller: ReleaseMoves, spec: PredictionSpec, agent: FakeAgent
) -> None:
    first_release(controller, spec)
    controller.begin("r", controller.find("2"))
    controller.begin("other", controller.find("2"), when_busy="supersede")
    controller.drop_orphan("2")
    assert "2" in agent.deployed
    controller.drop_orphan("3")
    assert "3" not in agent.deployed


def test_a_zombie_is_stopped_by_the_edge_too(controller: ReleaseMoves, spec: PredictionSpec, agent: FakeAgent) -> None:
    first_release(controller, spec)
    old = controller.begin("r", controller.find("2")).release_id
    move = controller.set_route(old, "canary", spec.release, stable="1", version="2", weight_bp=500)
    controller.begin("other", controller.find("3"), when_busy="supersede")
    agent.deployed.add("2")
    with pytest.raises(ServiceRefusedError, match="is held by"):
        agent.set_route(move.route)  # it was past the ledger when it was put aside


def test_a_watched_promotion_keeps_a_control_and_comes_back(
    controller: ReleaseMoves, spec: PredictionSpec, agent: FakeAgent
) -> None:
    spec = watching(spec)
    first_release(controller, spec)
    release_id = controller.begin("r", controller.find("2")).release_id
    controller.set_route(release_id, "canary", spec.release, stable="1", version="2", weight_bp=5000)
    assert controller.promote(release_id, "2", "1", spec) is True
    route = now(agent)
    assert (route.stable, route.canary, route.weight_bp, route.from_top) == ("2", "1", 100, True)
    assert state(controller) == ("2", "2")
    agent.lose_lease()
    controller.watch(release_id)
    assert now(agent).weight_now_bp == 100
    controller.roll_back(release_id, "2", "1", "labels say so")
    assert state(controller) == ("1", "1")
    assert agent.deployed == {"1", "3"}
    with pytest.raises(QuarantinedError, match="labels say so"):
        controller.begin("again", controller.find("2"))


def test_a_watch_that_finds_nothing_ends(controller: ReleaseMoves, spec: PredictionSpec, agent: FakeAgent) -> None:
    spec = watching(spec)
    first_release(controller, spec)
    release_id = controller.begin("r", controller.find("2")).release_id
    controller.promote(release_id, "2", "1", spec)
    for _ in range(2):
        controller.end_watch(release_id, "2", spec.release)
    assert now(agent).canary is None
    assert state(controller) == ("2", "2")
    assert agent.deployed == {"1", "2", "3"}  # the old version stays warm
    assert controller.ledger.holder(spec.name) is None
    assert ManualMoves(controller.traffic).earlier(None) == "1"


@pytest.mark.parametrize(
    ("outcome", "rejected", "kept_out"),
    [
        (Outcome.FAILED, None, True),
        (Outcome.INCONCLUSIVE, None, False),
        (None, None, False),
        (None, True, True),  # a smoke test
    ],
)
def test_what_goes_into_quarantine(
    controller: ReleaseMoves,
    spec: PredictionSpec,
    registry: FakeRegistry,
    outcome: Outcome | None,
    rejected: bool | None,
    kept_out: bool,
) -> None:
    registry.tags["2"][DIGEST_TAG] = registry.tags["3"][DIGEST_TAG] = "same"
    first_release(controller, spec)
    release_id = controller.begin("r", controller.find("2")).release_id
    if outcome:
        verdict(controller, release_id, outcome)
    controller.roll_back(release_id, "2", "1", controller.why(release_id), rejected=rejected)
    if not kept_out:
        assert controller.begin("again", controller.find("2")).stable == "1"
        return
    for version in ("2", "3"):
        with pytest.raises(QuarantinedError, match="rejected"):
            controller.begin("again", controller.find(version))
    quarantine = controller.traffic.quarantine
    assert quarantine.lift("3", by="ada", reason="the data was wrong, not the model", key=f"{controller.model}/lift1")
    assert quarantine.lift("3", by="ada", reason="once more", key=f"{controller.model}/lift2") is None
    assert controller.begin("again", controller.find("2")).stable == "1"
    row = controller.ledger.entries(controller.model, kind="quarantine_lifted")[0]
    assert (row.payload["by"], row.payload["reason"]) == ("ada", "the data was wrong, not the model")


def test_a_rollback_names_the_person_who_decided_it(controller: ReleaseMoves, spec: PredictionSpec) -> None:
    first_release(controller, spec)
    release_id = controller.begin("r", controller.find("2")).release_id
    verdict(controller, release_id, Outcome.INCONCLUSIVE)
    controller.approve(release_id, "ask_at_5_pct", answer="go_on", by="ada")
    assert controller.why(release_id).startswith("canary: Inconclusive")
    controller.approve(release_id, "ask_at_25_pct", answer="roll_back", by="eve")
    assert controller.why(release_id) == "ask_at_25_pct: eve decided to roll back"


def test_a_person_returns_to_a_version(controller: ReleaseMoves, spec: PredictionSpec, agent: FakeAgent) -> None:
    first_release(controller, spec)
    release_id = controller.begin("r", controller.find("2")).release_id
    controller.promote(release_id, "2", "1", spec)
    running = controller.begin("r3", controller.find("3")).release_id
    assert (
        ManualMoves(controller.traffic).return_to("hand", ManualMoves(controller.traffic).earlier(None), "wrong", "ada")
        == "2"
    )
    assert state(controller) == ("1", "1")
    with pytest.raises(RejectedError, match="no longer holds"):
        controller.set_route(running, "canary", spec.release, stable="2", version="3", weight_bp=500)
    with pytest.raises(QuarantinedError):
        controller.begin("again", controller.find("2"))
    # Somebody says: it was not the model. Going back to it ends its quarantine.
    ManualMoves(controller.traffic).return_to("hand2", "2", "it was the network", "ada")
    assert controller.traffic.quarantine.standing() == ()
    assert state(controller) == ("2", "2")


def test_withdrawn_and_retired(controller: ReleaseMoves, spec: PredictionSpec, agent: FakeAgent) -> None:
    first_release(controller, spec)
    assert ManualMoves(controller.traffic).retire("r", "1") is False
    assert ManualMoves(controller.traffic).retire("r", "3") is True
    assert ManualMoves(controller.traffic).withdraw("ada", "obsolete") is True
    assert state(controller) == (None, None)
    assert agent.deployed == set()
    assert ManualMoves(controller.traffic).withdraw("ada", "obsolete") is False


def test_looks_are_numbered_and_told_apart(controller: ReleaseMoves) -> None:
    seen = Evidence()
    assert [controller.record_look("r", "canary", seen) for _ in range(2)] == [1, 2]
    assert [look.n for look in controller.ledger.looks("r")] == [1, 2]
    assert controller.ledger.look_numbers("r", "canary", seen.model_dump(mode="json")) == [1, 2]


def test_what_has_the_traffic_is_not_released(
    controller: ReleaseMoves, spec: PredictionSpec, registry: FakeRegistry
) -> None:
    first_release(controller, spec)
    with pytest.raises(RejectedError, match="has all the traffic already"):
        controller.begin("r", controller.find("1"))
    assert controller.ledger.entry(f"{controller.model}/r#1/started") is None
    registry.aliases["champion"] = (
        "3"  # somebody has moved it: then it is mended, and still there is nothing to release
    )
    with pytest.raises(RejectedError, match="has all the traffic already"):
        controller.begin("r", controller.find("1"))
    assert state(controller) == ("1", "1")
    assert controller.ledger.holder(controller.model) is None
