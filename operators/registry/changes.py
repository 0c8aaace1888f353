"""What changed in the registry since the last check, and which of the changes Airflow has not confirmed yet. No I/O.

A watermark holds what the last check saw, and an outbox: the changes that are not confirmed. Both are written together, before
any change is reported. A change is reported again under the same key until Airflow confirms it. A change that was seen once is
never looked for again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from operators.core.frozen import Exact
from operators.registry.entities import KEY_TAG, NO_VERSION, ModelVersion, RegisteredModel, alias_tag

Kind = Literal["version_created", "alias_set", "alias_removed"]
KINDS: tuple[Kind, ...] = ("version_created", "alias_set", "alias_removed")
MOST_AT_ONCE = 20  # a watermark with full outbox stays far below the 64 KB that a state store should hold


class Change(Exact):
    """One change in the registry: a new version, or an alias that was set or removed.

    :param version: what was created, what the alias names now or, when it was removed, what it named last
    :param previous: what the alias named before; None if it is new
    :param ours: whether these operators made it
    """

    kind: Kind
    version: str
    alias: str | None = None
    previous: str | None = None
    ours: bool = False


class Watermark(Exact):
    """Where a watcher stands.

    :param stream: id of the first check, so that no key is given out twice
    :param created_ms: of the model; another one means that it was deleted and made again
    :param version: highest version seen
    :param count: changes reported since the first check
    :param outbox: events that are not confirmed, by their keys
    """

    stream: str
    created_ms: int = 0
    version: int = 0
    aliases: dict[str, str] = Field(default_factory=dict)
    count: int = 0
    outbox: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def confirmed(self, keys: Collection[str]) -> Watermark:
        """Return the watermark without these events."""
        return self.model_copy(update={"outbox": {k: v for k, v in self.outbox.items() if k not in keys}})

    def with_changes(self, changes: Sequence[tuple[Change, Mapping[str, Any] | None]]) -> Watermark:
        """Return the watermark after some changes.

        :param changes: each change with the payload of its event, or None if it is not reported
        """
        version, aliases, count, outbox = self.version, dict(self.aliases), self.count, dict(self.outbox)
        for change, payload in changes:
            if change.kind == "version_created":
                version = max(version, int(change.version))
            elif change.kind == "alias_set":
                aliases[str(change.alias)] = change.version
            else:
                del aliases[str(change.alias)]
            if payload is not None:
                count += 1
                # With the change in it: should two triggerers ever watch at once, what differs has different keys.
                key = f"{self.stream}/{count}/{change.alias or ''}@{change.version}"
                outbox[key] = {"key": key, "kind": change.kind, **payload}
        return self.model_copy(update={"version": version, "aliases": aliases, "count": count, "outbox": outbox})


def place(key: str) -> tuple[str, int]:
    """Return the stream of an event and its place in it, by its key."""
    stream, number, _ = key.split("/", 2)
    return stream, int(number)


def first_look(stream: str, model: RegisteredModel | None, newest: int, *, from_start: bool) -> Watermark:
    """Return the watermark to begin with.

    :param newest: highest version number
    :param from_start: whether what is there already counts as new
    """
    if model is None:
        return Watermark(stream=stream)
    if from_start:
        return Watermark(stream=stream, created_ms=model.created_ms)
    return Watermark(stream=stream, created_ms=model.created_ms, version=newest, aliases=model.aliases)


def on(mark: Watermark, model: RegisteredModel | None) -> Watermark:
    """Return the watermark to compare with the registry. Of a model that was deleted and made again nothing counts as seen."""
    if model is None or model.created_ms == mark.created_ms:
        return mark
    return mark.model_copy(update={"created_ms": model.created_ms, "version": 0, "aliases": {}})


def changes(
    mark: Watermark, model: RegisteredModel | None, versions: Sequence[ModelVersion], *, more: bool
) -> list[Change]:
    """Return what changed, in the order in which to report it: versions by number, then aliases by name.

    :param mark: what `on` returned
    :param versions: versions above the watermark, the oldest first
    :param more: whether there are more such versions; then the aliases wait, for they may name one of those
    """
    events = [Change(kind="version_created", version=v.version, ours=KEY_TAG in v.tags) for v in versions]
    if more:
        return events[:MOST_AT_ONCE]
    now, tags = (model.aliases, model.tags) if model else ({}, {})
    for alias in sorted(now.keys() | mark.aliases.keys()):
        was, names = mark.aliases.get(alias), now.get(alias)
        ours = tags.get(alias_tag(alias)) == (names or NO_VERSION)
        if names and names != was:
            events.append(Change(kind="alias_set", version=names, alias=alias, previous=was, ours=ours))
        elif was and not names:
            events.append(Change(kind="alias_removed", version=was, alias=alias, previous=was, ours=ours))
    return events[:MOST_AT_ONCE]


def wanted(change: Change, *, kinds: Collection[Kind], aliases: Collection[str] | None, foreign_only: bool) -> bool:
    """Say whether a change is one to report.

    :param aliases: the aliases of interest; None: all
    :param foreign_only: leave out what these operators did themselves
    """
    if change.kind not in kinds or (foreign_only and change.ours):
        return False
    return change.alias is None or aliases is None or change.alias in aliases
