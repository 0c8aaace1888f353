"""A service as the supervisor knows it: how it starts, when it is ready, and how it stops."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from operators.core.errors import ConfigurationError


@dataclass(frozen=True)
class Service:
    """One process, or one step that ends by itself, or (without a command) somebody else's service."""

    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    needs: tuple[str, ...] = ()
    # Called again and again, in a thread of its own, until it returns True. A step is ready when it ends with 0.
    ready: Callable[[], bool] = lambda: True
    # Runs just before the command.
    prepare: Callable[[], None] | None = None
    step: bool = False
    # A step that need not run. Asked when its needs are ready.
    skip: Callable[[], bool] | None = None
    timeout_s: float = 120.0
    stop_signal: int = signal.SIGTERM
    grace_s: float = 5.0
    # How often in a row it may be started again after it ended by itself: when the stack is up, and while the stack starts.
    # Every restart is counted and shown. The row begins anew once the service has run for a while.
    restarts: int = 0
    start_retries: int = 0
    address: str = ""

    @property
    def external(self) -> bool:
        """Whether there is nothing to start."""
        return not self.command


def transitive_needs(services: Mapping[str, Service]) -> dict[str, frozenset[str]]:
    """Return, for each service, what it needs, what that needs, and so on.

    :raises ConfigurationError: they need each other in a circle, or one that does not exist
    """
    needs: dict[str, frozenset[str]] = {}
    todo = dict(services)
    while todo:
        free = {name: s for name, s in todo.items() if all(need in needs for need in s.needs)}
        if not free:
            raise ConfigurationError(
                f"these services need each other in a circle, or one that does not exist: {', '.join(sorted(todo))}"
            )
        for name, service in free.items():
            needs[name] = frozenset(service.needs).union(*(needs[need] for need in service.needs))
            del todo[name]
    return needs
