"""Each thing that would make `up` fail late is said at once, in one sentence that says what to do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

from operators.cli import main
from operators.core import processes
from operators.core.errors import ConfigurationError
from operators.stack import ports, preflight
from operators.stack.config import Stack


def test_a_taken_port_is_named_with_who_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The other ports may well be taken: by a stack that runs here.
    monkeypatch.setattr(ports, "OF_SERVICE", {"mlflow": ("mlflow",)})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        stack = Stack.load({"TAXIWAY_HOME": str(tmp_path), "TAXIWAY_PORT_MLFLOW": str(port)})
        with pytest.raises(ConfigurationError, match=rf"port {port} \(mlflow\) is taken by process {os.getpid()}"):
            preflight.check_ports(stack)


def test_a_port_of_a_service_that_is_not_ours_may_be_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        environ = {"TAXIWAY_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": url, "TAXIWAY_PORT_MLFLOW": url[-5:]}
        preflight.check_external(Stack.load(environ))


def test_an_external_service_must_answer_and_its_password_is_not_shown(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environ = {"TAXIWAY_HOME": str(tmp_path), "TAXIWAY_POSTGRES_URL": f"postgresql://me:hush@127.0.0.1:{port}/"}
    with pytest.raises(ConfigurationError, match=f"TAXIWAY_POSTGRES_URL names 127.0.0.1:{port}") as caught:
        preflight.check_external(Stack.load(environ))
    assert "hush" not in str(caught.value)


def test_python_that_is_too_old_or_too_new() -> None:
    preflight.check_python((3, 11))
    for release in ((3, 10), (3, 14)):
        with pytest.raises(ConfigurationError, match=r"use 3\.11"):
            preflight.check_python(release)


def test_memory() -> None:
    preflight.check_memory(6 << 30)
    with pytest.raises(ConfigurationError, match=r"5\.0 GB of memory are available and 6 GB are needed"):
        preflight.check_memory(5 << 30)


def test_packages_other_than_the_lock_says(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"ray=={version('ray')} \\\n    --hash=sha256:0\nsomething-else==1\n")
    preflight.check_packages(lock)
    lock.write_text("ray==1.0.0 \\\n")
    with pytest.raises(ConfigurationError, match=r"ray 1\.0\.0 is needed"):
        preflight.check_packages(lock)


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight.check_disk(tmp_path / "not" / "there" / "yet")
    monkeypatch.setattr(preflight, "_DISK_BYTES", 1 << 60)
    with pytest.raises(ConfigurationError, match="free some, or set TAXIWAY_HOME"):
        preflight.check_disk(tmp_path)


def test_configuration_errors_exit_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAXIWAY_HOME", str(tmp_path))
    monkeypatch.setenv("TAXIWAY_PORT_OFFSET", "x")
    assert main.main(["up"]) == 2
    assert capsys.readouterr().err == "taxiway: TAXIWAY_PORT_OFFSET is 'x'; it must be a whole number\n"


def test_status_of_a_stack_that_is_down_exits_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAXIWAY_HOME", str(tmp_path))
    assert main.main(["status"]) == 3


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    me = psutil.Process()
    start = processes.start_s(me)
    assert processes.find(me.pid, start) == me
    assert processes.find(me.pid, start + 1) is None
    assert processes.find(None, None) is None


def test_descendants_are_the_root_and_all_below_it_that_run() -> None:
    tree = "import os, sys, time; os.fork(); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", tree], stdout=subprocess.PIPE, start_new_session=True) as root:
        assert root.stdout
        root.stdout.readline(), root.stdout.readline()
        below = processes.descendants([root.pid, None])
        assert len(below) == 2
        assert below < processes.descendants([os.getpid()])
        os.killpg(root.pid, signal.SIGKILL)
        os.waitid(os.P_PID, root.pid, os.WEXITED | os.WNOWAIT)  # a zombie
        assert processes.descendants([root.pid]) == set()
