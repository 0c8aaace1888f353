"""Files of the state directory: written in one step, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from operators.core.errors import ServiceError


def write(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file in one step.

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

    :raises ServiceError: if another one holds the lock for longer than ``patience_s``
    """
    deadline = time.monotonic() + patience_s
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServiceError(f"another process has held {path} for too long") from None
                time.sleep(0.01)
        yield  # closing the file releases the lock
