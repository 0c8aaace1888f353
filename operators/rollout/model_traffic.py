"""What the moves of releases, people and `reconcile` share: a route in ledger and edge, the aliases, what is deployed.

Each move is written to the ledger before it is made. A task that runs again finds its row and makes the same move again:
setting a route or an alias twice changes nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from operators.core.errors import RejectedError, ServiceRefusedError
from operators.core.ledger_entry import Entry, json_digest
from operators.core.rows import AbandonedRow, ReleaseStartedRow, WeightSetRow
from operators.core.settings import Settings
from operators.core.traffic import Route
from operators.registry.client import CHALLENGER, CHAMPION, Registry
from operators.rollout.quarantine import Quarantine
from operators.traffic import routes
from operators.traffic.client import Agent

if TYPE_CHECKING:
    from operators.core.ledger import Ledger

_LONGEST_RUN = 150


@dataclass(frozen=True)
class Move:
    """A change of a route that has been written down.

    :param at: when it was written first, which is when the step began: a step that runs again finds this row
    """

    step: str
    route: Route
    at: datetime


@dataclass(frozen=True)
class Begun:
    """A release that holds its model.

    :param stable: the version that has the traffic; None: the model has never been released
    """

    release_id: str
    stable: str | None


class ModelTraffic:
    """One model's ledger, versions and route; by default those that the environment names."""

    def __init__(
        self,
        model: str,
        *,
        ledger: Ledger | None = None,
        registry: Registry | None = None,
        agent: Agent | None = None,
    ) -> None:
        if ledger is None:
            from operators.core.ledger import Ledger  # imports SQLAlchemy, which costs a DAG file half a second

            ledger = Ledger(Settings.load().ledger_url)
        self.model = model
        self.ledger = ledger
        self.registry = registry or Registry(Settings.load().mlflow_url)
        self.agent = agent or Agent()

    @property
    def quarantine(self) -> Quarantine:
        """The model's quarantine."""
        return Quarantine(self.model, self.ledger, self.registry)

    def move(self, release_id: str, step: str, route: Route, *, force: bool = False) -> Move:
        """Write a change of the route to the ledger, and make it.

        A retry repeats the recorded move, so that the step goes on with the evidence that it has. If another step moved the
        route in between, this is a new move and gets a new row.

        :param step: names the step; part of the idempotency key
        :param force: move the route even if the edge holds it for another release: the ledger has given the model to this one
        :raises RejectedError: the release no longer holds the model
        :raises ServiceRefusedError: a version does not run, or another release holds the route
        """
        move = self._written(release_id, step, route)
        with self.ledger.holding(self.model, release_id):
            self._apply(move.route, force)
        return move

    def alone(self, stable: str | None, release_id: str) -> Route:
        """Return the route that gives one version everything, and keeps the unit of the current route."""
        now = self.agent.route(self.model)
        return routes.only(self.model, stable, holder=release_id).model_copy(update={"unit": now.unit if now else None})

    def _written(self, release_id: str, step: str, route: Route) -> Move:
        moves = self.moves_of(release_id)
        if moves and moves[-1].step == step:
            return moves[-1]
        times = sum(move.step == step for move in moves)
        row = WeightSetRow(step=step, **route.model_dump(mode="json", exclude={"model"}))
        key = f"{release_id}/{step}/{times + 1}/weight"
        return _move(self.ledger.append(self.model, row, key=key, release_id=release_id))

    def moves_of(self, release_id: str) -> list[Move]:
        """Return the changes of the route that a release has written, oldest first."""
        return [_move(row) for row in self.ledger.entries(self.model, release_id=release_id, kind=WeightSetRow.KIND)]

    def _apply(self, route: Route, force: bool) -> None:
        if route.stable is not None:
            self.agent.set_route(route, force=force)
        elif self.agent.route(self.model) is not None:
            self.agent.remove_route(self.model)

    def make_champion(self, version: str) -> None:
        """Point the alias at the version that has the traffic; it is no challenger any more."""
        self.registry.set_alias(self.model, CHAMPION, version)
        self.drop_challenger(version)

    def drop_challenger(self, version: str) -> None:
        """Take the alias from a version that is no longer the challenger."""
        challenger = self.registry.alias(self.model, CHALLENGER)
        if challenger is not None and challenger.version == version:
            self.registry.drop_alias(self.model, CHALLENGER)

    def follow(self, stable: str | None, *, leaving: str | None = None) -> None:
        """Point `champion` at the version that has the traffic.

        :param stable: None: no version has it
        :param leaving: the version that lost it: if no version has traffic, the alias is taken from this one only
        """
        champion = self.registry.alias(self.model, CHAMPION)
        pointed = champion.version if champion else None
        if stable is not None and pointed != stable:
            self.registry.set_alias(self.model, CHAMPION, stable)
        elif stable is None and leaving is not None and pointed == leaving:
            self.registry.drop_alias(self.model, CHAMPION)

    def delete_unless_used(self, version: str) -> None:
        """Delete a version, unless it has traffic by now."""
        with suppress(ServiceRefusedError):  # 409: it has
            self.agent.retire(self.model, version)

    def next_id(self, run: str) -> str:
        """Return the id of a run's release: the one that is under way, or the next.

        :param run: names the Airflow run, or what else asks for it
        :raises RejectedError: a newer release has taken the place of this run's
        """
        if len(run) > _LONGEST_RUN:  # the edge takes an id of 250 characters
            run = f"{run[:_LONGEST_RUN]}~{json_digest(run)[:16]}"
        prefix = f"{self.model}/{run}#"
        rows = self.ledger.entries(self.model, key_prefix=prefix)
        ended = [row for row in rows if row.key.endswith("/end")]
        if ended and ended[-1].kind == AbandonedRow.KIND:
            by = AbandonedRow.of(ended[-1]).by
            raise RejectedError(f"the release of run {run} was ended by {by}; start a new run")
        return f"{prefix}{len(ended) + 1}"

    def started(self, release_id: str | None) -> ReleaseStartedRow:
        """Return the row that a release, or another move of the model, began with; an empty one for none."""
        entry = self.ledger.entry(f"{release_id}/started") if release_id else None
        return ReleaseStartedRow.of(entry) if entry else ReleaseStartedRow()

    def close(self) -> None:
        """Close the connections."""
        self.ledger.close()
        self.registry.close()


def _move(entry: Entry) -> Move:
    return Move(step=WeightSetRow.of(entry).step, route=Route.recorded(entry.model, entry.payload), at=entry.at)
