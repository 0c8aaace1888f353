"""Reconcile one model: gather the facts, ask `decide` for the next action, do it, until nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from operators.core import rows
from operators.core.errors import BusyError, ServiceError
from operators.core.frozen import Frozen
from operators.core.ledger_entry import Entry
from operators.registry.client import CHAMPION
from operators.rollout.manual_moves import ManualMoves
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.reconcile.policy import Action, AgentRollback, ModelFacts, Open, Traffic, decide, problem
from operators.rollout.release_moves import ReleaseMoves
from operators.traffic.client import Agent

if TYPE_CHECKING:
    from operators.core.ledger import Ledger

ALL_MODELS = "*"  # the ledger's name for journal entries that are about no single model
_MOST_ACTIONS = 20
_MANUAL_S = 120.0  # a person's return takes seconds; one that has held a model for longer was killed
_RETIREMENT_IS_LATE_S = 600.0
_USES = (
    rows.PromotedRow.KIND, rows.RolledBackRow.KIND, rows.ManualRollbackRow.KIND, rows.WithdrawnRow.KIND, rows.ReconciledRow.KIND,
    rows.ReleaseStartedRow.KIND, rows.WeightSetRow.KIND, rows.WatchEndedRow.KIND, rows.AbandonedRow.KIND,
)  # fmt: skip
_VERSIONS = ("version", "previous", "stable", "left", "canary", "shadow")


class Reconciliation(Frozen):
    """What a reconciliation did.

    :param problem: what only a person can solve; empty: nothing
    """

    model: str
    actions: tuple[Action, ...]
    problem: str = ""


def models(ledger: Ledger, agent: Agent) -> list[str]:
    """Return every model that the ledger or the edge knows."""
    return sorted({*ledger.models(), *agent.routes()} - {ALL_MODELS})


def copy_journal(ledger: Ledger, agent: Agent) -> int:
    """Copy what the agent did by itself into the ledger, each entry once; return how many."""
    known = [rows.EdgeRow.of(row) for row in ledger.entries(kind=rows.EdgeRow.KIND, last=1)]
    fresh = agent.journal(after=max(0, known[0].seq - 1)) if known else agent.journal()
    if known and (not fresh or fresh[0].at != known[0].at):  # an agent that lost its disk counts from 1 again
        fresh = agent.journal()
    for entry in fresh:
        row = rows.EdgeRow.model_validate(entry.model_dump(mode="json"))
        ledger.append(entry.model or ALL_MODELS, row, key=f"edge/{entry.seq}@{entry.at!r}")
    return len(fresh)


class Reconciler:
    """Ends what a crash has cut short, for one model. A release that is under way is left alone.

    :param alive: returns whether an Airflow run is under way, by its id
    :param keep_warm_s: how long a replaced version stays deployed
    :param retires: whether versions that are not needed are deleted; not while a person may be bringing one back
    """

    def __init__(
        self,
        traffic: ModelTraffic,
        *,
        alive: Callable[[str], bool],
        keep_warm_s: float = 3600.0,
        retires: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._traffic, self._release, self._manual = traffic, ReleaseMoves(traffic), ManualMoves(traffic)
        self._ledger, self._agent = traffic.ledger, traffic.agent
        self._model = traffic.model
        self._alive = alive
        self._needed = timedelta(seconds=keep_warm_s + _RETIREMENT_IS_LATE_S)
        self._retires = retires
        self._clock = clock

    def run(self) -> Reconciliation:
        """Do what is left to do.

        :raises ServiceError: a service did not answer, or there was always something left to do
        """
        done: list[Action] = []
        for _ in range(_MOST_ACTIONS):
            facts = self.facts()
            action = decide(facts)
            if action is None:
                return Reconciliation(model=self._model, actions=tuple(done), problem=problem(facts))
            try:
                self._do(action, facts)
            except BusyError:  # a release has begun since
                return Reconciliation(model=self._model, actions=tuple(done))
            done.append(action)
        actions = ", ".join(action.do for action in done)
        raise ServiceError(f"the reconciliation of {self._model} does not end; so far it did: {actions}")

    # ------------------------------------------------------------------ the facts

    def facts(self) -> ModelFacts:
        """Gather the facts."""
        route = self._agent.route(self._model)
        traffic = Traffic(stable=route.stable, canary=route.canary, shadow=route.shadow) if route else None
        entries = self._ledger.entries(self._model, kind=_USES)
        champion = self._traffic.registry.alias(self._model, CHAMPION)
        names = [name.rpartition("-") for name in self._agent.apps()]
        deployed = frozenset(version for model, _, version in names if model == self._model)
        return ModelFacts(
            open=self._open(traffic),
            traffic=traffic,
            recorded=recorded(entries),
            champion=champion.version if champion else None,
            deployed=deployed,
            orphans=self._orphans(deployed, entries) if self._retires else frozenset(),
            rollback=self._rollback(entries),
        )

    def _open(self, traffic: Traffic | None) -> Open | None:
        release_id = self._ledger.holder(self._model)
        entry = self._ledger.entry(f"{release_id}/started") if release_id else None
        if release_id is None or entry is None:
            return None
        moves, started = self._traffic.moves_of(release_id), rows.ReleaseStartedRow.of(entry)
        began = moves[0].route.stable if moves and started.kind == "release" else started.stable
        return Open(
            release_id=release_id,
            kind=started.kind,
            alive=self._is_alive(started, entry.at),
            version=started.version,
            stable=began if moves or began else (traffic.stable if traffic else None),
            step=moves[-1].step if moves else "",
            promoted=self._ledger.entry(f"{release_id}/promoted") is not None,
            by=started.by,
            reason=started.reason,
        )

    def _is_alive(self, started: rows.ReleaseStartedRow, at: datetime) -> bool:
        if started.kind != "release" and self._clock() - at < timedelta(seconds=_MANUAL_S):
            return True
        return started.run is not None and self._alive(started.run)

    def _orphans(self, deployed: Iterable[str], entries: Sequence[Entry]) -> frozenset[str]:
        """Return the versions that Taxiway used, but not lately."""
        used: dict[str, datetime] = {}
        for entry in entries:  # oldest first: the last use of a version counts
            used |= {str(entry.payload[key]): entry.at for key in _VERSIONS if entry.payload.get(key) is not None}
        now = self._clock()
        return frozenset(version for version in deployed if version in used and now - used[version] > self._needed)

    def _rollback(self, entries: Sequence[Entry]) -> AgentRollback | None:
        """Return the last rollback at the agent that took the traffic from a stable version, if the ledger has no row of it."""
        events = [event for event in self._ledger.rows(rows.EdgeRow, self._model) if event.kind == "rolled_back"]
        if not events or events[-1].stable is None or events[-1].left is None:
            return None
        event = events[-1]
        at = datetime.fromtimestamp(event.at, UTC)
        before = recorded([entry for entry in entries if entry.at < at])
        if before != event.left or any(_is_row_of(entry, event, at) for entry in entries):
            return None
        return AgentRollback(
            key=f"agent-{event.seq}@{event.at!r}",
            stable=event.stable,
            left=event.left,
            reason=event.reason,
            actor=event.actor,
        )

    # ------------------------------------------------------------------ the actions

    def _do(self, action: Action, facts: ModelFacts) -> None:
        if facts.open is not None:
            self._end(action, facts.open)
        elif action.do == "record_rollback" and facts.rollback is not None:
            back = facts.rollback
            self._manual.return_to(back.key, back.stable, back.reason, back.actor, left=back.left, supersede=False)
        elif action.version is not None:
            self._agree(action, action.version)

    def _end(self, action: Action, held: Open) -> None:
        """End what is open, under its own id."""
        to, release_id, version = self._traffic, held.release_id, str(action.version)
        if action.do == "finish_promotion":
            to.move(release_id, "watch_end", to.alone(version, release_id), force=True)
            self._release.finish_promotion(release_id, version, held.stable, watched=False)
        elif action.do == "end_watch":
            to.follow(version)
            to.move(release_id, "watch_end", to.alone(version, release_id), force=True)
            self._ledger.finish(self._model, release_id, rows.WatchEndedRow(version=version, why=action.why))
        elif action.do == "roll_back":
            why = self._release.why(release_id, otherwise=action.why)
            self._release.roll_back(release_id, version, held.stable, why)
        elif action.do == "return":
            to.move(release_id, "manual_rollback", to.alone(version, release_id), force=True)
            self._manual.finish_return(release_id, version, held.stable, held.reason, held.by)
        elif action.do == "withdraw":
            self._manual.finish_withdrawal(release_id, held.by, held.reason)
        else:
            self._ledger.finish(self._model, release_id, rows.AbandonedRow(by="reconcile", why=action.why))

    def _agree(self, action: Action, version: str) -> None:
        """Claim the model, so that no release begins meanwhile, and mend one thing."""
        to, began = self._traffic, self._clock().isoformat()
        release_id = to.next_id(f"reconcile-{began}")
        started = rows.ReleaseStartedRow(kind="reconciliation", version=version, why=action.why)
        self._ledger.claim(self._model, release_id, started, supersede=False)
        if decide(self.facts().model_copy(update={"open": None})) != action:  # something changed before the claim
            gone = rows.AbandonedRow(by="reconcile", why="it was no longer needed")
            self._ledger.finish(self._model, release_id, gone)
            return
        done = rows.ReconciledRow(did=action.do, version=version, why=action.why)
        if action.do == "retire":
            to.delete_unless_used(version)
        else:
            if action.do in ("settle", "restore"):
                to.move(release_id, action.do, to.alone(version, release_id), force=True)
            to.follow(version)
            done = done.model_copy(update={"stable": version})
        self._ledger.finish(self._model, release_id, done)


def recorded(entries: Iterable[Entry]) -> str | None:
    """Return the version that has the traffic by these entries, oldest first; None: none has."""
    stable: str | None = None
    for entry in entries:
        match rows.read(entry):
            case rows.PromotedRow(version=version) | rows.ManualRollbackRow(version=version):
                stable = version
            case rows.RolledBackRow(stable=after):
                stable = after
            case rows.ReconciledRow(stable=str(after)):
                stable = after
            case rows.WithdrawnRow():
                stable = None
    return stable


def _is_row_of(entry: Entry, event: rows.EdgeRow, at: datetime) -> bool:
    """Return whether an entry is about this rollback: whoever asked the agent for it may have written it down already."""
    if entry.kind != rows.ManualRollbackRow.KIND or entry.at <= at - timedelta(minutes=1):
        return False
    row = rows.ManualRollbackRow.of(entry)
    return (row.version, row.left) == (event.stable, event.left)
