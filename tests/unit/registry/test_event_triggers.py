"""The watcher's trigger in the triggerer's own machinery, and what a run takes from its events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.definitions.asset import Model
from airflow.sdk.execution_time.comms import SetAssetStateStoreByName
from airflow.sdk.execution_time.context import AssetStateStoreAccessor, TriggeringAssetEventsAccessor
from airflow.triggers.shared_stream import SharedStreamManager

from operators.core.errors import ConfigurationError
from operators.registry import triggers
from operators.registry.triggers import ModelEventTrigger, new_changes
from tests.support.waiting import until_async
from tests.support.watched_registry import ALL, Registry, Store, watcher


@pytest.fixture
def trigger(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Callable[[Store], ModelEventTrigger]:
    def make(store: Store) -> ModelEventTrigger:
        monkeypatch.setattr(triggers, "_watcher", lambda kwargs: watcher(registry, store))
        return ModelEventTrigger(model="m", asset="m", poll_s=0.001)

    return make


def test_the_watermark_waits_until_airflow_has_the_event(
    registry: Registry, trigger: Callable[[Store], ModelEventTrigger]
) -> None:
    """Through the class that the triggerer runs such triggers with; `persisted` stands for its database."""

    async def scenario() -> None:
        store = Store()

        async def run(manager: SharedStreamManager, *, persisted: bool) -> dict[str, Any]:
            mine = trigger(store)
            key = mine.shared_stream_key()
            stream = mine.filter_shared_stream(manager.subscribe(trigger_id=1, trigger=mine, key=key))
            looking = asyncio.ensure_future(anext(stream))
            await until_async(lambda: "k" in store.kept)
            if not registry.rows:
                registry.create()
            event = await asyncio.wait_for(looking, 60)
            seq = manager.bind_pending_event(trigger_id=1, key=key)
            following = asyncio.ensure_future(anext(stream))  # the triggerer asks for more at once
            await asyncio.sleep(0.01)  # it would have been confirmed by now
            assert list(store.mark.outbox) == [event.payload["key"]]
            if persisted:
                manager.confirm_persisted([seq])
                await until_async(lambda: store.mark.outbox == {})
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await manager.unsubscribe(1, key)
            return dict(event.payload)

        lost = await run(SharedStreamManager(), persisted=False)
        assert await run(SharedStreamManager(), persisted=True) == lost

    asyncio.run(scenario())


def test_an_event_that_airflow_could_not_keep_stays_in_the_outbox(
    registry: Registry, trigger: Callable[[Store], ModelEventTrigger]
) -> None:
    async def scenario() -> None:
        store = Store()
        manager = SharedStreamManager(ack_timeout=0.01)
        mine = trigger(store)
        stream = mine.filter_shared_stream(manager.subscribe(trigger_id=1, trigger=mine, key="k"))
        looking = asyncio.ensure_future(anext(stream))
        await until_async(lambda: "k" in store.kept)
        registry.create()
        event = await asyncio.wait_for(looking, 60)
        assert manager.bind_pending_event(trigger_id=1, key="k") is not None
        with pytest.raises(Exception, match="did not finish"):
            await asyncio.wait_for(anext(stream), 60)
        await manager.unsubscribe(1, "k")
        assert list(store.mark.outbox) == [event.payload["key"]]

    asyncio.run(scenario())


def test_trigger_is_made_again_from_what_it_keeps() -> None:
    made = ModelEventTrigger(model="m", asset="a", aliases=["champion"], foreign_only=True)
    path, kwargs = made.serialize()
    assert path == "operators.registry.triggers.ModelEventTrigger"
    assert ModelEventTrigger(**json.loads(json.dumps(kwargs))).serialize() == (path, kwargs)
    other = ModelEventTrigger(model="m", asset="b", aliases=["champion"], foreign_only=True)
    assert made.shared_stream_key() != other.shared_stream_key()


def test_watchers_of_other_interests_have_watermarks_of_their_own() -> None:
    known = ALL.digest
    assert ALL.model_copy(update={"from_start": True, "kinds": tuple(reversed(ALL.kinds))}).digest == known
    others = [{"aliases": ()}, {"aliases": ("champion",)}, {"kinds": ("alias_set",)}, {"foreign_only": True}]
    assert len({known, *(ALL.model_copy(update=change).digest for change in others)}) == 5


def test_unknown_kinds_are_refused_where_the_dag_is_read() -> None:
    with pytest.raises(ConfigurationError, match="alias_moved"):
        ModelEventTrigger(model="m", asset="m", kinds=["alias_moved"])  # type: ignore[list-item]


def test_a_change_is_taken_by_one_run_and_its_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Any] = {}
    monkeypatch.setattr(AssetStateStoreAccessor, "get", lambda self, key: json.loads(kept.get(key, "null")))

    def keep(self: AssetStateStoreAccessor, key: str, value: Any) -> None:
        # What Airflow sends must be of JSON's own types: a tuple is none.
        message = SetAssetStateStoreByName(name="m", key=key, value=value)
        kept[key] = json.dumps(message.value)

    monkeypatch.setattr(AssetStateStoreAccessor, "set", keep)
    asset = Model(name="m", uri="x-mlflow://models/m")

    def run(run_id: str, *keys: str) -> list[str]:
        extras = [{"from_trigger": True, "payload": {"key": key}} for key in keys]
        events = [
            SimpleNamespace(asset=SimpleNamespace(name=asset.name, uri=asset.uri), source_aliases=[], extra=extra)
            for extra in [*extras, {"version": "7"}, None]
        ]
        context = {
            "triggering_asset_events": TriggeringAssetEventsAccessor.build(events),  # type: ignore[arg-type]
            "ti": SimpleNamespace(dag_id="d", task_id="t", run_id=run_id),
        }
        return [change["key"] for change in new_changes(context, asset)]

    first, second, tenth = "s/1/@1", "s/2/champion@1", "s/10/@2"
    assert run("r1", second, first, second) == [first, second]
    assert run("r1", first, second) == [first, second]
    assert run("r2", tenth, "s/3/@1", second) == ["s/3/@1", tenth]
    assert run("r3") == []
