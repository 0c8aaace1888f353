"""The versions: deployed on request, deleted once their last request has been answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from operators.core.errors import TaxiwayError
from operators.core.traffic import AppState
from ray_jobs.agent.edges import Edges
from ray_jobs.agent.rules import RefusedError
from ray_jobs.agent.state import Retirement, Store

_PROBE_S = 5.0
_log = logging.getLogger(__name__)


class Deployer(Protocol):
    """Deploys and deletes versions. Every call may block."""

    def deploy(self, model: str, version: str, spec_json: str, model_uri: str) -> None:
        """Start deploying a version. A second call while it is being deployed does nothing."""

    def states(self) -> dict[str, AppState]:
        """Return the state of every version that is there, by ``<model>-<version>``."""

    def answers(self, model: str, version: str, timeout_s: float) -> bool:
        """Tell whether a version answers through Serve's proxy, which learns of it some time after it runs."""

    def delete(self, model: str, version: str) -> None:
        """Delete a version, and wait until its replicas have gone. Do nothing if it is not there."""


class Apps:
    """The deployments. For one event loop.

    :param clock: unix seconds
    """

    def __init__(self, store: Store, edges: Edges, deployer: Deployer, clock: Callable[[], float] = time.time) -> None:
        self._store, self._edges, self._deployer, self._clock = store, edges, deployer, clock
        self._deleting: dict[str, asyncio.Task[None]] = {}

    async def states(self) -> dict[str, AppState]:
        """Return every version that is there, by ``<model>-<version>``."""
        states = await asyncio.to_thread(self._deployer.states)
        return states | {name: _DELETING for name in self._store.state.retiring}

    async def state(self, model: str, version: str) -> AppState:
        """Return where a version stands. RUNNING means that the edge reaches it."""
        if _name(model, version) in self._store.state.retiring:
            return _DELETING
        state = (await asyncio.to_thread(self._deployer.states)).get(_name(model, version))
        if state is None:
            return AppState(status="NOT_STARTED")
        if state.status == "RUNNING" and not await self.answers(model, version, timeout_s=_PROBE_S):
            return AppState(status="DEPLOYING", message="it runs; Serve's proxy does not know it yet")
        return state

    async def answers(self, model: str, version: str, *, timeout_s: float) -> bool:
        """Tell whether a version can have traffic."""
        gone = _name(model, version) in self._store.state.retiring
        return not gone and await asyncio.to_thread(self._deployer.answers, model, version, timeout_s)

    async def require_running(self, model: str, version: str) -> None:
        """Check that a version can have traffic.

        :raises RefusedError: it cannot
        """
        state = await self.state(model, version)
        if state.status != "RUNNING":
            detail = f" ({state.message})" if state.message else ""
            raise RefusedError(
                f"{model}/{version} is {state.status}{detail}; it cannot have traffic. "
                f"Deploy it with PUT /v1/apps/{model}/{version} and wait until it is RUNNING"
            )

    def require_kept(self, model: str, versions: Iterable[str]) -> None:
        """Check that no version is being retired. This is quick, so it can be called while a route is moved.

        :raises RefusedError: one is
        """
        for version in versions:
            if _name(model, version) in self._store.state.retiring:
                raise RefusedError(f"{model}/{version} is being deleted; it cannot have traffic")

    async def deploy(self, model: str, version: str, spec_json: str, model_uri: str) -> AppState:
        """Start deploying a version; asking again is harmless. If it was about to be deleted, it is kept."""
        name = _name(model, version)
        async with self._store.moving:
            if name in self._deleting:
                return _DELETING
            self._edges.count_anew(model, version)
            if self._store.state.retiring.pop(name, None):
                await self._store.save()
        await asyncio.to_thread(self._deployer.deploy, model, version, spec_json, model_uri)
        return await self.state(model, version)

    async def retire(self, model: str, version: str, drain_s: float) -> AppState:
        """Delete a version once its requests are answered. A restart of the agent does not interrupt this.

        :param drain_s: it is deleted after this time, even if it still has requests
        :raises RefusedError: it has traffic
        """
        name = _name(model, version)
        states = await asyncio.to_thread(self._deployer.states)
        async with self._store.moving:
            state = self._store.state
            held = state.held.get(model)
            if held is not None and version in held.route.versions:
                raise RefusedError(
                    f"{model}/{version} is in the route; take it out with PUT /v1/routes/{model} before you delete it"
                )
            if name in state.retiring:
                return _DELETING
            if name not in states:
                return AppState(status="NOT_STARTED")
            state.retiring[name] = Retirement(
                model=model, version=version, by=self._clock() + drain_s, generation=state.generation
            )
            await self._store.save()
        return _DELETING

    async def drain(self) -> None:
        """Delete the versions that are to be retired and have no requests left."""
        waiting = {n: r for n, r in self._store.state.retiring.items() if n not in self._deleting}
        if not waiting:
            return
        now = self._clock()
        ask = await self._edges.read(*{order.model for order in waiting.values()})
        for name, order in waiting.items():
            idle = self._edges.idle(order.model, order.version, generation=order.generation, ask=ask)
            async with self._store.moving:
                if name not in self._store.state.retiring or not (idle or now >= order.by):
                    continue
                self._deleting[name] = asyncio.create_task(self._delete(name, order, idle))

    async def _delete(self, name: str, order: Retirement, idle: bool) -> None:
        if not idle:
            _log.warning("%s may still have requests, or an edge is away, but its time to drain is over", name)
        try:
            await asyncio.to_thread(self._deployer.delete, order.model, order.version)
            self._store.state.retiring.pop(name, None)
            self._edges.forget(order.model, order.version)
            await self._store.save()
        except (TaxiwayError, OSError) as error:
            _log.error("%s could not be deleted, and will be tried again: %s", name, error)
            await asyncio.sleep(1)
        finally:
            del self._deleting[name]


_DELETING = AppState(status="DELETING")


def _name(model: str, version: str) -> str:
    return f"{model}-{version}"
