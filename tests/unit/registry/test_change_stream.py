"""The watcher of a registry: changes in order, each until it is confirmed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from operators.registry.changes import MOST_AT_ONCE
from tests.support.waiting import until_async
from tests.support.watched_registry import ALL, Registry, Store, short, take, watcher


def test_changes_are_reported_in_order_and_again_until_they_are_confirmed(registry: Registry) -> None:
    async def scenario() -> None:
        store = Store()
        registry.create()
        first = watcher(registry, store)
        events = first.events()
        looking = asyncio.ensure_future(anext(events))
        await until_async(lambda: "k" in store.kept)
        assert not looking.done()  # the baseline is not reported
        registry.create()
        registry.create()
        registry.point("champion", "3")
        found = [await asyncio.wait_for(looking, 60), *await take(events, 2)]
        assert short(found) == [
            ("version_created", None, None, "2"),
            ("version_created", None, None, "3"),
            ("alias_set", "champion", None, "3"),
        ]
        assert found[2] | {"uri": "models:/m/3", "metrics": {"auc": 0.5}, "by_taxiway": False} == found[2]
        await first.confirm([found[0]["key"]])
        # The process dies here; the alias moves before the next one starts.
        registry.point("champion", "1")
        second = watcher(registry, store)
        again = await take(second.events(), 3)
        assert again[:2] == found[1:]
        assert short(again[2:]) == [("alias_set", "champion", "3", "1")]
        await second.confirm([event["key"] for event in again])
        assert store.mark.outbox == {}
        assert len({event["key"] for event in [*found, *again]}) == 4

    asyncio.run(scenario())


def test_an_outage_loses_nothing_and_is_not_retried_in_a_rush(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> list[float]:
        slept: list[float] = []
        real = asyncio.sleep

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await real(0)

        monkeypatch.setattr("operators.registry.change_stream.asyncio.sleep", sleep)
        store = Store()
        events = watcher(registry, store).events()
        looking = asyncio.ensure_future(anext(events))
        while "k" not in store.kept:
            await real(0.001)
        slept.clear()
        registry.failures = 40
        registry.create()
        registry.create()
        found = [await asyncio.wait_for(looking, 60), *await take(events, 1)]
        assert [event["version"] for event in found] == ["1", "2"]
        return [seconds for seconds in slept if seconds != 0.001][:20]

    waits = asyncio.run(scenario())
    assert waits == sorted(waits)
    assert max(waits) <= 300
    said = [record for record in caplog.records if "cannot be watched" in record.message]
    assert len(said) == 6  # failures 1, 2, 4, 8, 16, 32


def test_what_cannot_be_confirmed_now_is_confirmed_later_and_not_reported_again(registry: Registry) -> None:
    async def scenario() -> None:
        store = Store()
        mine = watcher(registry, store)
        events = mine.events()
        looking = asyncio.ensure_future(anext(events))
        await until_async(lambda: "k" in store.kept)
        registry.create()
        first = await asyncio.wait_for(looking, 60)
        store.fails = 2
        await mine.confirm([first["key"]])
        assert store.mark.outbox != {}
        registry.create()
        assert [event["version"] for event in await take(events, 1)] == ["2"]
        assert list(store.mark.outbox) != [first["key"]]
        assert first["key"] not in store.mark.outbox

    asyncio.run(scenario())


def test_confirmations_at_once_are_all_written(registry: Registry) -> None:
    async def scenario() -> None:
        store = Store()
        mine = watcher(registry, store, ALL.model_copy(update={"from_start": True}))
        for _ in range(5):
            registry.create()
        found = await take(mine.events(), 5)
        store.slow = True
        await asyncio.gather(*(mine.confirm([event["key"]]) for event in found))
        assert store.mark.outbox == {}

    asyncio.run(scenario())


def test_what_is_known_already_is_reported_while_mlflow_is_away(registry: Registry) -> None:
    async def scenario() -> None:
        store = Store()
        registry.create()
        found = await take(watcher(registry, store, ALL.model_copy(update={"from_start": True})).events(), 1)
        registry.failures = 1_000_000
        assert await take(watcher(registry, store).events(), 1) == found

    asyncio.run(scenario())


def test_more_changes_than_fit_wait_for_their_turn(registry: Registry) -> None:
    async def scenario() -> None:
        store = Store()
        mine = watcher(registry, store, ALL.model_copy(update={"from_start": True}))
        for _ in range(3 * MOST_AT_ONCE):
            registry.create()
        events = mine.events()
        found: list[Any] = []
        for _ in range(3):
            batch = await take(events, MOST_AT_ONCE)
            assert len(store.mark.outbox) == MOST_AT_ONCE
            await mine.confirm([event["key"] for event in batch])
            found += batch
        assert [event["version"] for event in found] == [str(n + 1) for n in range(3 * MOST_AT_ONCE)]

    asyncio.run(scenario())
