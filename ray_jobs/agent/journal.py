"""The journal: what the agent and the edges did by themselves, for the control plane to copy into the ledger."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_FILE_BYTES = 4 * 1024 * 1024
_IDS = 10_000


class Journal:
    """Append-only JSON lines in two files, the current and the one before. Safe for several threads of one process.

    :param folder: where the files are
    :param file_bytes: a current file that is larger replaces the one before, and a new one is begun
    """

    def __init__(self, folder: Path, file_bytes: int = _FILE_BYTES, clock: Callable[[], float] = time.time) -> None:
        self._now, self._before = folder / "journal.jsonl", folder / "journal.before.jsonl"
        self._file_bytes = file_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._ids: deque[str] = deque(maxlen=_IDS)
        self._seq = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._mend()
        for entry in self._entries():
            self._seq = entry["seq"]
            self._ids.append(entry.get("id", ""))

    def append(self, kind: str, *, model: str | None = None, at: float | None = None, **facts: Any) -> int:
        """Write an entry, and return its number once it is on disk.

        :param at: unix seconds; now, if it is not given
        """
        with self._lock:
            entry = {"seq": self._seq + 1, "at": at or self._clock(), "kind": kind, "model": model, **facts}
            self._rotate()
            descriptor = os.open(self._now, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._seq += 1
            self._ids.append(facts.get("id", ""))
            return self._seq

    def has(self, event_id: str) -> bool:
        """Tell whether an event with this id has been written lately."""
        with self._lock:
            return event_id in self._ids

    def after(self, seq: int, limit: int = 1000) -> list[dict[str, Any]]:
        """Return the entries that follow a number, the oldest first."""
        with self._lock:
            if seq >= self._seq:
                return []
            return [entry for entry in self._entries() if entry["seq"] > seq][:limit]

    def _entries(self) -> Iterator[dict[str, Any]]:
        for path in (self._before, self._now):
            if path.exists():
                with path.open(encoding="utf-8") as lines:
                    yield from map(json.loads, lines)

    def _rotate(self) -> None:
        if self._now.exists() and self._now.stat().st_size > self._file_bytes:
            self._now.replace(self._before)

    def _mend(self) -> None:
        """Cut off half a line that a kill may have left. Its number has not been returned to anybody."""
        if not self._now.exists():
            return
        with self._now.open("rb+") as file:
            whole = file.read()
            end = whole.rfind(b"\n") + 1
            if end < len(whole):
                file.truncate(end)
