"""Processes as /proc shows them: who belongs to the stack, proven, and how to end all of them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_KILL_TIMEOUT_S = 10.0
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """One line of the process table. ``start`` (clock ticks since boot) tells a process from a later one of its number."""

    pid: int
    parent: int
    start: int
    zombie: bool


def read(pid: int) -> Process | None:
    """Return one process, or None if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, *rest = text[text.rindex(")") + 2 :].split()
    return Process(pid=pid, parent=int(parent), start=int(rest[17]), zombie=state in "ZX")


def table() -> dict[int, Process]:
    """Return all processes."""
    found = (read(int(entry)) for entry in os.listdir(_PROC) if entry.isdecimal())
    return {process.pid: process for process in found if process}


def alive(pid: int, start: int) -> bool:
    """Say whether this very process, not a later one with its number, still runs."""
    process = read(pid)
    return process is not None and process.start == start and not process.zombie


def descendants(roots: Iterable[int], processes: dict[int, Process]) -> set[int]:
    """Return the roots that exist and everything below them."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    todo = [pid for pid in roots if pid in processes]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo.extend(children.get(pid, ()))
    return found


def ancestors(pid: int, processes: dict[int, Process]) -> set[int]:
    """Return a process and everything above it."""
    found: set[int] = set()
    while pid in processes and pid not in found:
        found.add(pid)
        pid = processes[pid].parent
    return found


def marked(entry: str, processes: dict[int, Process]) -> set[int]:
    """Return the processes whose environment holds ``NAME=value``."""
    wanted = entry.encode()
    found = set()
    for pid in processes:
        with suppress(OSError):  # gone meanwhile, or another user's: then it is not ours
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def inside(folders: Iterable[Path], programs: Iterable[str], processes: Iterable[int]) -> set[int]:
    """Return the processes of these programs that work in these folders.

    For those that carry no marker: the edge is started with an empty environment, PostgreSQL writes over its own.
    """
    where, which = {str(folder) for folder in folders}, set(programs)
    found = set()
    for pid in processes:
        with suppress(OSError):
            program = os.path.basename(os.readlink(_PROC / str(pid) / "exe"))
            if program in which and os.readlink(_PROC / str(pid) / "cwd") in where:
                found.add(pid)
    return found


def rss_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of several processes. Pages that they share are counted once for each."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += int((_PROC / str(pid) / "statm").read_text().split()[1]) * page
    return total


def pss_bytes(pids: Iterable[int]) -> int:
    """Return the memory of several processes with shared pages counted once: what ending them would free."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def name(pid: int) -> str:
    """Return the command line of a process, shortened, for a message."""
    try:
        text = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "a process that ended"
    return text if len(text) <= 60 else f"{text[:60]}…"


def signal_all(pids: Iterable[int], number: int) -> None:
    """Send a signal to those that still exist."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all(find: Callable[[], set[int]], *, grace_s: float) -> set[int]:
    """End what ``find`` returns, asked anew until it returns nothing: SIGTERM once, then SIGKILL.

    :returns: those that even SIGKILL did not end in time
    """
    signal_all(find(), signal.SIGTERM)
    started = time.monotonic()
    while left := find():
        waited = time.monotonic() - started
        if waited > grace_s + _KILL_TIMEOUT_S:
            return left
        if waited > grace_s:
            signal_all(left, signal.SIGKILL)
        time.sleep(0.05)
    return set()


def holder(port: int) -> int | None:
    """Return the process that listens on a TCP port, if /proc tells."""
    inodes = set()
    for source in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / source).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for pid in table():
        with suppress(OSError):
            for descriptor in os.listdir(_PROC / str(pid) / "fd"):
                with suppress(OSError):
                    if os.readlink(_PROC / str(pid) / "fd" / descriptor) in inodes:
                        return pid
    return None


def adopt_orphans() -> None:
    """Become the parent of every orphan below us: HAProxy, forked children, daemons. They would go to init."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def boot_id() -> str:
    """Return what names this boot: start times are counted from it."""
    return (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
