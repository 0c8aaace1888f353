"""The parts that every move of a release is made of: a row, then the traffic; the aliases; what is deployed.

Each move is written to the ledger before it is made. A step that runs again finds its row, and makes the same move again:
setting a route or an alias twice changes nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from operators.core.errors import RejectedError, ServiceRefusedError
from operators.core.ledger import Entry, Ledger
from operators.core.ledger_schema import json_digest
from operators.core.settings import Settings
from operators.core.traffic import Route
from operators.registry.client import CHALLENGER, CHAMPION, Registry
from operators.rollout.quarantine import Quarantine
from operators.traffic import routes
from operators.traffic.client import Agent

MOVED = "weight_set"
_LONGEST_RUN = 150


@dataclass(frozen=True)
class Move:
    """A change of a route that has been written and made.

    :param at: when it was written first: a step that runs again began then
    """

    step: str
    route: Route
    at: datetime


def route_of(entry: Entry) -> Route:
    """Read the route of a row of the kind `weight_set`."""
    return Route.recorded(entry.model, entry.payload)


class Moves:
    """What releases, people and `reconcile` move one model by.

    :param settings: where the services are; default: the environment
    """

    def __init__(
        self,
        model: str,
        settings: Settings | None = None,
        *,
        ledger: Ledger | None = None,
        registry: Registry | None = None,
        agent: Agent | None = None,
    ) -> None:
        if ledger is None or registry is None:
            settings = settings or Settings.load()
        self.model = model
        self.ledger = ledger or Ledger(settings.ledger_url)  # type: ignore[union-attr]
        self.registry = registry or Registry(settings.mlflow_url)  # type: ignore[union-attr]
        self.agent = agent or Agent()

    @property
    def quarantine(self) -> Quarantine:
        """The model's quarantine."""
        return Quarantine(self.model, self.ledger, self.registry)

    def move(self, release_id: str, step: str, route: Route, *, force: bool = False) -> Move:
        """Write a change of the route down, and make it.

        Tried again, a step makes the move of its row, and writes no other: it goes on with the evidence that it has. One
        that comes back after another step has moved the route writes a row.

        :param step: names the step; part of the idempotency key
        :param force: also if the edge has the route down as another release's: this one has just been given the model
        :raises RejectedError: the release no longer holds the model
        :raises ServiceRefusedError: a version does not run, or another release holds the route
        """
        entry = self._written(release_id, step, route)
        move = Move(step=step, route=route_of(entry), at=entry.at)
        with self.ledger.holding(self.model, release_id):
            self._apply(move.route, force)
        return move

    def alone(self, stable: str | None, release_id: str) -> Route:
        """Return the route that gives one version everything, to callers told apart as they are now."""
        now = self.agent.route(self.model)
        return routes.only(self.model, stable, holder=release_id).model_copy(update={"unit": now.unit if now else None})

    def _written(self, release_id: str, step: str, route: Route) -> Entry:
        made = self.moves_of(release_id)
        if made and made[-1].payload["step"] == step:
            return made[-1]
        times = sum(entry.payload["step"] == step for entry in made)
        payload: dict[str, Any] = {"step": step, **route.model_dump(mode="json", exclude={"model"})}
        key = f"{release_id}/{step}/{times + 1}/weight"
        return self.ledger.append(self.model, MOVED, payload, key=key, release_id=release_id)

    def moves_of(self, release_id: str) -> list[Entry]:
        """Return the changes of the route that a release has written, oldest first."""
        return self.ledger.entries(self.model, release_id=release_id, kind=MOVED)

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
        """Take the alias from a version that is the challenger no longer."""
        challenger = self.registry.alias(self.model, CHALLENGER)
        if challenger is not None and challenger.version == version:
            self.registry.drop_alias(self.model, CHALLENGER)

    def follow(self, stable: str | None, *, leaving: str | None = None) -> bool:
        """Point `champion` at the version that has the traffic; return whether it pointed elsewhere.

        :param stable: None: nothing has it
        :param leaving: the version that has lost it: without a stable one, the alias is taken from this one only
        """
        champion = self.registry.alias(self.model, CHAMPION)
        pointed = champion.version if champion else None
        if stable is not None and pointed != stable:
            self.registry.set_alias(self.model, CHAMPION, stable)
            return True
        if stable is None and leaving is not None and pointed == leaving:
            return self.registry.drop_alias(self.model, CHAMPION)
        return False

    def delete_unless_used(self, version: str, *, drain_s: float = 30.0) -> None:
        """Delete a version, unless it has traffic by now."""
        with suppress(ServiceRefusedError):  # 409: it has
            self.agent.retire(self.model, version, drain_s=drain_s)

    def next_id(self, run: str) -> str:
        """Return the id of a run's release: the one that is under way, or the next.

        :param run: names the Airflow run, or what else asks for it
        :raises RejectedError: a newer release has put this run's aside
        """
        if len(run) > _LONGEST_RUN:  # the edge takes an id of 250 characters
            run = f"{run[:_LONGEST_RUN]}~{json_digest(run)[:16]}"
        prefix = f"{self.model}/{run}#"
        rows = self.ledger.entries(self.model, key_prefix=prefix)
        ended = [entry for entry in rows if entry.key.endswith("/end")]
        if ended and ended[-1].kind == "abandoned":
            raise RejectedError(f"run {run} was put aside by {ended[-1].payload['by']}; start a new run")
        return f"{prefix}{len(ended) + 1}"

    def close(self) -> None:
        """Close the connections."""
        self.ledger.close()
        self.registry.close()
