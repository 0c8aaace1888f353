"""Which version a registry sensor waits for, and one check for it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from operators.core.frozen import Exact
from operators.registry.aclient import AsyncRegistry
from operators.registry.entities import ModelVersion

_PAGE_ROWS = 200


class Wanted(Exact):
    """Conditions that a version must meet, all of them.

    :param alias: alias that must name it
    :param version: the only number that it may have
    :param unlike: number that it must not have
    :param above: its number must be higher
    :param tags: tags that it must have
    """

    model: str
    alias: str | None = None
    version: str | None = None
    unlike: str | None = None
    above: int = 0
    tags: dict[str, str] = Field(default_factory=dict)


async def look(registry: AsyncRegistry, wanted: Wanted) -> dict[str, Any] | None:
    """Return the oldest version that is wanted, as plain JSON types, or None."""
    candidates = [await _aliased(registry, wanted)] if wanted.alias else await _above(registry, wanted)
    for version in candidates:
        if version is not None and _meets(version, wanted):
            fields = {"model": version.model, "version": version.version, "run_id": version.run_id, "uri": version.uri}
            return {**fields, "tags": version.tags, "aliases": list(version.aliases)}
    return None


async def _aliased(registry: AsyncRegistry, wanted: Wanted) -> ModelVersion | None:
    model = await registry.model(wanted.model)
    named = model.aliases.get(str(wanted.alias)) if model else None
    return await registry.version(wanted.model, named) if named else None


async def _above(registry: AsyncRegistry, wanted: Wanted) -> list[ModelVersion]:
    """Return all versions above a number, page by page."""
    versions: list[ModelVersion] = []
    above = wanted.above
    while page := await registry.versions(wanted.model, above=above, most=_PAGE_ROWS):
        versions += page
        above = page[-1].number
        if len(page) < _PAGE_ROWS:
            break
    return versions


def _meets(version: ModelVersion, wanted: Wanted) -> bool:
    if wanted.version is not None and version.version != wanted.version:
        return False
    return version.version != wanted.unlike and wanted.tags.items() <= version.tags.items()
