"""The state that the supervisor publishes in a file, and a lock that ends with the supervisor."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

PENDING, STARTING, READY, FAILED, STOPPED = "pending", "starting", "ready", "failed", "stopped"


@dataclass
class ServiceState:
    """One service.

    ``pid`` and ``start`` (seconds since boot) name its process; steps and external services have none once ready.
    """

    state: str = PENDING
    pid: int | None = None
    start: float | None = None
    ready_after_s: float | None = None
    restarts: int = 0
    note: str = ""
    address: str = ""
    skipped: bool = False


@dataclass
class StackState:
    """The stack: ``starting``, ``ready``, ``failed`` (being stopped), ``stopped``."""

    state: str = STARTING
    supervisor: int = 0
    supervisor_start: float = 0.0
    elapsed_s: float = 0.0
    services: dict[str, ServiceState] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """Names of the services that failed."""
        return [name for name, service in self.services.items() if service.state == FAILED]


def read(path: Path) -> StackState | None:
    """Return what was written last, or None."""
    try:
        document = json.loads(path.read_text())
        return StackState(**{**document, "services": {n: ServiceState(**s) for n, s in document["services"].items()}})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def lock(path: Path) -> FileLock | None:
    """Take the lock, or return None if another process has it. The kernel frees it when that process ends or is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, mode=0o600, blocking=False, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout:
        return None
    return held


def locked(path: Path) -> bool:
    """Say whether a process has the lock."""
    if not path.exists():
        return False
    if held := lock(path):
        held.release()
    return held is None
