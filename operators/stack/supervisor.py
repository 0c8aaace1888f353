"""The background process that runs the stack, and the functions that start, find and stop it.

The supervisor has a session of its own and becomes the parent of every orphan below it, so it knows every process of the
stack. If it is killed, ``down`` finds its processes by its records and by the marker in their environment.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from operators.core import processes
from operators.core.errors import ServiceError
from operators.stack import environment, preflight, state
from operators.stack.config import Stack
from operators.stack.runner import STEADY_S, Runner
from operators.stack.service import Service

Progress = Callable[[str], None]

_DOWN_TIMEOUT_S = 30.0
_POLL_S = 0.1
_LAST_LINES = 20


class Files:
    """The files in which a supervisor keeps what others read: a lock that it holds while it lives, the state of every
    service, and every process with its start time.
    """

    def __init__(self, run_dir: Path) -> None:
        self.lock = run_dir / "supervisor.lock"
        self.state = run_dir / "state.json"
        self.processes = run_dir / "processes.json"


def _silent(_: str) -> None: ...


def is_up(stack: Stack | None = None) -> bool:
    """Say whether the stack runs and all its services are ready."""
    stack = stack or Stack.running()
    files = Files(stack.run_dir)
    current = state.read(files.state)
    return current is not None and current.state == state.READY and not current.failed and state.locked(files.lock)


def ensure_up(stack: Stack | None = None, *, progress: Progress = _silent) -> dict[str, str]:
    """Start the stack if it is not up, wait until everything is ready, and return the variables of `taxiway env`.

    :param progress: called with one line for each service that becomes ready
    :raises ConfigurationError: a check before the start failed; nothing was started
    :raises ServiceError: a service did not come up; everything was stopped again
    """
    wanted = stack or Stack.load()
    files = Files(wanted.run_dir)
    if state.locked(files.lock):
        wanted = stack or Stack.running()
        current = state.read(files.state)
        if current and current.state == state.READY and current.failed:
            progress(f"{', '.join(current.failed)} failed after the start; everything is started again")
            down(wanted, progress=progress)
            return ensure_up(stack, progress=progress)
        _follow(wanted, progress)
    else:
        _start(wanted, progress)
    return environment.services(wanted)


def _start(stack: Stack, progress: Progress) -> None:
    """Check, start the supervisor, and follow it."""
    files = Files(stack.run_dir)
    if leftovers(stack):
        progress("an earlier supervisor was killed; ending the processes that it left")
        down(stack)
    preflight.check(stack)
    stack.make_folders()
    stack.remember()
    files.state.unlink(missing_ok=True)
    log_path = stack.log_dir / "supervisor.log"
    with open(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "operators.stack.supervisor"],
            env=environment.base(stack),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    _follow(stack, progress, child)


def _follow(stack: Stack, progress: Progress, child: subprocess.Popen[bytes] | None = None) -> None:
    """Report services as they become ready, until all are or one failed."""
    files, told = Files(stack.run_dir), set[str]()
    while True:
        ended = child is not None and child.poll() is not None
        current = state.read(files.state)
        for name, service in current.services.items() if current else ():
            if service.state == state.READY and name not in told:
                told.add(name)
                extra = service.address or service.note
                progress(f"{service.ready_after_s or 0:6.1f} s  {name:<22} {extra}".rstrip())
        if current and current.state == state.READY:
            return
        if current and current.state in (state.FAILED, state.STOPPED) and (ended or not state.locked(files.lock)):
            raise ServiceError(_explain(stack, current))
        # It may have ended because another `up` was faster; then that one is followed.
        if ended and not state.locked(files.lock):
            log = stack.log_dir / "supervisor.log"
            raise ServiceError(f"the supervisor ended. Last lines of {log}:\n{tail(log)}")
        time.sleep(_POLL_S)


def _explain(stack: Stack, current: state.StackState) -> str:
    if not current.failed:
        return "the stack was stopped while it started"
    name = current.failed[0]
    log = stack.log_dir / f"{name}.log"
    return f"{name} failed: {current.services[name].note}. Everything was stopped. Last lines of {log}:\n{tail(log)}"


def tail(path: Path, lines: int = _LAST_LINES) -> str:
    """Return the last lines of a log."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    return "(no log)"


def leftovers(stack: Stack) -> set[psutil.Process]:
    """Return the processes that belong to this stack: marked, recorded, in its folders, or below one of these."""
    proven = {process.pid for process in processes.marked(environment.MARKER, stack.secrets.stack_id)}
    folders = (stack.home / "edge", stack.home / "postgres")
    proven |= {process.pid for process in processes.inside(folders, ("haproxy", "postgres"))}
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError):  # damaged: the other proofs remain
        recorded = json.loads(Files(stack.run_dir).processes.read_text())
        if recorded["boot"] == processes.boot_id():
            proven |= {pid for pid, start in recorded["processes"] if processes.find(pid, start)}
    me = psutil.Process()  # `taxiway down` may itself run below a process of the stack
    return processes.descendants(proven) - {me, *me.parents()}


def down(stack: Stack | None = None, *, progress: Progress = _silent) -> None:
    """Stop everything; return once no process of the stack is left.

    :raises ServiceError: some process could not be ended
    """
    stack = stack or Stack.running()
    files = Files(stack.run_dir)
    current = state.read(files.state)
    if (
        current
        and state.locked(files.lock)
        and (leader := processes.find(current.supervisor, current.supervisor_start))
    ):
        processes.signal_all([leader], signal.SIGTERM)
        deadline = time.monotonic() + _DOWN_TIMEOUT_S
        while processes.find(current.supervisor, current.supervisor_start) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    if not (stack.home / "secrets.json").exists():
        return
    if remaining := leftovers(stack):
        progress(f"ending {len(remaining)} processes that are left")
        if stuck := processes.end_all(lambda: leftovers(stack), grace_s=3.0):
            raise ServiceError(f"these processes do not end, even by SIGKILL: {', '.join(map(str, sorted(stuck)))}")
    files.processes.unlink(missing_ok=True)


def supervise(services: Mapping[str, Service], *, run_dir: Path, log_dir: Path, steady_s: float = STEADY_S) -> int:
    """Run services until SIGTERM. The exit code says whether they came up.

    :param steady_s: seconds after which a ready service counts as recovered, so that its restarts are counted anew
    """
    held = state.lock(Files(run_dir).lock)
    if held is None:
        raise ServiceError(f"another supervisor of this stack runs; it holds {Files(run_dir).lock}")
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    runner = Runner(services, run_dir=run_dir, log_dir=log_dir, steady_s=steady_s)
    runner.run(lambda: bool(asked))
    return 1 if runner.state.state == state.FAILED else 0


def main() -> int:
    """Supervise the stack that the environment names."""
    from operators.stack import catalog

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stack = Stack.running()
    return supervise(catalog.of(stack), run_dir=stack.run_dir, log_dir=stack.log_dir)


if __name__ == "__main__":
    raise SystemExit(main())
