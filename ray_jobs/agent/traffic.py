"""The traffic control: the routes of all edges, their holders, their leases, and rollback by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from operators.core.traffic import RolledBack, RouteBody, RouteState
from ray_jobs.agent import rules
from ray_jobs.agent.apps import Apps
from ray_jobs.agent.edges import Edges
from ray_jobs.agent.journal import Journal
from ray_jobs.agent.rules import RefusedError, UnknownError
from ray_jobs.agent.state import HeldRoute, Store
from ray_jobs.agent.wire import Health, Renewal, Rollback, RouteUpdate

_PROBE_S = 0.5


class TrafficControl:
    """Routes, leases and rollback. For one event loop. A change is on disk before any edge gets it.

    :param clock: unix seconds
    """

    def __init__(
        self, store: Store, journal: Journal, edges: Edges, apps: Apps, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._journal, self._edges, self._apps = store, journal, edges, apps
        self._clock = clock

    # ------------------------------------------------------------------ routes

    def routes(self) -> dict[str, RouteState]:
        """Return every route as it stands."""
        return {model: self._now(model, held) for model, held in sorted(self._store.state.held.items())}

    async def set_route(self, model: str, body: RouteBody, *, caller: str | None, force: bool) -> RouteUpdate:
        """Move traffic, all of the route at once.

        :param caller: the holder on whose behalf it is moved; the route's new holder, if it is not given
        :raises RefusedError: it is not the caller's to move, or a version in it does not run
        """
        caller = caller or body.holder
        held = self._store.state.held.get(model)
        # Checked before the slow question whether versions run, and again once nobody else can move the route.
        rules.set_to(held, body, model=model, caller=caller, force=force, now=self._clock())
        routed = held.route.versions if held else []
        for version in body.versions:
            if version not in routed:
                await self._apps.require_running(model, version)
        async with self._store.moving:
            held = self._store.state.held.get(model)
            new = rules.set_to(held, body, model=model, caller=caller, force=force, now=self._clock())
            self._apps.require_kept(model, body.versions)
            generation = await self._keep(model, new)
        return await self._answer(model, new, generation)

    async def remove_route(self, model: str, *, caller: str | None, force: bool) -> None:
        """Forget a model: its callers get 404.

        :raises RefusedError: another holder has it
        """
        async with self._store.moving:
            rules.removal(self._store.state.held.get(model), model=model, caller=caller, force=force)
            generation = await self._keep(model, None)
        await self._edges.settled(generation)

    async def renew(self, model: str, renewal: Renewal) -> RouteUpdate:
        """Renew a lease.

        :raises UnknownError: the model has no route
        :raises RefusedError: somebody else holds it, or the lease has ended
        """
        await self.end_leases()
        async with self._store.moving:
            held = rules.renewed(self._store.state.held.get(model), renewal, model=model, now=self._clock())
            generation = await self._keep(model, held)
        return await self._answer(model, held, generation)

    async def end_leases(self) -> None:
        """Note which leases have ended. Each edge has ended them by itself; here it is saved, and told to the journal."""
        now = self._clock()
        over = [m for m, h in self._store.state.held.items() if h.expires_at is not None and h.expires_at <= now]
        for model in over:
            async with self._store.moving:
                held = self._store.state.held.get(model)
                if held is None or held.expires_at is None or held.expires_at > now:
                    continue
                route = held.route
                # If the agent is killed before the route is saved, the journal has the event already.
                event = f"lease/{model}/{held.expires_at}"
                if not self._journal.has(event):
                    facts = {"stable": route.stable, "canary": route.canary, "holder": route.holder}
                    weights = {"weight_bp": route.weight_bp, "shadow_bp": route.shadow_bp}
                    await self._note("lease_expired", model, id=event, **facts, **weights)
                await self._keep(model, rules.ended(held))

    async def roll_back(self, model: str, order: Rollback) -> RolledBack:
        """Take the canary's traffic, or go back to the version before, at once and with the agent alone.

        :raises UnknownError: the model has no route
        :raises RefusedError: there is nothing deployed to go back to
        """
        target = rules.goes_back_to(self._held(model), model=model)
        if target is not None and not await self._apps.answers(model, target, timeout_s=_PROBE_S):
            raise RefusedError(
                f"{model}: version {target}, the one before, is not deployed any more; "
                f"deploy it with PUT /v1/apps/{model}/{target} and set the route"
            )
        async with self._store.moving:
            held = self._held(model)
            if rules.goes_back_to(held, model=model) != target:
                raise RefusedError(f"the route of {model} has just been moved by another; look at it and try again")
            if target is not None:
                self._apps.require_kept(model, [target])
            new, left = rules.rolled_back(held, order)
            generation = await self._keep(model, new)
            await self._note(
                "rolled_back",
                model,
                stable=new.route.stable,
                left=left,
                holder=held.route.holder,
                weight_bp=held.weight_now_bp(self._clock()),
                actor=order.actor,
                reason=order.reason,
            )
        behind = await self._edges.settled(generation, timeout_s=_PROBE_S)
        return RolledBack(stable=str(new.route.stable), left=left, behind=tuple(behind))

    # ------------------------------------------------------------------ health

    def health(self) -> Health:
        """Return whether callers are answered."""
        states = self._edges.states()
        return Health(edge=any(state.ready for state in states), edges=states)

    # ------------------------------------------------------------------ inside

    async def _note(self, kind: str, model: str, **facts: Any) -> None:
        await asyncio.to_thread(lambda: self._journal.append(kind, model=model, **facts))

    def _held(self, model: str) -> HeldRoute:
        held = self._store.state.held.get(model)
        if held is None:
            raise UnknownError(f"model {model} has no route; set it with PUT /v1/routes/{model}")
        return held

    async def _keep(self, model: str, held: HeldRoute | None) -> int:
        """Save a change, then tell the edges. Return its generation."""
        state = self._store.state
        if state.held.get(model) == held:
            return state.generation
        if held is None:
            del state.held[model]
        else:
            state.held[model] = held
        state.generation += 1
        generation = state.generation
        await self._store.save()
        self._edges.tell()
        return generation

    def _now(self, model: str, held: HeldRoute) -> RouteState:
        return RouteState(
            **held.route.model_dump(),
            lease_expires_at=held.expires_at,
            weight_now_bp=held.weight_now_bp(self._clock()),
            breaker="open" if self._edges.breaker_open(model) else "closed",
        )

    async def _answer(self, model: str, held: HeldRoute, generation: int) -> RouteUpdate:
        behind = await self._edges.settled(generation)
        return RouteUpdate(**self._now(model, held).model_dump(), generation=generation, behind=behind)
