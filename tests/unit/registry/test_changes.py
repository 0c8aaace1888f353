from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.definitions.asset import Model
from airflow.sdk.execution_time.comms import SetAssetStateStoreByName
from airflow.sdk.execution_time.context import AssetStateStoreAccessor, TriggeringAssetEventsAccessor
from airflow.triggers.shared_stream import SharedStreamManager
from hypothesis import given
from hypothesis import strategies as st

from operators.core.errors import ConfigurationError, ServiceError
from operators.registry import triggers
from operators.registry.change_stream import Interest, Watcher
from operators.registry.changes import MOST_AT_ONCE, Change, Watermark, changes, first_look, on, wanted
from operators.registry.entities import KEY_TAG, ModelVersion, RegisteredModel, alias_tag
from operators.registry.triggers import ModelEventTrigger, new_changes
from tests.support.waiting import until_async

ALL = Interest(
    model="m",
    kinds=("version_created", "alias_set", "alias_removed"),
    aliases=None,
    foreign_only=False,
    from_start=False,
)


class Registry:
    """MLflow's registry of one model, with an outage when one is needed."""

    def __init__(self) -> None:
        self.clock = itertools.count(1)
        self.made: RegisteredModel | None = None
        self.rows: list[ModelVersion] = []
        self.failures = 0

    def create(self, *, ours: bool = False) -> str:
        if self.made is None:
            self.made, self.rows = RegisteredModel(name="m", created_ms=next(self.clock)), []
        number = str(len(self.rows) + 1)
        tags = {KEY_TAG: number} if ours else {}
        self.rows.append(ModelVersion(model="m", version=number, source="s", run_id="", tags=tags))
        return number

    def point(self, alias: str, version: str | None, *, ours: bool = False) -> None:
        if self.made is None:
            return
        aliases = {k: v for k, v in self.made.aliases.items() if k != alias} | ({alias: version} if version else {})
        tags = self.made.tags | ({alias_tag(alias): version or "none"} if ours else {})
        self.made = self.made.model_copy(update={"aliases": aliases, "tags": tags})

    def delete(self) -> None:
        self.made, self.rows = None, []

    # What AsyncRegistry has.
    async def model(self, _: str) -> RegisteredModel | None:
        if self.failures:
            self.failures -= 1
            raise ServiceError("MLflow did not answer")
        return self.made

    async def version(self, _: str, number: str) -> ModelVersion | None:
        return next((row for row in self.rows if row.version == number), None)

    async def versions(self, _: str, *, above: int, most: int) -> list[ModelVersion]:
        return [row for row in self.rows if row.number > above][:most]

    async def newest(self, _: str) -> int:
        return len(self.rows)

    async def metrics(self, _: str) -> dict[str, float]:
        return {"auc": 0.5}

    async def close(self) -> None:
        pass


class Store:
    """The asset's state store; values go through JSON as they do in Airflow."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.fails = 0
        self.slow = False

    async def aget(self, key: str) -> Any:
        return json.loads(self.kept[key]) if key in self.kept else None

    async def aset(self, key: str, value: Any) -> None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the state store is away")
        if self.slow:
            await asyncio.sleep(0.001)
        self.kept[key] = json.dumps(SetAssetStateStoreByName(name="m", key=key, value=value).value)

    @property
    def mark(self) -> Watermark:
        return Watermark.model_validate_json(self.kept["k"])


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry()

    async def connect(server: Any) -> Any:
        return server

    monkeypatch.setattr("operators.registry.change_stream.AsyncRegistry.connect", connect)
    return found


def watcher(registry: Registry, store: Store, interest: Interest = ALL) -> Watcher:
    async def connect() -> Registry:
        return registry

    return Watcher(connect, store, "k", interest, 0.001)


async def take(events: AsyncIterator[Any], count: int) -> list[Any]:
    return [await asyncio.wait_for(anext(events), 60) for _ in range(count)]


def short(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(event["kind"], event["alias"], event["previous"], event["version"]) for event in events]


# --- What changed -----------------------------------------------------------------------------------------------------


def look(mark: Watermark, registry: Registry) -> list[Change]:
    seen = on(mark, registry.made)
    rows = [row for row in registry.rows if row.number > seen.version]
    return changes(seen, registry.made, rows[:MOST_AT_ONCE], more=len(rows) > MOST_AT_ONCE)


def test_what_is_there_at_first_is_the_baseline_unless_it_is_asked_for() -> None:
    registry = Registry()
    registry.create()
    registry.point("champion", "1")
    assert look(first_look("s", registry.made, 1, from_start=False), registry) == []
    found = look(first_look("s", registry.made, 1, from_start=True), registry)
    assert [(c.kind, c.version) for c in found] == [("version_created", "1"), ("alias_set", "1")]
    assert look(first_look("s", None, 0, from_start=False), registry) == found


def test_own_moves_are_known_by_the_tag_of_the_model() -> None:
    registry = Registry()
    registry.create()
    registry.create(ours=True)
    mark = first_look("s", registry.made, 0, from_start=True)
    registry.point("champion", "2", ours=True)
    assert [c.ours for c in look(mark, registry)] == [False, True, True]
    registry.point("champion", "1")  # somebody moves it by hand
    assert [c.ours for c in look(mark, registry)] == [False, True, False]
    mark = mark.with_changes([(c, None) for c in look(mark, registry)])
    registry.point("champion", None, ours=True)
    assert [(c.kind, c.version, c.ours) for c in look(mark, registry)] == [("alias_removed", "1", True)]


def test_a_model_that_was_made_again_begins_anew() -> None:
    registry = Registry()
    for _ in range(3):
        registry.create()
    registry.point("champion", "1")
    mark = first_look("s", registry.made, 3, from_start=False)
    registry.delete()
    assert [(c.kind, c.alias) for c in look(mark, registry)] == [("alias_removed", "champion")]
    registry.create()
    registry.point("champion", "1")
    assert [(c.kind, c.version, c.previous) for c in look(mark, registry)] == [
        ("version_created", "1", None),
        ("alias_set", "1", None),
    ]


def test_aliases_wait_for_the_versions_that_they_may_name() -> None:
    registry = Registry()
    registry.create()
    mark = first_look("s", registry.made, 1, from_start=False)
    for _ in range(MOST_AT_ONCE + 1):
        registry.create()
    registry.point("champion", str(MOST_AT_ONCE + 2))
    first = look(mark, registry)
    assert {c.kind for c in first} == {"version_created"}
    second = look(mark.with_changes([(c, None) for c in first]), registry)
    assert [c.kind for c in second] == ["version_created", "alias_set"]


def test_only_what_is_wanted_is_reported() -> None:
    made = Change(kind="version_created", version="1")
    moved = Change(kind="alias_set", version="1", alias="champion", ours=True)
    rule: dict[str, Any] = {"kinds": ("version_created", "alias_set"), "aliases": None, "foreign_only": False}
    assert wanted(made, **rule)
    assert wanted(moved, **rule)
    assert not wanted(moved, **{**rule, "foreign_only": True})
    assert not wanted(moved, **{**rule, "aliases": ["challenger"]})
    assert wanted(made, **{**rule, "aliases": ["challenger"]})
    assert not wanted(made, **{**rule, "kinds": ("alias_set",)})


moves = st.one_of(
    st.just(("create",)),
    st.tuples(st.just("point"), st.sampled_from("ab"), st.integers(1, 5)),
    st.tuples(st.just("drop"), st.sampled_from("ab")),
    st.just(("delete",)),
    # A look, and where it is killed: before and after the watermark is written, after some events, after the last one.
    st.tuples(st.just("look"), st.sampled_from(["write", "report", "half", "confirm", "never"])),
)


class Airflow:
    """A triggerer that dies at will, and the events that got through."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.stored = first_look("s", None, 0, from_start=False)
        self.looked_at: dict[tuple[int, str], None] = {}

    def look(self, registry: Registry, killed_before: str) -> None:
        found = [(c, {"alias": c.alias, "version": c.version}) for c in look(self.stored, registry)]
        if killed_before == "write":
            return
        self.stored = on(self.stored, registry.made).with_changes(found)
        if registry.made:
            self.looked_at |= {(registry.made.created_ms, row.version): None for row in registry.rows}
        events = list(self.stored.outbox.values())
        self.events += {"report": [], "half": events[: len(events) // 2]}.get(killed_before, events)
        if killed_before == "never":
            self.stored = self.stored.confirmed(self.stored.outbox.keys())

    def taken(self) -> list[dict[str, Any]]:
        """What a consumer makes of it that drops the keys that it knows."""
        return list({event["key"]: event for event in self.events}.values())


def do(step: tuple[Any, ...], registry: Registry, airflow: Airflow) -> None:
    match step:
        case ("create",):
            registry.create()
        case ("point", alias, number) if number <= len(registry.rows):
            registry.point(alias, str(number))
        case ("drop", alias):
            registry.point(alias, None)
        case ("delete",):
            registry.delete()
        case ("look", killed_before):
            airflow.look(registry, killed_before)


@given(st.lists(moves, max_size=40))
def test_nothing_is_missed_and_nothing_fires_twice_wherever_it_is_killed(steps: list[Any]) -> None:
    registry, airflow = Registry(), Airflow()
    for step in [*steps, *[("look", "never")] * 3]:
        do(step, registry, airflow)
    created = [event["version"] for event in airflow.taken() if event["kind"] == "version_created"]
    assert created == [version for _, version in airflow.looked_at]
    aliases: dict[str, str | None] = {}
    for event in airflow.taken():
        if event["alias"]:
            aliases[event["alias"]] = event["version"] if event["kind"] == "alias_set" else None
    now = registry.made.aliases if registry.made else {}
    assert {alias: aliases.get(alias) for alias in now} == now
    assert airflow.stored.outbox == {}


# --- The watcher ------------------------------------------------------------------------------------------------------


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


# --- The trigger, in the triggerer's own machinery --------------------------------------------------------------------


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


# --- The consumer -----------------------------------------------------------------------------------------------------


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
