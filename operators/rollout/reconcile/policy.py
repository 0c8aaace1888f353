"""The next thing to do for one model after a crash, from the facts of ledger, edge, registry and Serve. Pure.

A release ends in promoted or rolled back, never between; then ledger, traffic and alias name the same version. Where they
differ, ledger and alias follow the traffic: callers have had these answers already.
"""

from __future__ import annotations

from typing import Literal

from operators.core.frozen import Frozen

PROMOTE, ROLL_BACK = "promote", "rollback"  # names of the steps that the moves write


class Open(Frozen):
    """A claim on the model that has not ended.

    :param kind: a release; a person's return to a version; a withdrawal; or a reconciliation
    :param alive: whether its run is still at work
    :param version: the version on trial, or the one to return to; None for a withdrawal
    :param stable: the version that had the traffic when it began
    :param step: the last change of the route that it wrote; empty: none
    :param promoted: whether its promotion is in the ledger
    """

    release_id: str
    kind: Literal["release", "return", "withdrawal", "reconciliation"]
    alive: bool
    version: str | None
    stable: str | None
    step: str
    promoted: bool
    by: str = ""
    reason: str = ""


class Traffic(Frozen):
    """Which versions the edge routes to."""

    stable: str | None
    canary: str | None = None
    shadow: str | None = None

    @property
    def versions(self) -> frozenset[str]:
        """Every version in it."""
        return frozenset(v for v in (self.stable, self.canary, self.shadow) if v is not None)


class AgentRollback(Frozen):
    """A return to the version before that a person made at the agent, without a row in the ledger.

    :param key: its id, which never changes
    """

    key: str
    stable: str
    left: str
    reason: str
    actor: str


class ModelFacts(Frozen):
    """What is known of one model.

    :param recorded: the version that has the traffic by the ledger; None: none has
    :param champion: where the alias points
    :param deployed: versions on Serve
    :param orphans: of these, the ones that no release needs any more
    :param rollback: the last return at the agent, if the ledger lacks it
    """

    open: Open | None
    traffic: Traffic | None
    recorded: str | None
    champion: str | None
    deployed: frozenset[str]
    orphans: frozenset[str] = frozenset()
    rollback: AgentRollback | None = None


class Action(Frozen):
    """One thing to do.

    :param do: `finish_promotion`, `end_watch`, `roll_back`, `return`, `withdraw`, `abandon` end what is open; `record_rollback`
        writes down what a person did at the agent; `settle` takes canary and shadow out and writes down who has the traffic;
        `restore` gives it to the recorded version again; `follow` moves the alias; `retire` deletes a version
    :param version: the version that it is about
    """

    do: Literal[
        "finish_promotion", "end_watch", "roll_back", "return", "withdraw", "abandon",
        "record_rollback", "settle", "restore", "follow", "retire",
    ]  # fmt: skip
    version: str | None = None
    why: str


def decide(facts: ModelFacts) -> Action | None:
    """Return the next thing to do; None if nothing is left, or a release is under way.

    Repeated until it returns None, it ends where ledger, traffic and alias agree.
    """
    if facts.open is not None:
        return None if facts.open.alive else _end(facts.open, facts)
    return _agree(facts) or _tidy(facts)


def problem(facts: ModelFacts) -> str:
    """Return what only a person can solve, or an empty string."""
    lost = facts.open is None and facts.recorded is not None and _stable(facts) is None
    if lost and facts.recorded not in facts.deployed:
        return (
            f"version {facts.recorded} should have the traffic, but the edge has no route and the version is not deployed; "
            f"run the DAG `rollback` with version {facts.recorded}"
        )
    return ""


def _stable(facts: ModelFacts) -> str | None:
    return facts.traffic.stable if facts.traffic else None


def _end(held: Open, facts: ModelFacts) -> Action:
    stable = _stable(facts)
    if held.kind == "withdrawal":
        return Action(do="withdraw", why="its withdrawal was cut short")
    if held.kind == "reconciliation":
        return Action(do="abandon", why="an earlier reconciliation was cut short")
    if held.kind == "return":
        there = held.version == stable or held.version in facts.deployed
        why = f"the return to version {held.version} was cut short"
        return Action(do="return" if there else "abandon", version=held.version, why=why)
    if stable == held.version and held.promoted and held.step != ROLL_BACK:
        return Action(do="end_watch", version=held.version, why="its run has ended without ending the watch")
    if stable == held.version and held.step == PROMOTE:
        return Action(do="finish_promotion", version=held.version, why="its promotion was cut short")
    return Action(do="roll_back", version=held.version, why="its run has ended without ending the release")


def _agree(facts: ModelFacts) -> Action | None:
    """Make ledger, traffic and alias name one version."""
    stable, traffic = _stable(facts), facts.traffic
    if stable is None:
        if facts.recorded is None or facts.recorded not in facts.deployed:
            return None
        return Action(do="restore", version=facts.recorded, why="the edge had no route for it")
    if facts.rollback is not None and facts.rollback.stable == stable:
        return Action(do="record_rollback", version=stable, why=facts.rollback.reason)
    if facts.recorded != stable:
        was = f"version {facts.recorded}" if facts.recorded else "none"
        return Action(do="settle", version=stable, why=f"the ledger had {was} in its place")
    if traffic is not None and traffic.versions != {stable}:
        return Action(do="settle", version=stable, why="the edge had a canary or shadow without a release")
    if facts.champion != stable:
        return Action(do="follow", version=stable, why=f"`champion` pointed at {facts.champion or 'nothing'}")
    return None


def _tidy(facts: ModelFacts) -> Action | None:
    routed = facts.traffic.versions if facts.traffic else frozenset()
    for version in sorted(facts.orphans - routed, key=int):
        return Action(do="retire", version=version, why="no release needs it any more")
    return None
