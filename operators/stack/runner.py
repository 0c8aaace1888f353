"""Starts each service once those that it needs are ready, watches all, and stops all. Runs in the supervisor."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from operators.core import processes
from operators.core.errors import TaxiwayError
from operators.stack import state
from operators.stack.secret import write_private
from operators.stack.service import Service, transitive_needs

_POLL_S, _WATCH_S = 0.1, 0.5
_CHECK_EVERY_S = 0.25
_RECORD_EVERY_S = 2.0
STEADY_S = 60.0
_LOG_KEPT_BYTES = 10_000_000
_log = logging.getLogger(__name__)


@dataclass
class _Run:
    """What changes about a service while it runs."""

    service: Service
    shown: state.ServiceState
    process: subprocess.Popen[bytes] | None = None
    task: Future[bool] | None = None
    started: float = 0.0
    checked: float = 0.0
    not_before: float = 0.0
    why_not: str = ""
    launching: bool = False
    tries: int = 0  # how often it was started again since it last ran for a while
    ready_at: float = 0.0
    # The services that it needs, those that they need, and so on. A step in between has no process to wait for at the end.
    needs_all: frozenset[str] = frozenset()

    @property
    def exit_code(self) -> int | None:
        """Exit code of its process; None if the process runs, or if there is none."""
        return self.process.poll() if self.process else None

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.exit_code is None


class Runner:
    """The services of one stack. One thread decides. ``prepare`` and ``ready`` run in other threads, because they may wait.

    :param steady_s: seconds after which a ready service counts as recovered, so that its restarts are counted anew
    """

    def __init__(
        self, services: Mapping[str, Service], *, run_dir: Path, log_dir: Path, steady_s: float = STEADY_S
    ) -> None:
        needs = transitive_needs(services)
        self._runs = {
            name: _Run(service, state.ServiceState(address=service.address), needs_all=needs[name])
            for name, service in services.items()
        }
        self._run_dir, self._log_dir = run_dir, log_dir
        self._steady_s = steady_s
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(services)))
        self._began = time.monotonic()
        self._recorded: list[tuple[int, float]] = []
        self._record_due = 0.0
        self.state = state.StackState(
            supervisor=os.getpid(),
            supervisor_start=processes.start_s(psutil.Process()),
            services={name: run.shown for name, run in self._runs.items()},
        )

    def run(self, stop_asked: Callable[[], bool]) -> None:
        """Start everything, watch it until asked to stop, then stop it. If a service fails to start, everything stops."""
        processes.adopt_orphans()
        self._publish()
        try:
            while not stop_asked():
                if self._tick():
                    self._publish()
                if self.state.state == state.FAILED:
                    break
                # Watching may be slower than starting: it takes time of the same cores that the services need.
                time.sleep(_POLL_S if self.state.state == state.STARTING else _WATCH_S)
        finally:
            self.stop()

    def _tick(self) -> bool:
        changed = [self._advance(run) for run in self._runs.values()]
        self._reap()
        self._record()
        if self.state.state == state.STARTING:
            if self.state.failed:
                self.state.state = state.FAILED
            elif all(run.shown.state == state.READY for run in self._runs.values()):
                self.state.state = state.READY
            else:
                return any(changed)
            self.state.elapsed_s = round(time.monotonic() - self._began, 1)
            return True
        return any(changed)

    def _advance(self, run: _Run) -> bool:
        """Take one service one step further, and say whether its published state changed."""
        before = (run.shown.state, run.shown.pid, run.shown.restarts)
        if run.shown.state == state.PENDING:
            if time.monotonic() >= run.not_before and self._needs_ready(run):
                run.shown.state = state.STARTING
                run.started = time.monotonic()
                run.launching = True
                run.task = self._pool.submit(self._launch, run)
        elif run.shown.state == state.STARTING:
            self._watch_start(run)
        elif run.shown.state == state.READY and (code := run.exit_code) is not None:
            self._ended(run, code)
        return before != (run.shown.state, run.shown.pid, run.shown.restarts)

    def _needs_ready(self, run: _Run) -> bool:
        return all(self._runs[need].shown.state == state.READY for need in run.service.needs)

    def _launch(self, run: _Run) -> bool:
        """Start the process, in a thread. Return True if there is nothing to wait for."""
        service = run.service
        try:
            if service.skip and service.skip():
                run.shown.skipped = True
                return True
            if service.prepare:
                service.prepare()
            if service.external:
                return False
            with self._open_log(service.name) as log:
                run.process = subprocess.Popen(
                    service.command,
                    env=dict(service.env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # So that a Ctrl-C in the terminal of `up` reaches none of them.
                    start_new_session=True,
                    cwd="/",
                )
            run.shown.pid = run.process.pid
            with suppress(psutil.NoSuchProcess):
                run.shown.start = processes.start_s(psutil.Process(run.process.pid))
            return False
        finally:
            run.launching = False

    def _watch_start(self, run: _Run) -> None:
        """Follow a launch, then the checks, then the end of a step."""
        service = run.service
        if run.task is not None:
            if not run.task.done():
                self._give_up_if_late(run)
                return
            task, run.task = run.task, None
            try:
                if task.result():
                    self._became_ready(run)
                    return
            except TaxiwayError as error:
                run.why_not = str(error)
            except Exception as error:  # noqa: BLE001 - a check or a prepare must not end the supervisor
                _log.exception("%s", service.name)
                run.why_not = f"{type(error).__name__}: {error}"
        if run.process is None and not service.external:  # it could not be launched
            self._failed(run, run.why_not)
            return
        if (code := run.exit_code) == 0 and service.step:
            run.process = run.shown.pid = run.shown.start = None
            self._became_ready(run)
        elif code is not None:
            self._ended(run, code)
        elif not service.step and time.monotonic() - run.checked >= _CHECK_EVERY_S:
            run.checked = time.monotonic()
            run.task = self._pool.submit(service.ready)
        self._give_up_if_late(run)

    def _give_up_if_late(self, run: _Run) -> None:
        limit = run.service.timeout_s
        if run.shown.state == state.STARTING and time.monotonic() - run.started > limit:
            self._failed(run, f"not ready after {limit:.0f} s" + (f": {run.why_not}" if run.why_not else ""))

    def _became_ready(self, run: _Run) -> None:
        run.shown.state = state.READY
        run.ready_at = time.monotonic()
        run.shown.note = "nothing to do" if run.shown.skipped else ""
        run.shown.ready_after_s = round(time.monotonic() - self._began, 1)

    def _ended(self, run: _Run, code: int) -> None:
        """Start a process that ended by itself again if that is allowed; otherwise the service has failed."""
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"
        starting = self.state.state == state.STARTING
        if run.shown.state == state.READY and time.monotonic() - run.ready_at >= self._steady_s:
            run.tries = 0
        if run.tries < (run.service.start_retries if starting else run.service.restarts):
            if run.process is not None:
                with suppress(ProcessLookupError):  # what it left of itself would still hold the ports
                    os.killpg(run.process.pid, signal.SIGKILL)
            run.tries += 1
            run.shown.restarts += 1
            run.not_before = time.monotonic() + run.tries**2
            run.shown.state, run.shown.note, run.why_not = state.PENDING, f"{how}; it was started again", ""
            _log.warning("%s %s; starting it again (%d)", run.service.name, how, run.shown.restarts)
        else:
            self._failed(run, how)

    def _failed(self, run: _Run, why: str) -> None:
        run.shown.state, run.shown.note = state.FAILED, why
        _log.error("%s %s", run.service.name, why)

    def _open_log(self, name: str) -> IO[bytes]:
        path = self._log_dir / f"{name}.log"
        if path.exists() and path.stat().st_size > _LOG_KEPT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")

    def _reap(self) -> None:
        """Collect the processes that ended. Those that we started are left to their Popen, which needs the exit code."""
        # A thread may just have started a process that we do not know yet. If we took its exit code, it would look like success.
        if any(run.launching for run in self._runs.values()):
            return
        own = {run.process.pid: run.process for run in self._runs.values() if run.process}
        try:
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid not in own:
                    os.waitpid(ended.si_pid, os.WNOHANG)
                else:
                    own[ended.si_pid].poll()
        except ChildProcessError:  # we have no children
            return

    def _record(self) -> None:
        """Write down every process below us, for a `down` after the supervisor was killed."""
        if time.monotonic() < self._record_due:
            return
        self._record_due = time.monotonic() + _RECORD_EVERY_S
        below = sorted((process.pid, processes.start_s(process)) for process in processes.descendants([os.getpid()]))
        if below != self._recorded:
            self._recorded = below
            write_private(
                self._run_dir / "processes.json", json.dumps({"boot": processes.boot_id(), "processes": below})
            )

    def _publish(self) -> None:
        write_private(self._run_dir / "state.json", json.dumps(asdict(self.state), indent=1))

    def stop(self) -> None:
        """Stop the services in reverse order, then end every other process below us."""
        failed = self.state.state == state.FAILED
        self._stop_services()
        left = processes.end_all(self._below, grace_s=0.5)
        if left:
            _log.error("these processes did not end: %s", ", ".join(map(str, left)))
        self._pool.shutdown(wait=False, cancel_futures=True)
        for run in self._runs.values():
            if run.shown.state != state.FAILED:
                run.shown.state = state.STOPPED
        self.state.state = state.FAILED if failed else state.STOPPED
        self._publish()

    def _stop_services(self) -> None:
        """Ask each service to stop once no service that needs it runs. Kill those that do not stop in time."""
        asked: dict[str, float] = {}
        while running := {run.service.name: run for run in self._runs.values() if run.running}:
            needed = {need for run in running.values() for need in run.needs_all}
            for name, run in running.items():
                assert run.process is not None
                if name not in asked and name not in needed:
                    asked[name] = time.monotonic()
                    run.process.send_signal(run.service.stop_signal)
                elif name in asked and time.monotonic() - asked[name] > run.service.grace_s:
                    asked[name] = float("inf")
                    _log.warning("%s did not stop within %.0f s and was killed", name, run.service.grace_s)
                    processes.signal_all(processes.descendants([run.process.pid]), signal.SIGKILL)
            self._reap()
            time.sleep(_POLL_S / 2)

    def _below(self) -> set[psutil.Process]:
        self._reap()
        return processes.descendants([os.getpid()]) - {psutil.Process()}
