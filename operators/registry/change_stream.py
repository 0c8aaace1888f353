"""Poll the registry, and yield its changes as events until Airflow has confirmed them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from typing import Any, Protocol

from operators.core.errors import ConfigurationError, ServiceError, ServiceRefusedError
from operators.core.frozen import Frozen
from operators.registry.aclient import AsyncRegistry
from operators.registry.changes import MOST_AT_ONCE, Change, Kind, Watermark, changes, first_look, on, wanted
from operators.registry.policy import event_extra

MAX_WAIT_S = 300.0
_log = logging.getLogger(__name__)


class Store(Protocol):
    """The two methods of Airflow's asset state store that are used here."""

    async def aget(self, key: str) -> Any:
        """Return a value, or None."""

    async def aset(self, key: str, value: Any) -> None:
        """Write a value."""


class Interest(Frozen):
    """Which changes a watcher reports.

    :param from_start: whether what the registry holds at the first check counts as new
    """

    model: str
    kinds: tuple[Kind, ...]
    aliases: tuple[str, ...] | None
    foreign_only: bool
    from_start: bool

    @property
    def digest(self) -> str:
        """A name for these interests: watchers of one model with different interests have different ones."""
        interest = json.dumps([sorted(self.kinds), sorted(self.aliases or ()), self.aliases is None, self.foreign_only])
        return hashlib.sha256(interest.encode()).hexdigest()[:8]


class Watcher:
    """One model's stream of changes.

    :param registry: returns the server; it is called again after every failure, because the address or the credentials may
        have changed
    :param store: keeps the watermark
    :param key: of the watermark in the store
    """

    def __init__(self, registry: Any, store: Store, key: str, interest: Interest, poll_s: float) -> None:
        self._connect = registry
        self._store = store
        self._key = key
        self._interest = interest
        self._poll_s = poll_s
        self._registry: AsyncRegistry | None = None
        self._mark: Watermark | None = None
        self._lock = asyncio.Lock()  # a confirmation may come while a look is under way
        self._confirmed: set[str] = set()
        self._more = False  # whether the last look left something for the next
        self._wake = asyncio.Event()
        self._failures = 0

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what is not confirmed, then every new change; never ends."""
        reported: set[str] = set()
        while True:
            self._wake.clear()
            try:
                outbox = await self._look()
                if self._failures:
                    _log.info("MLflow answers again; the changes of %s are watched", self._interest.model)
                self._failures = 0
            except Exception as error:  # noqa: BLE001 - a watcher that ends is started again at once, without a pause
                await self._after_failure(error)
                continue
            reported &= outbox.keys()
            fresh = [key for key in outbox if key not in reported]
            for key in fresh:
                reported.add(key)
                yield outbox[key]
            if not self._more:
                await asyncio.sleep(self._poll_s)
            elif len(outbox) >= MOST_AT_ONCE:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._poll_s)

    async def confirm(self, keys: Collection[str]) -> None:
        """Take confirmed events out of the outbox. If the store cannot be written now, the next check writes it."""
        self._confirmed |= set(keys)
        async with self._lock:
            try:
                await self._settle()
            except Exception as error:  # noqa: BLE001 - failing here would report everything again, and again
                _log.warning("%d events are confirmed later: %s", len(self._confirmed), error)
        self._wake.set()

    async def close(self) -> None:
        """Close the connections."""
        if self._registry is not None:
            await self._registry.aclose()
            self._registry = None

    async def _look(self) -> Mapping[str, dict[str, Any]]:
        """Check once, save what is new, and return all events that are not confirmed."""
        interest = self._interest
        async with self._lock:
            self._more = True
            if self._mark is None and (kept := await self._store.aget(self._key)):
                self._mark = Watermark.model_validate(kept)
                if self._mark.outbox:  # saved events need not wait for MLflow
                    return self._mark.outbox
            if self._registry is None:
                self._registry = await AsyncRegistry.connect(await self._connect())
            registry = self._registry
            if self._mark is None:
                self._mark = await self._begin(registry)
            await self._settle()
            if len(self._mark.outbox) < MOST_AT_ONCE:
                # Aliases before versions: what an alias names is then among the versions.
                model = await registry.model(interest.model)
                mark = on(self._mark, model)
                versions = (
                    await registry.versions(interest.model, above=mark.version, most=MOST_AT_ONCE) if model else []
                )
                self._more = len(versions) >= MOST_AT_ONCE
                new = changes(mark, model, versions, more=self._more)
                self._more = len(new) >= MOST_AT_ONCE
                after = mark.with_changes([(change, await self._payload(registry, change)) for change in new])
                if after != self._mark:
                    await self._write(after)
            return self._mark.outbox

    async def _settle(self) -> None:
        if self._mark is not None and self._confirmed:
            keys = frozenset(self._confirmed)  # more may come while this is written
            await self._write(self._mark.confirmed(keys))
            self._confirmed -= keys

    async def _begin(self, registry: AsyncRegistry) -> Watermark:
        model = await registry.model(self._interest.model)
        newest = await registry.newest(self._interest.model) if model else 0
        mark = first_look(uuid.uuid4().hex[:12], model, newest, from_start=self._interest.from_start)
        await self._write(mark)
        return mark

    async def _write(self, mark: Watermark) -> None:
        await self._store.aset(self._key, mark.model_dump(mode="json"))
        self._mark = mark

    async def _payload(self, registry: AsyncRegistry, change: Change) -> dict[str, Any] | None:
        """Return the payload of a change's event, or None if nobody is interested in the change."""
        interest = self._interest
        if not wanted(change, kinds=interest.kinds, aliases=interest.aliases, foreign_only=interest.foreign_only):
            return None
        event = {"alias": change.alias, "previous": change.previous, "by_taxiway": change.ours}
        version = await registry.version(interest.model, change.version)
        if version is None:  # deleted meanwhile
            return {"model": interest.model, "version": change.version, **event}
        known = {"model": interest.model, "version": version.version, "run_id": version.run_id, "uri": version.uri}
        metrics = await registry.metrics(version.run_id)
        return {**event_extra(known, metrics=metrics, aliases=version.aliases, tags=version.tags), **event}

    async def _after_failure(self, error: Exception) -> None:
        """Log the 1st, 2nd, 4th, 8th … failure in a row, and wait longer after each."""
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            expected = isinstance(error, (ServiceError, ServiceRefusedError, ConfigurationError))
            _log.warning(
                "the registry cannot be watched for changes of %s (failure %d in a row); no change is lost: %s",
                self._interest.model,
                self._failures,
                error,
                exc_info=None if expected else error,
            )
        await self.close()
        await asyncio.sleep(min(self._poll_s * 2 ** min(self._failures - 1, 10), max(MAX_WAIT_S, self._poll_s)))
