"""A release under way, for the tests of its tasks."""

from __future__ import annotations

import pytest

from tests.support.step_world import StepWorld, enter


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> StepWorld:
    return enter(monkeypatch)
