from __future__ import annotations

from typing import Any

import pytest

from tests.support.watched_registry import Registry


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry()

    async def connect(server: Any) -> Any:
        return server

    monkeypatch.setattr("operators.registry.change_stream.AsyncRegistry.connect", connect)
    return found
