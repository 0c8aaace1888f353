"""The agent without Ray: its parts, and the chores that it repeats."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operators.core.errors import TaxiwayError
from ray_jobs.agent.apps import Apps, Deployer
from ray_jobs.agent.edges import Edges
from ray_jobs.agent.journal import Journal
from ray_jobs.agent.state import Store
from ray_jobs.agent.traffic import TrafficControl

_TICK_S = 0.25
_log = logging.getLogger(__name__)


class Agent:
    """The parts of one agent. Create it on the event loop that serves it.

    :param folder: its files
    :param deployer: deploys and deletes versions
    :param lost: returns the ids of edges whose nodes have gone; may block
    """

    def __init__(self, folder: Path, deployer: Deployer, lost: Callable[[], set[str]] = set) -> None:
        self.store = Store(folder / "state.json")
        self._journal = Journal(folder)
        self._lost = lost
        self.edges = Edges(self.store, self._journal)
        self.apps = Apps(self.store, self.edges, deployer)
        self.traffic = TrafficControl(self.store, self._journal, self.edges, self.apps)

    async def entries(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Return entries of the journal."""
        return await asyncio.to_thread(self._journal.after, after, limit)

    async def look_after(self) -> None:
        """End leases, drain versions and forget edges that have gone, until cancelled."""
        chores = {self._leases: _TICK_S, self._drains: _TICK_S, self._losses: 5.0}
        await asyncio.gather(*(self._again(chore, every_s) for chore, every_s in chores.items()))

    async def _again(self, chore: Callable[[], Any], every_s: float) -> None:
        while True:
            try:
                await chore()
            except (TaxiwayError, OSError) as error:
                _log.error("%s; it is tried again", error)
            except Exception:  # noqa: BLE001 - nothing else ends leases and drains versions
                _log.exception("%s failed; it is tried again", chore.__name__)
            await asyncio.sleep(every_s)

    async def _leases(self) -> None:
        await self.traffic.end_leases()

    async def _drains(self) -> None:
        await self.apps.drain()

    async def _losses(self) -> None:
        gone = await asyncio.to_thread(self._lost)
        if self.edges.forget_lost(gone):
            await self.store.save()
