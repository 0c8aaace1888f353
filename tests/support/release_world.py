"""An agent, for tasks and for triggers, and a registry in memory; and a way to die between two calls: to stop a release
at every point there is."""

from __future__ import annotations

import time
from typing import Any

from typing_extensions import override

from operators.core.errors import ServiceError, ServiceRefusedError
from operators.core.traffic import AppState, Counters, JournalEntry, RolledBack, Route, RouteBody, RouteState
from operators.registry.client import ModelVersion, RegisteredModel, Registry
from operators.traffic.client import Agent, AsyncAgent
from ray_jobs.agent import rules
from ray_jobs.agent.state import HeldRoute
from ray_jobs.agent.wire import Renewal, Rollback
from tests.support.readings import counted


class KilledError(BaseException):
    """The process is gone. No `except Exception` sees it."""


class FakeAgent(Agent):
    """An agent without edges or Ray: the real rules of who may move a route, for one model.

    It is an `Agent` in mypy's eyes, so that a method that gets another name or signature there is an error here.

    :param running: versions that are deployed
    """

    def __init__(self, *running: str, model: str = "m") -> None:
        self.model = model
        self.deployed = set(running)
        self.held: dict[str, HeldRoute] = {}
        self.entries: list[JournalEntry] = []
        self.away = False

    @override
    def counters(self, model: str) -> Counters:
        return counted()

    @override
    def routes(self) -> dict[str, RouteState]:
        found = {}
        for model, held in self.held.items():
            now: dict[str, Any] = {"lease_expires_at": held.expires_at, "weight_now_bp": held.weight_now_bp(0.0)}
            found[model] = RouteState(**dict(held.route), **now)
        return found

    @override
    def route(self, model: str) -> RouteState | None:
        return self.routes().get(model)

    @override
    def set_route(self, route: Route, *, force: bool = False) -> None:
        if self.away:
            raise ServiceError("the agent is away")
        body = RouteBody.model_validate(route.model_dump(exclude={"model"}))
        held = self.held.get(route.model)
        for version in body.versions:
            if version not in self.deployed and (held is None or version not in held.route.versions):
                raise ServiceRefusedError(f"409: {version} does not run")
        try:
            self.held[route.model] = rules.set_to(
                held, body, model=route.model, caller=route.holder, force=force, now=0.0
            )
        except rules.RefusedError as error:
            raise ServiceRefusedError(f"409: {error}") from error

    @override
    def remove_route(self, model: str) -> None:
        self.held.pop(model, None)

    @override
    def apps(self) -> dict[str, AppState]:
        return {f"{self.model}-{v}": AppState(status="RUNNING", message="") for v in sorted(self.deployed)}

    @override
    def retire(self, model: str, version: str, *, drain_s: float = 30.0) -> None:
        held = self.held.get(model)
        if held and version in held.route.versions:
            raise ServiceRefusedError(f"409: {version} has traffic")
        self.deployed.discard(version)

    @override
    def roll_back(self, model: str, *, reason: str, actor: str) -> RolledBack:
        held = self.held[model]
        try:
            target = rules.goes_back_to(held, model=model)
        except rules.RefusedError as error:
            raise ServiceRefusedError(f"409: {error}") from error
        if target is not None and target not in self.deployed:
            raise ServiceRefusedError(f"409: {target} is not deployed any more")
        self.held[model], left = rules.rolled_back(held, Rollback(reason=reason, actor=actor))
        stable = str(self.held[model].route.stable)
        self.note("rolled_back", model=model, stable=stable, left=left, actor=actor, reason=reason)
        return RolledBack(stable=stable, left=left)

    def lose_lease(self) -> None:
        """Nobody has renewed it."""
        self.held[self.model] = rules.ended(self.held[self.model])
        self.note("lease_expired", model=self.model)

    def note(self, kind: str, **said: Any) -> None:
        seq = len(self.entries) + 1
        self.entries.append(JournalEntry(seq=seq, at=time.time(), kind=kind, **said))

    @override
    def journal(self, *, after: int = 0) -> list[JournalEntry]:
        return [entry for entry in self.entries if entry.seq > after]


class FakeAsyncAgent(AsyncAgent):
    """What triggers ask the agent for: its leases, and readings of the counters.

    :param readings: each is given out once, the last one for ever; an error is raised
    """

    def __init__(self, agent: FakeAgent, *readings: Counters | Exception) -> None:
        self.agent = agent
        self.readings = list(readings)
        self.renewals = 0

    @override
    async def counters(self, model: str) -> Counters:
        reading = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if isinstance(reading, Exception):
            raise reading
        return reading

    @override
    async def renew(self, model: str, holder: str) -> None:
        held = self.agent.held.get(model)
        try:
            self.agent.held[model] = rules.renewed(held, Renewal(holder=holder), model=model, now=0.0)
        except (rules.RefusedError, rules.UnknownError) as error:
            raise ServiceRefusedError(str(error)) from error
        self.renewals += 1

    @override
    async def close(self) -> None: ...


class FakeRegistry(Registry):
    """Versions with tags, and aliases, of one model; in mypy's eyes a `Registry`."""

    def __init__(self, *versions: str) -> None:
        self.tags: dict[str, dict[str, str]] = {version: {} for version in versions}
        self.aliases: dict[str, str] = {}

    @override
    def version(self, model: str, version: str) -> ModelVersion:
        if version not in self.tags:
            raise ServiceRefusedError(f"RESOURCE_DOES_NOT_EXIST: {model} {version}")
        return ModelVersion(model=model, version=version, source="s", run_id="", tags=dict(self.tags[version]))

    @override
    def model(self, model: str) -> RegisteredModel:
        return RegisteredModel(name=model, created_ms=0, aliases=dict(self.aliases))

    @override
    def find(self, model: str, version: str) -> ModelVersion:
        return self.version(model, version)

    @override
    def alias(self, model: str, alias: str) -> ModelVersion | None:
        found = self.aliases.get(alias)
        return self.version(model, found) if found else None

    @override
    def set_alias(self, model: str, alias: str, version: str) -> None:
        self.aliases[alias] = version

    @override
    def drop_alias(self, model: str, alias: str) -> bool:
        return self.aliases.pop(alias, None) is not None

    @override
    def tag(self, model: str, version: str, key: str, value: str) -> None:
        self.tags[version][key] = value

    @override
    def run(self, run_id: str) -> tuple[dict[str, float], dict[str, str]]:
        return {}, {}

    @override
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
