"""Whatever a crash has left: what is decided comes to an end, and then ledger, traffic and alias agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from operators.rollout.reconcile.policy import AgentRollback, ModelFacts, Open, Traffic, decide, problem

VERSIONS = ("1", "2", "3")
maybe = st.none() | st.sampled_from(VERSIONS)


@st.composite
def opened(draw: st.DrawFn, alive: bool) -> Open:
    kind = draw(st.sampled_from(("release", "return", "withdrawal", "reconciliation")))
    version = draw(st.sampled_from(VERSIONS))
    return Open(
        release_id="m/r#1",
        kind=kind,
        alive=alive,
        version=None if kind == "withdrawal" else version,
        stable=draw(st.none() | st.sampled_from([v for v in VERSIONS if v != version])),
        step=draw(st.sampled_from(("", "begin", "canary_5_pct", "promote", "rollback", "manual_rollback"))),
        promoted=draw(st.booleans()),
    )


@st.composite
def facts(draw: st.DrawFn, alive: bool = False) -> ModelFacts:
    stable = draw(maybe)
    traffic = Traffic(stable=stable, canary=draw(maybe), shadow=draw(maybe)) if stable else None
    rollback = AgentRollback(key="agent-1", stable=draw(st.sampled_from(VERSIONS)), left="9", reason="bad", actor="ada")
    deployed = draw(st.frozensets(st.sampled_from(VERSIONS)))
    return ModelFacts(
        open=draw(opened(alive) if alive else st.none() | opened(alive)),
        traffic=traffic,
        recorded=draw(maybe),
        champion=draw(maybe),
        deployed=deployed | (traffic.versions if traffic else frozenset()),
        orphans=draw(st.frozensets(st.sampled_from(VERSIONS))) & deployed,
        rollback=draw(st.none() | st.just(rollback)),
    )


def done(before: ModelFacts) -> ModelFacts | None:
    """The facts after the next action, by what each action promises; None: nothing is left to do."""
    action = decide(before)
    if action is None:
        return None
    stable = before.traffic.stable if before.traffic else None
    held = before.open
    ends: dict[str, object] = {"open": None}
    if action.do in ("finish_promotion", "end_watch", "return"):
        return before.model_copy(update=ends | agreed(action.version))
    if action.do == "roll_back":
        assert held is not None
        to = held.stable if stable in (None, held.version) else stable
        champion = None if to is None and before.champion == held.version else before.champion
        return before.model_copy(
            update=ends | (agreed(to) if to else {"traffic": None, "recorded": None, "champion": champion})
        )
    if action.do == "withdraw":
        return before.model_copy(update=ends | {"traffic": None, "recorded": None, "champion": None})
    if action.do == "abandon":
        return before.model_copy(update=ends)
    if action.do == "record_rollback":
        return before.model_copy(update=agreed(action.version) | {"rollback": None})
    if action.do in ("settle", "restore"):
        return before.model_copy(update=agreed(action.version))
    if action.do == "follow":
        return before.model_copy(update={"champion": action.version})
    assert action.do == "retire"
    assert action.version is not None
    gone = frozenset([action.version])
    return before.model_copy(update={"orphans": before.orphans - gone, "deployed": before.deployed - gone})


def agreed(version: str | None) -> dict[str, object]:
    return {"traffic": Traffic(stable=version), "recorded": version, "champion": version}


@given(facts())
def test_it_ends_in_agreement(start: ModelFacts) -> None:
    at, steps = start, 0
    while (following := done(at)) is not None:
        at, steps = following, steps + 1
        assert steps < 12
    assert at.open is None
    if at.traffic is not None:
        assert at.traffic.versions == {at.recorded} == {at.champion} == {at.traffic.stable}
    elif at.recorded is not None:
        assert at.recorded not in at.deployed
        assert at.recorded in problem(at)


@given(facts())
def test_what_has_traffic_is_never_deleted(start: ModelFacts) -> None:
    action = decide(start)
    if action is not None and action.do == "retire":
        assert start.traffic is None or action.version not in start.traffic.versions


@given(facts(alive=True))
def test_a_release_that_is_at_work_is_left_alone(start: ModelFacts) -> None:
    assert decide(start) is None
    assert problem(start) == ""


def release(step: str, *, promoted: bool = False) -> Open:
    return Open(release_id="m/r#1", kind="release", alive=False, version="2", stable="1", step=step, promoted=promoted)


def left(held: Open, stable: str) -> str | None:
    action = decide(
        ModelFacts(
            open=held,
            traffic=Traffic(stable=stable, canary="2" if stable == "1" else "1"),
            recorded="1",
            champion="1",
            deployed=frozenset("12"),
        )
    )
    return action.do if action else None


def test_how_a_release_ends_whose_run_is_dead() -> None:
    assert left(release("canary_5_pct"), "1") == "roll_back"
    assert left(release("promote"), "1") == "roll_back"  # the promotion was written, and never made
    assert left(release("promote"), "2") == "finish_promotion"
    assert left(release("promote", promoted=True), "2") == "end_watch"
    assert left(release("rollback", promoted=True), "2") == "roll_back"  # a rollback was written, and never made
    assert left(release("rollback", promoted=True), "1") == "roll_back"
