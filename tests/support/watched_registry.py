"""A registry of one model and an asset's state store, in memory, and what watches the one and writes into the other."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk.execution_time.comms import SetAssetStateStoreByName

from operators.core.errors import ServiceError
from operators.registry.change_stream import Interest, Watcher
from operators.registry.changes import Watermark
from operators.registry.entities import KEY_TAG, ModelVersion, RegisteredModel, alias_tag

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

    async def aclose(self) -> None:
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


def watcher(registry: Registry, store: Store, interest: Interest = ALL) -> Watcher:
    async def connect() -> Registry:
        return registry

    return Watcher(connect, store, "k", interest, 0.001)


async def take(events: AsyncIterator[Any], count: int) -> list[Any]:
    return [await asyncio.wait_for(anext(events), 60) for _ in range(count)]


def short(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(event["kind"], event["alias"], event["previous"], event["version"]) for event in events]
