"""Wait for something instead of sleeping: a busy machine only makes it longer, and a quiet one wastes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

# Only a test that fails waits this long, so it may be many times what an idle machine needs.
PATIENCE_S = 120.0


def until(
    reached: Callable[[], Any], what: str = "", timeout_s: float = PATIENCE_S, *, every_s: float | None = None
) -> Any:
    """Ask again and again until the answer is true, and return it.

    :param every_s: how long to wait between two questions; by default the longer, the longer it takes already
    """
    for pause_s in _pauses(what or str(reached), timeout_s, every_s):
        if answer := reached():
            return answer
        time.sleep(pause_s)
    raise AssertionError


async def until_async(reached: Callable[[], Any], what: str = "", timeout_s: float = PATIENCE_S) -> Any:
    """Do what :func:`until` does, and let the other tasks of the event loop run meanwhile."""
    for pause_s in _pauses(what or str(reached), timeout_s, None):
        if answer := reached():
            return answer
        await asyncio.sleep(pause_s)
    raise AssertionError


def seconds_until(reached: Callable[[], Any], what: str = "", timeout_s: float = PATIENCE_S) -> float:
    """Return how long it took until the answer was true."""
    began = time.monotonic()
    until(reached, what, timeout_s)
    return time.monotonic() - began


def _pauses(what: str, timeout_s: float, every_s: float | None) -> Iterator[float]:
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < timeout_s:
        yield every_s or min(0.5, max(0.005, waited_s / 20))
    raise AssertionError(f"not within {timeout_s} s: {what}")
