"""Which processes belong to the stack, proven, and how to end all of them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_KILL_TIMEOUT_S = 10.0
_PR_SET_CHILD_SUBREAPER = 36


def start_s(process: psutil.Process) -> float:
    """Return when a process began, in seconds since boot: with the pid this names it, however the clock is set."""
    return round(process.create_time() - psutil.boot_time(), 2)


def find(pid: int | None, start: float | None) -> psutil.Process | None:
    """Return this very process, not a later one with its pid, if it still runs."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid) if pid and start else None
        if process and start_s(process) == start and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def _every(*attributes: str) -> Iterator[psutil.Process]:
    # psutil's cache keeps the program that a process had before `exec`, and leaves out one whose pid is used again.
    psutil.process_iter.cache_clear()
    yield from psutil.process_iter(attributes)


def descendants(roots: Iterable[int | None]) -> set[psutil.Process]:
    """Return the roots that run and everything below them that runs: one look at all processes, however many roots."""
    every = {process.pid: process for process in _every("ppid", "status")}
    children: dict[int, list[int]] = {}
    for process in every.values():
        children.setdefault(process.info["ppid"], []).append(process.pid)
    tree: set[int] = set()
    todo = [pid for pid in roots if pid and pid in every]
    while todo:
        pid = todo.pop()
        if pid not in tree:
            tree.add(pid)
            todo.extend(children.get(pid, ()))
    return {every[pid] for pid in tree if every[pid].info["status"] != psutil.STATUS_ZOMBIE}


def marked(name: str, value: str) -> Iterator[psutil.Process]:
    """Return the processes whose environment has this variable. Another user's cannot be read: they are not ours."""
    return (process for process in _every("environ") if (process.info["environ"] or {}).get(name) == value)


def inside(folders: Iterable[Path], programs: Iterable[str]) -> Iterator[psutil.Process]:
    """Return the processes of these programs that work in these folders.

    For those that carry no marker: the edge is started with an empty environment, PostgreSQL writes over its own.
    """
    where, which = {str(folder) for folder in folders}, set(programs)
    for process in _every("exe", "cwd"):
        if process.info["cwd"] in where and os.path.basename(process.info["exe"] or "") in which:
            yield process


def rss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the resident memory of several processes. Pages that they share are counted once for each."""
    return _total(processes, lambda process: process.memory_info().rss)


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the memory of several processes with shared pages counted once: what ending them would free."""
    return _total(processes, lambda process: process.memory_full_info().pss)


def _total(processes: Iterable[psutil.Process], bytes_of: Callable[[psutil.Process], int]) -> int:
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            total += bytes_of(process)
    return total


def signal_all(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to those that still exist."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def end_all(remaining: Callable[[], set[psutil.Process]], *, grace_s: float) -> set[int]:
    """End what ``remaining`` returns, asked anew until it returns nothing: SIGTERM once, then SIGKILL.

    :returns: the pids that even SIGKILL did not end in time
    """
    signal_all(remaining(), signal.SIGTERM)
    started = time.monotonic()
    while left := remaining():
        waited = time.monotonic() - started
        if waited > grace_s + _KILL_TIMEOUT_S:
            return {process.pid for process in left}
        if waited > grace_s:
            signal_all(left, signal.SIGKILL)
        time.sleep(0.05)
    return set()


def adopt_orphans() -> None:
    """Become the parent of every orphan below us: HAProxy, forked children, daemons. They would go to init."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def boot_id() -> str:
    """Return what names this boot: start times are counted from it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
