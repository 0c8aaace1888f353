"""The supervisor with services of a few lines: order, failure, orphans, and a supervisor that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from operators.core import processes
from operators.stack import environment, state, supervisor
from operators.stack.config import Stack
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
# Says that it is ready by a file, and starts a daemon that leaves its family: a new session, its parent gone.
SERVICE = """
    import os, pathlib, signal, subprocess, sys, time
    here = pathlib.Path(sys.argv[1])
    if sys.argv[2:] == ["ignores"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        here.with_suffix(".daemon").write_text(str(os.getpid()))
        time.sleep(600)
    while not here.with_suffix(".daemon").exists():
        time.sleep(0.01)
    print("ready", flush=True)
    here.touch()
    time.sleep(600)
"""
HEAD = """
    import sys, pathlib
    from operators.stack import supervisor
    from operators.stack.service import Service
    run, log = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    env = dict(__import__("os").environ)
    def python(name, *rest):
        return (sys.executable, str(run / "service.py"), str(run / name), *rest)
    def daemon(name, *rest, **more):
        return Service(name, python(name, *rest), env, ready=(run / name).exists, **more)
    def step(name, code, **more):
        return Service(name, (sys.executable, "-c", code), env, step=True, **more)
"""
TAIL = """
    sys.exit(supervisor.supervise({s.name: s for s in services}, run_dir=run, log_dir=log, **more))
"""


class Fixture:
    """A supervisor in a process of its own, as `up` starts it."""

    def __init__(self, home: Path) -> None:
        self.stack = Stack.load({"TAXIWAY_HOME": str(home)})
        self.stack.make_folders()
        self.files = supervisor.Files(self.stack.run_dir)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, services: str, **more: float) -> None:
        run = self.stack.run_dir
        (run / "service.py").write_text(textwrap.dedent(SERVICE))
        program = textwrap.dedent(HEAD) + f"services, more = {services}, {more}\n" + textwrap.dedent(TAIL)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(run), str(self.stack.log_dir)],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                environment.MARKER: self.stack.secrets.stack_id,
            },
            start_new_session=True,
        )

    def wait(self, wanted: Callable[[state.StackState], bool]) -> state.StackState:
        def reached() -> state.StackState | None:
            found = state.read(self.files.state)
            return found if found is not None and wanted(found) else None

        found: state.StackState = until(reached)
        return found

    def until_ready(self) -> state.StackState:
        return self.wait(lambda found: found.state == state.READY)

    def daemon(self, name: str) -> psutil.Process | None:
        pid = int((self.stack.run_dir / f"{name}.daemon").read_text())
        return next((process for process in processes.descendants([pid]) if process.pid == pid), None)


@pytest.fixture
def fixture(tmp_path: Path) -> Iterator[Fixture]:
    made = Fixture(tmp_path)
    yield made
    supervisor.down(made.stack)
    if made.process is not None:
        made.process.wait(10)
    for folder in (made.stack.ray_dir, made.stack.serve_dir, made.stack.tmp_dir, made.stack.short_dir):
        folder.rmdir()


def test_starts_in_order_adopts_daemons_and_leaves_nothing(fixture: Fixture) -> None:
    fixture.start(
        '[daemon("last", needs=("between",)), step("between", f"assert open({str(run / \'first\')!r})",'
        ' needs=("first",)), daemon("first")]'
    )
    found = fixture.until_ready()
    after = {name: service.ready_after_s or 0 for name, service in found.services.items()}
    assert after["first"] <= after["between"] <= after["last"]
    orphan = fixture.daemon("first")
    assert orphan is not None
    assert orphan.ppid() == found.supervisor
    assert supervisor.is_up(fixture.stack)
    supervisor.down(fixture.stack)
    assert not supervisor.is_up(fixture.stack)
    assert not supervisor.leftovers(fixture.stack)
    assert fixture.daemon("first") is None


def test_a_service_that_fails_stops_everything_and_shows_its_log(fixture: Fixture) -> None:
    fixture.start('[daemon("first"), step("broken", "print(6 * 7); raise SystemExit(5)", needs=("first",))]')
    found = fixture.wait(lambda found: found.state == state.FAILED)
    assert found.failed == ["broken"]
    assert found.services["broken"].note == "ended with exit code 5"
    assert supervisor.tail(fixture.stack.log_dir / "broken.log") == "42"
    assert fixture.process is not None
    assert fixture.process.wait(10) == 1
    assert not supervisor.leftovers(fixture.stack)


def test_a_service_that_is_never_ready_is_given_up(fixture: Fixture) -> None:
    fixture.start('[Service("slow", python("other"), env, ready=lambda: False, timeout_s=0.3)]')
    found = fixture.wait(lambda found: found.state == state.FAILED)
    assert found.services["slow"].note.startswith("not ready after")


def test_what_does_not_stop_is_killed(fixture: Fixture) -> None:
    fixture.start('[daemon("deaf", "ignores", grace_s=0.2)]')
    fixture.until_ready()
    supervisor.down(fixture.stack)
    assert not supervisor.leftovers(fixture.stack)


def test_a_service_that_dies_is_shown_or_started_again_and_counted(fixture: Fixture) -> None:
    fixture.start('[daemon("mortal"), daemon("lasting", restarts=1)]')
    found = fixture.until_ready()
    for name in ("mortal", "lasting"):
        pid = found.services[name].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    again = fixture.wait(lambda found: bool(found.failed) and found.services["lasting"].restarts == 1)
    assert again.failed == ["mortal"]
    assert again.services["mortal"].note == "was ended by signal 9"
    assert not supervisor.is_up(fixture.stack)
    fixture.wait(lambda found: found.services["lasting"].state == state.READY)


def test_a_service_that_has_run_for_a_while_may_die_again(fixture: Fixture) -> None:
    fixture.start('[daemon("lasting", restarts=1)]', steady_s=0.3)
    pid = fixture.until_ready().services["lasting"].pid
    for died in (1, 2):
        time.sleep(0.4)  # longer than `steady_s`
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        again = fixture.wait(
            lambda found, died=died: (
                (found.services["lasting"].restarts, found.services["lasting"].state) == (died, state.READY)
            )
        )
        pid = again.services["lasting"].pid
    assert again.failed == []


def test_a_start_that_fails_once_may_be_tried_again(fixture: Fixture) -> None:
    fixture.start(
        '[Service("shy", (sys.executable, "-c", f"import os; os.mkdir({str(run / chr(120))!r}) or exit(1)"), env,'
        ' step=True, start_retries=1), daemon("first")]'
    )
    found = fixture.wait(lambda found: found.services["shy"].restarts == 1)
    assert found.services["shy"].note == "ended with exit code 1; it was started again"


def test_down_finds_what_a_killed_supervisor_left(fixture: Fixture) -> None:
    fixture.start('[daemon("first")]')
    found = fixture.until_ready()
    os.kill(found.supervisor, signal.SIGKILL)
    assert fixture.process is not None
    fixture.process.wait(10)
    assert len(supervisor.leftovers(fixture.stack)) == 2
    fixture.files.processes.unlink(missing_ok=True)  # the marker alone is proof
    supervisor.down(fixture.stack)
    assert fixture.daemon("first") is None


def test_processes_of_others_are_never_taken_for_ours(fixture: Fixture) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=dict(os.environ))
    try:
        # Its number was ours once, with another start time.
        fixture.files.processes.write_text(json.dumps({"boot": processes.boot_id(), "processes": [[other.pid, 1]]}))
        assert supervisor.leftovers(fixture.stack) == set()
    finally:
        other.kill()
        other.wait(10)


def test_a_second_supervisor_is_refused(fixture: Fixture) -> None:
    fixture.start('[daemon("first")]')
    fixture.until_ready()
    first, fixture.process = fixture.process, None
    fixture.start('[daemon("first")]')
    assert fixture.process is not None
    assert fixture.process.wait(20) == 1
    fixture.process = first
