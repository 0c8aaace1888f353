"""Files of the state directory: written in one step, by one process at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from operators.core.errors import ServiceError

_POLL_S = 0.01


def write(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file in one step: a reader sees the old text or the new one, never half of it.

    :param durable: whether it must survive a power cut, which takes milliseconds
    """
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(path: Path, patience_s: float) -> Iterator[None]:
    """Keep other processes out.

    :raises ServiceError: if another process holds the lock for longer than ``patience_s``
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=patience_s, poll_interval=_POLL_S)
    except Timeout:
        raise ServiceError(f"another process has held {path} for more than {patience_s:g} s") from None
    try:
        yield
    finally:
        lock.release()
