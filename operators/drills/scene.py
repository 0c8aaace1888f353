"""The drill itself: release the copy under load, cause one fault, and observe what happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from operators.core.errors import RejectedError, ServiceError
from operators.drills.cluster import Cluster, Deed
from operators.drills.copies import Cast
from operators.drills.load_generator import Load
from operators.drills.policy import STEP, EndedBy, Observed
from operators.judge.evidence import Outcome
from operators.judge.phases import canary_phase
from operators.rollout.release_moves import ReleaseMoves
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Look
from operators.rollout.steps.triggers import LOOK_EVERY_S, LookLoop, write_verdict
from operators.traffic.limits import limits_from

_BEFORE_S = 2.0  # stable alone; then a canary without a fault, which has traffic to lose
_HEALTHY_S = 3.0
_JUST_BEFORE_S = 2.0  # if the lease had ended by then, any fault would look harmless
_STRIKE_S = 90.0  # for the cluster to start a job
_END_S = 60.0  # for a fault to come to its end
_AFTER_S = 3.0  # the load goes on after the rollback: none of it may go to the canary
_POLL_S = 0.25
_KILLS_S = 90.0


class Scene:
    """One drill, run once, in the process of its task.

    :param moves: of the copy
    :param load: its callers
    """

    def __init__(self, cast: Cast, moves: ReleaseMoves, cluster: Cluster, load: Load, log: Any) -> None:
        self._cast, self._moves, self._cluster, self._load, self._log = cast, moves, cluster, load, log
        self._spec = cast.spec
        self._release_id = ""
        self._fault_at = 0.0
        self._rolled_back_at: float | None = None
        self._ended_by: EndedBy | None = None
        self._verdict: str | None = None

    async def play(self) -> Observed:
        """Release the canary, break something, and observe.

        :raises RejectedError: the canary was lost before the fault
        :raises ServiceError: a service does not answer although the fault does not concern it
        """
        async with self._load:
            await asyncio.sleep(_BEFORE_S)
            loop = await asyncio.to_thread(self._begin)
            try:
                await self._break(loop)
                await asyncio.sleep(_AFTER_S)
            finally:
                await loop.close()
        return self._observed()

    # ------------------------------------------------------------------ the release

    def _begin(self) -> LookLoop:
        """Give the canary its share, as a step of a release does; blocking."""
        cast, moves, spec = self._cast, self._moves, self._spec
        version = moves.registry.version(spec.name, cast.canary)
        self._release_id = moves.begin(cast.drill.drill_id, version).release_id
        counters = moves.agent.counters(spec.name)
        self._fault_at = time.time()  # of a bad canary; others are broken later
        weight_bp = spec.release.steps[0].weight_bp
        move = moves.set_route(
            self._release_id,
            STEP,
            spec.release,
            stable=cast.stable,
            version=cast.canary,
            weight_bp=weight_bp,
            limits=limits_from(spec.release, counters, cast.stable),
        )
        began_at = move.at.timestamp()
        live = LivePhase(
            phase=canary_phase(spec.release, 0),
            model=spec.name,
            release_id=self._release_id,
            step=STEP,
            canary=cast.canary,
            stable=cast.stable,
            lease_s=spec.release.lease_s,
            deadline_s=move.route.canary_timeout_ms / 1000,
            released_at=began_at,
            began_at=began_at,
            before=counters.of(cast.canary, cast.stable),
        )
        return LookLoop(spec.to_json(), live.model_dump(mode="json"), self._log)

    async def _break(self, loop: LookLoop) -> None:
        fault = self._cast.drill.fault
        if fault == "bad_canary":
            await self._judged(loop)
        elif fault == "dead_controller":
            await self._healthy(loop, _HEALTHY_S)
            self._fault_at = time.time()  # from here on nothing looks or renews the lease
            await self._drained()
        elif fault == "dead_agent":
            await self._struck(loop, "kill_agent")
            await self._rolled_back("hand", "its agent was killed")
        else:
            app = f"{self._spec.name}-{self._cast.canary}"
            await self._struck(loop, "kill_replicas", app=app, for_s=_KILLS_S)
            await self._judged(loop)
            await asyncio.to_thread(self._cluster.stop)

    async def _healthy(self, loop: LookLoop, for_s: float, until: Callable[[], float | None] | None = None) -> None:
        """Look, and renew the lease, as long as the canary is healthy.

        :param until: returns the time of the fault; None: there was none yet
        :raises RejectedError: the canary is lost already, or the fault does not come
        """
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            if until is not None and (at := await asyncio.to_thread(until)) is not None:
                self._fault_at = at
                return
            look = await loop.look()
            # Once the cluster was told to kill, a look may show the fault before `until` returns its time.
            if until is None and look is not None and look.outcome is not Outcome.CONTINUE:
                raise RejectedError(f"the canary was lost before the fault: {look.judgement.reason}")
            await asyncio.sleep(_POLL_S if until else LOOK_EVERY_S)
        if until is not None:
            raise RejectedError(f"the fault did not come within {for_s:.0f} s")

    async def _struck(self, loop: LookLoop, deed: Deed, **given: Any) -> None:
        """Let the cluster kill something, and watch the canary until it does."""
        await self._healthy(loop, _HEALTHY_S)
        await asyncio.to_thread(lambda: self._cluster.start(deed, **given))
        await self._healthy(loop, _STRIKE_S, lambda: self._cluster.struck_at(deed))

    # ------------------------------------------------------------------ its ends

    async def _judged(self, loop: LookLoop) -> None:
        """Look until the judge has a verdict, write it down, and obey."""
        end = time.monotonic() + _END_S
        while time.monotonic() < end:
            look = await loop.look()
            if look is not None and look.outcome is not Outcome.CONTINUE:
                await asyncio.to_thread(self._note, loop.live, look)
                await self._rolled_back("lease" if look.blind else "judge", look.judgement.reason)
                return
            await asyncio.sleep(LOOK_EVERY_S)

    def _note(self, live: LivePhase, look: Look) -> None:
        self._verdict = str(look.outcome)
        write_verdict(self._moves, self._spec.release.judge, live, look)

    async def _drained(self) -> None:
        """Wait for the lease to end in the edge, then end the release as `reconcile` does after a crash."""
        end = time.monotonic() + _END_S
        while time.monotonic() < end:
            route = await asyncio.to_thread(self._moves.agent.route, self._spec.name)
            if route is not None and route.weight_now_bp == 0:
                await self._rolled_back("lease", "nothing renewed its lease")
                return
            await asyncio.sleep(_POLL_S)

    async def _rolled_back(self, by: EndedBy, reason: str) -> None:
        """Roll back; try again while the agent does not answer."""
        end = time.monotonic() + _END_S
        had_weight: bool | None = None  # read once: a try that failed half-way has taken it
        while True:
            try:
                if had_weight is None:
                    route = await asyncio.to_thread(self._moves.agent.route, self._spec.name)
                    had_weight = route is not None and route.weight_now_bp > 0
                await asyncio.to_thread(self._roll_back, reason)
                break
            except ServiceError as error:
                self._log.info("not rolled back yet: %s", error)
                if time.monotonic() > end:
                    return
            await asyncio.sleep(_POLL_S)
        self._rolled_back_at = time.time()
        # A look with a Failed verdict takes the canary's weight at once.
        self._ended_by = by if had_weight or by == "judge" else "lease"

    def _roll_back(self, reason: str) -> None:
        cast = self._cast
        self._moves.roll_back(self._release_id, cast.canary, cast.stable, reason, drain_s=self._spec.release.drain_s)

    def _observed(self) -> Observed:
        tally, fault_at, back_at = self._load.tally, self._fault_at, self._rolled_back_at
        last = max((at for at in tally.canary if at > fault_at), default=fault_at)
        return Observed(
            requests=tally.sent,
            failed_requests=tally.failed,
            failures=tuple(tally.failures),
            canary_before=sum(fault_at - _JUST_BEFORE_S < at <= fault_at for at in tally.canary),
            canary_requests=len(tally.canary),
            fallbacks=tally.fallbacks,
            stable_after=sum(back_at is not None and at > back_at for at in tally.stable),
            to_zero_s=None if self._ended_by is None else round(last - fault_at, 2),
            rolled_back_s=None if back_at is None else round(back_at - fault_at, 2),
            ended_by=self._ended_by,
            verdict=self._verdict,
        )


def endpoint(edge_url: str, model: str) -> str:
    """Return the address of a model at the edge."""
    return f"{edge_url}/v2/models/{model}/infer"
