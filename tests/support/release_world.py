"""An agent and a registry in memory, and a way to die between two calls: to stop a release at every point there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from operators.core.errors import ServiceRefusedError
from operators.registry.client import ModelVersion
from operators.rollout.client import AppState, JournalEntry, RolledBack, Route, RouteState


class KilledError(BaseException):
    """The process is gone. No `except Exception` sees it."""


class FakeAgent:
    """What the agent's API promises about routes, leases, applications and rollback, for one model."""

    def __init__(self, *running: str, model: str = "m") -> None:
        self.model = model
        self.deployed = set(running)
        self.kept: dict[str, RouteState] = {}
        self.before: str | None = None
        self.entries: list[JournalEntry] = []

    def routes(self) -> dict[str, RouteState]:
        return dict(self.kept)

    def route(self, model: str) -> RouteState | None:
        return self.kept.get(model)

    def set_route(self, route: Route, *, force: bool = False) -> None:
        known = self.kept.get(route.model)
        if known and known.holder not in (None, route.holder) and not force:
            raise ServiceRefusedError(f"409: {known.holder} holds the route")
        for version in {route.stable, route.canary, route.shadow} - {None}:
            if version not in self.deployed:
                raise ServiceRefusedError(f"409: {version} does not run")
        if known and known.stable != route.stable:
            self.before = known.stable
        self.kept[route.model] = RouteState(**route.model_dump(), weight_now_bp=route.weight_bp)

    def remove_route(self, model: str) -> None:
        self.kept.pop(model, None)

    def apps(self) -> dict[str, AppState]:
        return {f"{self.model}-{v}": AppState(status="RUNNING", message="") for v in sorted(self.deployed)}

    def retire(self, model: str, version: str, *, drain_s: float = 30.0) -> None:
        route = self.kept.get(model)
        if route and version in (route.stable, route.canary, route.shadow):
            raise ServiceRefusedError(f"409: {version} has traffic")
        self.deployed.discard(version)

    def roll_back(self, model: str, *, reason: str, actor: str) -> RolledBack:
        route = self.kept.get(model)
        if route is None:
            raise ServiceRefusedError("404: no route")
        if route.canary is not None and not route.from_top:
            stable, left = route.stable, route.canary
        else:
            stable, left = (route.canary if route.from_top else self.before), route.stable
        if stable is None or stable not in self.deployed:
            raise ServiceRefusedError("409: the version before is not deployed")
        self.kept[model] = RouteState(model=model, stable=stable)
        said = {"stable": stable, "left": left, "reason": reason, "actor": actor}
        self.note("rolled_back", model=model, **said)
        return RolledBack(stable=stable, left=left)

    def lose_lease(self) -> None:
        """Nobody has renewed it."""
        route = self.kept[self.model]
        self.kept[self.model] = route.model_copy(update={"weight_now_bp": 0})
        self.note("lease_expired", model=self.model)

    def note(self, kind: str, **said: Any) -> None:
        self.entries.append(JournalEntry(seq=len(self.entries) + 1, at=1e9 + len(self.entries), kind=kind, **said))

    def journal(self, *, after: int = 0) -> list[JournalEntry]:
        return [entry for entry in self.entries if entry.seq > after]


class FakeRegistry:
    """Versions with tags, and aliases, of one model."""

    def __init__(self, *versions: str, model: str = "m") -> None:
        self.model = model
        self.tags: dict[str, dict[str, str]] = {version: {} for version in versions}
        self.aliases: dict[str, str] = {}

    def version(self, model: str, version: str) -> ModelVersion:
        if version not in self.tags:
            raise ServiceRefusedError(f"RESOURCE_DOES_NOT_EXIST: {model} {version}")
        return ModelVersion(model=model, version=version, source="s", run_id="", tags=dict(self.tags[version]))

    def find(self, model: str, version: str) -> ModelVersion:
        return self.version(model, version)

    def alias(self, model: str, alias: str) -> ModelVersion | None:
        found = self.aliases.get(alias)
        return self.version(model, found) if found else None

    def set_alias(self, model: str, alias: str, version: str) -> None:
        self.aliases[alias] = version

    def drop_alias(self, model: str, alias: str) -> bool:
        return self.aliases.pop(alias, None) is not None

    def tag(self, model: str, version: str, key: str, value: str) -> None:
        self.tags[version][key] = value

    def run(self, run_id: str) -> tuple[Mapping[str, float], Mapping[str, str]]:
        return {}, {}

    def close(self) -> None: ...


class Life:
    """Dies after so many calls; counts them."""

    def __init__(self, calls: int | None = None) -> None:
        self.left = calls
        self.made: list[str] = []

    def spend(self, name: str) -> None:
        self.made.append(name)
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KilledError(name)


class Mortal:
    """Passes calls on, and dies before the one that the life has no more for.

    What only keeps others out, and changes nothing, does not count.
    """

    def __init__(self, service: Any, life: Life) -> None:
        self._service = service
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._service, name)
        if not callable(found) or name in ("holding", "close"):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._life.spend(name)
            return found(*args, **kwargs)

        return call
