"""Reconcile one model: gather what `reconcile.decide` asks for, and do what it says, until nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from operators.core.errors import ServiceError
from operators.core.ledger import BusyError, Entry, Ledger
from operators.registry.client import CHAMPION
from operators.rollout.controller import Controller
from operators.rollout.reconcile.policy import Action, AgentRollback, Facts, Open, Traffic, decide, problem
from operators.traffic.client import Agent

ALL_MODELS = "*"  # what the agent tells of no model in particular is kept under this name
_MOST_ACTIONS = 20
_BY_HAND_S = 120.0  # a person's return takes seconds; one that has held a model for longer was killed
_RETIREMENT_IS_LATE_S = 600.0
_ENDS = ("promoted", "rolled_back", "manual_rollback", "withdrawn", "reconciled")
_USES = (*_ENDS, "release_started", "weight_set", "watch_ended", "abandoned")
_VERSIONS = ("version", "previous", "stable", "left", "canary", "shadow")


class Report(BaseModel):
    """What a reconciliation did.

    :param problem: what only a person can mend; empty: nothing
    """

    model_config = ConfigDict(frozen=True)

    model: str
    actions: tuple[Action, ...]
    problem: str = ""


def models(ledger: Ledger, agent: Agent) -> list[str]:
    """Return every model that the ledger or the edge knows."""
    return sorted({*ledger.models(), *agent.routes()} - {ALL_MODELS})


def copy_journal(ledger: Ledger, agent: Agent) -> int:
    """Copy what the agent did by itself into the ledger, each entry once; return how many."""
    last = max((entry.payload for entry in ledger.entries(kind="edge", last=1)), key=lambda p: p["seq"], default=None)
    fresh = agent.journal(after=max(0, last["seq"] - 1)) if last else agent.journal()
    if last and (not fresh or fresh[0].at != last["at"]):  # an agent that lost its disk counts from 1 again
        fresh = agent.journal()
    for entry in fresh:
        said = entry.model_dump(mode="json")
        ledger.append(entry.model or ALL_MODELS, "edge", said, key=f"edge/{entry.seq}@{entry.at!r}")
    return len(fresh)


class Reconciler:
    """Brings one model to an end after a crash. Harmless beside a release that is under way: that is left alone.

    :param alive: says whether the Airflow run of a release is still at work; its argument is the run's id
    :param keep_warm_s: how long a replaced version stays deployed
    :param retires: whether versions that nobody needs are deleted; not while a person may be bringing one back
    """

    def __init__(
        self,
        controller: Controller,
        *,
        alive: Callable[[str], bool],
        keep_warm_s: float = 3600.0,
        retires: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._controller = controller
        self._ledger, self._agent = controller.ledger, controller.agent
        self._model = controller.model
        self._alive = alive
        self._needed = timedelta(seconds=keep_warm_s + _RETIREMENT_IS_LATE_S)
        self._retires = retires
        self._clock = clock

    def run(self) -> Report:
        """Do what is left to do.

        :raises ServiceError: a service did not answer, or it comes to no end
        """
        done: list[Action] = []
        for _ in range(_MOST_ACTIONS):
            facts = self.facts()
            action = decide(facts)
            if action is None:
                return Report(model=self._model, actions=tuple(done), problem=problem(facts))
            try:
                self._do(action, facts)
            except BusyError:  # a release has begun since
                return Report(model=self._model, actions=tuple(done))
            done.append(action)
        said = ", ".join(action.do for action in done)
        raise ServiceError(f"the reconciliation of {self._model} comes to no end: {said}")

    # ------------------------------------------------------------------ what is known

    def facts(self) -> Facts:
        """Gather what is known."""
        route = self._agent.route(self._model)
        traffic = Traffic(stable=route.stable, canary=route.canary, shadow=route.shadow) if route else None
        rows = self._ledger.entries(self._model, kind=_USES)
        champion = self._controller.registry.alias(self._model, CHAMPION)
        names = [name.rpartition("-") for name in self._agent.apps()]
        deployed = frozenset(version for model, _, version in names if model == self._model)
        return Facts(
            open=self._open(traffic),
            traffic=traffic,
            recorded=recorded(rows),
            champion=champion.version if champion else None,
            deployed=deployed,
            orphans=self._orphans(deployed, rows) if self._retires else frozenset(),
            rollback=self._rollback(rows),
        )

    def _open(self, traffic: Traffic | None) -> Open | None:
        release_id = self._ledger.holder(self._model)
        started = self._ledger.entry(f"{release_id}/started") if release_id else None
        if release_id is None or started is None:
            return None
        made = self._controller.moves_of(release_id)
        said = started.payload
        began = made[0].payload["stable"] if made and said["kind"] == "release" else said.get("stable")
        return Open(
            release_id=release_id,
            kind=said["kind"],
            alive=self._at_work(started),
            version=said["version"],
            stable=began if made or began else (traffic.stable if traffic else None),
            step=made[-1].payload["step"] if made else "",
            promoted=self._ledger.entry(f"{release_id}/promoted") is not None,
            by=said.get("by", ""),
            reason=said.get("reason", ""),
        )

    def _at_work(self, started: Entry) -> bool:
        said = started.payload
        if said["kind"] != "release" and self._clock() - started.at < timedelta(seconds=_BY_HAND_S):
            return True
        return "run" in said and self._alive(said["run"])

    def _orphans(self, deployed: Iterable[str], rows: Sequence[Entry]) -> frozenset[str]:
        """Return the versions that Taxiway has used, and not lately."""
        used = {str(row.payload[key]): row.at for row in rows for key in _VERSIONS if row.payload.get(key) is not None}
        now = self._clock()
        return frozenset(version for version in deployed if version in used and now - used[version] > self._needed)

    def _rollback(self, rows: Sequence[Entry]) -> AgentRollback | None:
        """Return the last rollback at the agent that took the traffic from a stable version, and has no row yet."""
        told = [e for e in self._ledger.entries(self._model, kind="edge") if e.payload["kind"] == "rolled_back"]
        if not told:
            return None
        said = told[-1].payload
        at = datetime.fromtimestamp(said["at"], UTC)
        before = recorded([row for row in rows if row.at < at])
        known = any(_says_the_same(row, said, at) for row in rows)
        if known or before != said["left"]:
            return None
        return AgentRollback(
            key=f"agent-{said['seq']}@{said['at']!r}",
            stable=said["stable"],
            left=said["left"],
            reason=said["reason"],
            actor=said["actor"],
        )

    # ------------------------------------------------------------------ what is done

    def _do(self, action: Action, facts: Facts) -> None:
        if facts.open is not None:
            self._end(action, facts.open)
        elif action.do == "record_rollback" and facts.rollback is not None:
            back = facts.rollback
            self._controller.return_to(back.key, back.stable, back.reason, back.actor, left=back.left, supersede=False)
        elif action.version is not None:
            self._agree(action, action.version)

    def _end(self, action: Action, held: Open) -> None:
        """End what is open, in its own name."""
        to, release_id, version = self._controller, held.release_id, str(action.version)
        if action.do == "finish_promotion":
            to.move(release_id, "watch_end", to.alone(version, release_id), force=True)
            to.finish_promotion(release_id, version, held.stable, watched=False)
        elif action.do == "end_watch":
            to.follow(version)
            to.move(release_id, "watch_end", to.alone(version, release_id), force=True)
            self._ledger.finish(self._model, release_id, "watch_ended", {"version": version, "why": action.why})
        elif action.do == "roll_back":
            to.roll_back(release_id, version, held.stable, to.why(release_id, otherwise=action.why))
        elif action.do == "return":
            to.move(release_id, "manual_rollback", to.alone(version, release_id), force=True)
            to.finish_return(release_id, version, held.stable, held.reason, held.by)
        elif action.do == "withdraw":
            to.finish_withdrawal(release_id, held.by, held.reason)
        else:
            self._ledger.finish(self._model, release_id, "abandoned", {"by": "reconcile", "why": action.why})

    def _agree(self, action: Action, version: str) -> None:
        """Hold the model, so that no release begins meanwhile, and mend one thing."""
        to, began = self._controller, self._clock().isoformat()
        release_id = to.next_id(f"reconcile-{began}")
        said = {"version": version, "kind": "reconciliation", "why": action.why}
        self._ledger.claim(self._model, release_id, said, supersede=False)
        if decide(self.facts().model_copy(update={"open": None})) != action:  # somebody was here before the claim
            why = "it was no longer needed"
            self._ledger.finish(self._model, release_id, "abandoned", {"by": "reconcile", "why": why})
            return
        done: dict[str, Any] = {"did": action.do, "version": version, "why": action.why}
        if action.do == "retire":
            to.delete_unless_used(version)
        else:
            if action.do in ("settle", "restore"):
                to.move(release_id, action.do, to.alone(version, release_id), force=True)
            to.follow(version)
            done["stable"] = version
        self._ledger.finish(self._model, release_id, "reconciled", done)


def recorded(rows: Iterable[Entry]) -> str | None:
    """Return the version that has the traffic by these rows, oldest first; None: none has."""
    stable: str | None = None
    for row in rows:
        if row.kind in ("promoted", "manual_rollback"):
            stable = row.payload["version"]
        elif row.kind == "withdrawn":
            stable = None
        elif row.kind in ("rolled_back", "reconciled"):
            stable = row.payload.get("stable", stable)
    return stable


def _says_the_same(row: Entry, said: dict[str, Any], at: datetime) -> bool:
    """Say whether a row is about this rollback: whoever asked the agent for it may have written it down already."""
    same = row.kind == "manual_rollback" and row.payload["version"] == said["stable"]
    return same and row.payload["left"] == said["left"] and row.at > at - timedelta(minutes=1)
