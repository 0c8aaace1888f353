"""What the supervisor tells the world: one file, replaced as one step, and a lock that dies with the supervisor."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from operators.stack.secret import write_private

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


def write(path: Path, state: StackState) -> None:
    """Replace the file."""
    write_private(path, json.dumps(asdict(state), indent=1))


def read(path: Path) -> StackState | None:
    """Return what was written last, or None."""
    try:
        document = json.loads(path.read_text())
        return StackState(**{**document, "services": {n: ServiceState(**s) for n, s in document["services"].items()}})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def lock(path: Path) -> FileLock | None:
    """Take the lock, or return None if somebody has it. The kernel frees it when the holder ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, mode=0o600, blocking=False, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout:
        return None
    return held


def locked(path: Path) -> bool:
    """Say whether somebody has the lock."""
    if not path.exists():
        return False
    if held := lock(path):
        held.release()
    return held is None
