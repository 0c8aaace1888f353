"""Watch MLflow's registry from the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.asset import AssetNameRef
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from operators.core.errors import ConfigurationError, ServiceError
from operators.registry.changes import KINDS, Kind, place
from operators.triggers import KeptTrigger

if TYPE_CHECKING:
    from operators.registry.change_stream import Watcher

_MOST_KEPT = 300
_STATE = "taxiway.registry"  # of the watermark in the asset's state store


@dataclass(kw_only=True, eq=False, repr=False)
class ModelEventTrigger(KeptTrigger, BaseEventTrigger):
    """Fire when a version is registered, or an alias is set, moved or removed. For an `AssetWatcher`.

    The payload has ``key``, ``kind`` (``version_created``, ``alias_set``, ``alias_removed``), ``model``, ``version``,
    ``alias``, ``previous`` (the version that the alias named before), ``by_taxiway``, ``run_id``, ``uri``,
    ``aliases``, ``metrics`` and ``data_digest``.

    What is guaranteed:

    - It fires on changes alone. What the registry holds at the first check is the baseline (see ``from_start``). The
      position is kept in the asset's state store, so a restart is not a first check.
    - Every change that a check sees is reported at least once and in order: versions by number, then aliases. Changes
      are saved before they are reported, and removed only after Airflow has confirmed that their asset events are in
      its database. If the triggerer is killed in between, they are reported again with the same ``key``.
    - So a consumer can use ``key`` to do a thing once; see `new_changes`.
    - While MLflow or Airflow's state store is away, nothing is lost: the pauses between checks grow to five minutes.
    - Other ``kinds``, ``aliases`` or ``foreign_only`` have a position of their own, which begins with a first check.

    What cannot be seen: an alias that was moved and moved back between two checks, a version that was created and
    deleted between them (MLflow keeps no time of an alias), and the removal of aliases if the model itself was
    deleted and created again between them. A model that was created again starts anew: all its versions are reported.
    A renamed model is another model.

    :param model: name of the registered model
    :param asset: name of the asset that the watcher belongs to. Two assets need two triggers, each with its own
        position
    :param kinds: which changes to report
    :param aliases: report only changes of these aliases. None: of all. Versions are not affected
    :param foreign_only: leave out the changes that operators of this package made
    :param from_start: whether what is there at the first check is reported, too
    :param poll_s: seconds between two checks; a check is two small requests
    :param mlflow_conn_id: Airflow connection of type ``mlflow``; `MlflowHook` says what happens without one
    :raises ConfigurationError: ``kinds`` has an unknown one
    """

    model: str
    asset: str
    kinds: Sequence[Kind] = ("version_created", "alias_set")
    aliases: Sequence[str] | None = None
    foreign_only: bool = False
    from_start: bool = False
    poll_s: float = 30.0
    mlflow_conn_id: str | None = "mlflow_default"

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.kinds) - set(KINDS):
            raise ConfigurationError(f"unknown kinds {sorted(unknown)}; write some of {', '.join(KINDS)}")
        self.kinds = list(self.kinds)
        self.aliases = None if self.aliases is None else list(self.aliases)

    def shared_stream_key(self) -> Hashable:
        """Return a key that no other trigger has. Streams are used because only they learn when an event is in the database."""
        return (type(self).__qualname__, repr(sorted(self.serialize()[1].items())))

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Return the producer that polls, and that Airflow tells which events are in its database."""
        return _Producer(_watcher(kwargs))

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Yield every change."""
        try:
            if self.asset_state_store is not None:
                self.asset_state_store[AssetNameRef(name=self.asset)]
        except KeyError:
            self.log.error(
                "the trigger has asset=%r, but its watcher belongs to %r; name that asset in the trigger",
                self.asset,
                self.asset_state_store,
            )
        async for payload in shared_stream:
            yield TriggerEvent(payload)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield every change, without a triggerer. A change counts as confirmed when the next one is asked for."""
        watcher = _watcher(self.serialize()[1])
        try:
            async for payload in watcher.events():
                yield TriggerEvent(payload)
                await watcher.confirm([payload["key"]])
        finally:
            await watcher.close()


def new_changes(context: Mapping[str, Any], asset: Any) -> list[dict[str, Any]]:
    """Return the changes that started this run and that no other run of this task has taken, in order.

    `ModelEventTrigger` may report a change twice, and Airflow may hand several changes to one run. What a run took is
    kept in the asset's state store: a retry gets the same changes again, another run does not.

    Give the DAG ``max_active_runs=1``: two runs that ask at the same moment may both take a change.

    :param context: context of the task
    :param asset: the asset that has the watcher
    :returns: payloads of `ModelEventTrigger`
    """
    from airflow.sdk.execution_time.context import AssetStateStoreAccessor

    payloads: dict[str, dict[str, Any]] = {}
    for event in context["triggering_asset_events"].get(asset, ()):
        payload = (event.extra or {}).get("payload")
        if isinstance(payload, Mapping) and "key" in payload:
            payloads.setdefault(payload["key"], dict(payload))
    ti = context["ti"]
    store, row = AssetStateStoreAccessor(name=asset.name), f"taxiway.taken.{ti.dag_id}.{ti.task_id}"
    taken: dict[str, str] = dict(store.get(row) or ())
    # Airflow gives a run's events in no order.
    mine = [payloads[key] for key in sorted(payloads, key=place) if taken.setdefault(key, ti.run_id) == ti.run_id]
    if mine:
        store.set(row, [list(pair) for pair in taken.items()][-_MOST_KEPT:])
    return mine


class _Producer(SharedStreamProducer):
    """A watcher as the source of a shared stream."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    async def open_stream(self) -> AsyncIterator[tuple[Any, Any]]:
        """Yield each change with its key."""
        async for payload in self._watcher.events():
            yield payload, payload["key"]

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Confirm the events that are in the database. The others are reported again when the trigger is restarted."""
        if keys := [item.broker_payload for item in batch if item.outcome.is_clean]:
            await self._watcher.confirm(keys)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._watcher.close()


def _watcher(kwargs: Mapping[str, Any]) -> Watcher:
    from airflow.sdk.execution_time.context import AssetStateStoreAccessor

    from operators.registry.change_stream import Interest, Watcher
    from operators.registry.hook import MlflowHook

    interest = Interest.model_validate({name: kwargs[name] for name in Interest.model_fields})
    return Watcher(
        MlflowHook(kwargs["mlflow_conn_id"]).aserver,
        AssetStateStoreAccessor(name=kwargs["asset"]),
        f"{_STATE}.{interest.model}.{interest.digest}",
        interest,
        kwargs["poll_s"],
    )


@dataclass(kw_only=True, eq=False, repr=False)
class ModelVersionTrigger(KeptTrigger):
    """Fire once the registry holds what a sensor waits for.

    :param wanted: the fields of `operators.registry.lookup.Wanted`
    :param poll_s: seconds between two checks
    :param mlflow_conn_id: Airflow connection of type ``mlflow``
    """

    wanted: Mapping[str, Any]
    poll_s: float
    mlflow_conn_id: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.wanted = dict(self.wanted)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Check until there is such a version. If MLflow does not answer, the wait goes on until the sensor's ``timeout``."""
        from operators.registry.aclient import AsyncRegistry
        from operators.registry.hook import MlflowHook
        from operators.registry.lookup import Wanted, look

        wanted = Wanted.model_validate(self.wanted)
        async with aclosing(await AsyncRegistry.connect(await MlflowHook(self.mlflow_conn_id).aserver())) as registry:
            while True:
                try:
                    if version := await look(registry, wanted):
                        yield TriggerEvent(version)
                        return
                except ServiceError as error:
                    self.log.warning("%s", error)
                await asyncio.sleep(self.poll_s)
