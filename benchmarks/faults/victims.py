"""Who is killed, where its process is, and when it is back."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import httpx
import psutil

from operators.core import processes
from operators.stack import state, supervisor
from operators.stack.config import Stack
from ray_jobs.edge.process import recorded_pid

VICTIMS = ("scheduler", "triggerer", "worker", "agent", "keeper", "haproxy", "serve_controller")
_TASK = re.compile(r"airflow worker -- [0-9a-f]{8}-")
_BACK_WITHIN_S = 120.0
_TASK_WITHIN_S = 20.0


@dataclass
class Kill:
    """One kill.

    :param at: unix seconds
    :param back_s: until the component worked again; None: nobody has to come back
    """

    victim: str
    pid: int
    at: float
    back_s: float | None


class Killer:
    """Kills parts of a stack that runs."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def kill(self, victim: str) -> Kill | None:
        """SIGKILL a component; return once it works again. None: there was nothing to kill."""
        pid = self._find(victim)
        if pid is None:
            return None
        at = time.time()
        os.kill(pid, signal.SIGKILL)
        if victim == "worker":
            return Kill(victim, pid, at, None)
        back = self._check(victim, pid)
        end = at + _BACK_WITHIN_S
        while not back() and time.time() < end:
            time.sleep(0.005 if victim == "haproxy" else 0.05)
        return Kill(victim, pid, at, round(time.time() - at, 3))

    def _find(self, victim: str) -> int | None:
        if victim in ("scheduler", "triggerer"):
            return self._service(f"airflow-{victim}").pid
        if victim == "haproxy":
            return recorded_pid(self._stack.home / "edge")
        if victim == "worker":
            return self._task()
        return self._titled(
            {"agent": "AgentActor", "keeper": "KeeperActor", "serve_controller": "ServeController"}[victim]
        )

    def _check(self, victim: str, pid: int) -> Callable[[], bool]:
        if victim in ("scheduler", "triggerer"):
            return lambda: self._runs_again(f"airflow-{victim}", pid)
        if victim == "haproxy":
            return lambda: _answers(f"{self._stack.url('edge')}/v2/health/ready")
        if victim == "agent":
            return lambda: _answers(f"{self._stack.url('agent')}/v1/health/live")
        return lambda: self._find(victim) not in (None, pid)

    def _service(self, name: str) -> state.ServiceState:
        found = state.read(supervisor.Files(self._stack.run_dir).state)
        assert found is not None
        return found.services[name]

    def _runs_again(self, name: str, pid: int) -> bool:
        now = self._service(name)
        return now.state == state.READY and now.pid not in (None, pid)

    def _task(self) -> int | None:
        """Return a process that runs a task; wait a while for one."""
        end = time.monotonic() + _TASK_WITHIN_S
        while time.monotonic() < end:
            if found := list(self._tasks()):
                return random.choice(found)
            time.sleep(0.05)
        return None

    def _tasks(self) -> list[int]:
        """Return the processes that run a task's code; Airflow names them after the task instance."""
        below = processes.descendants([self._service("airflow-scheduler").pid])
        return [process.pid for process in below if _TASK.match(_title(process))]

    def _titled(self, name: str) -> int | None:
        found = state.read(supervisor.Files(self._stack.run_dir).state)
        assert found is not None
        below = processes.descendants([found.supervisor])
        return next((process.pid for process in below if _title(process).startswith(f"ray::{name}")), None)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=1.0).status_code == 200
    return False
