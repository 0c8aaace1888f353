"""A Ray cluster on one machine: started for a DAG, and ended with all its processes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from operators.compute.address import RayAddress
from operators.compute.client import RayJobs
from operators.core import processes
from operators.core.errors import ConfigurationError, ServiceError, ServiceRefusedError
from operators.core.extras import require

START_TIMEOUT_S = 120.0
_GRACE_S = 5.0
_MARKER = "TAXIWAY_LOCAL_RAY"  # every process of a cluster carries it, and no other does
_PORTS = (
    "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port",
    "metrics-export-port", "node-manager-port", "object-manager-port",
)  # fmt: skip


@dataclass(frozen=True)
class LocalCluster:
    """Where a local cluster is. Nothing here is secret.

    :param address: the dashboard's address
    :param token_path: file with the token, readable by this user alone
    """

    address: str
    token_path: str


def start(
    folder: Path,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    object_store_bytes: int = 200 * 1024 * 1024,
    env: Mapping[str, str] | None = None,
    timeout_s: float = START_TIMEOUT_S,
) -> LocalCluster:
    """Start a cluster on the loopback interface, or find the one that an earlier call started in this folder.

    :param folder: folder of the cluster alone; `stop` deletes it. Its path must be short: Ray puts sockets below it, and the
        path of a socket has at most 107 bytes
    :param num_cpus: CPU cores that it offers; None: all of the machine
    :param num_gpus: GPUs that it offers; None: all of the machine
    :param object_store_bytes: memory of its object store
    :param env: more environment variables of its processes
    :raises ConfigurationError: Ray is not installed
    :raises ServiceError: the cluster did not start in time; the message has the end of its log
    """
    require("ray", "ray", purpose="a local Ray cluster")
    kept = _kept(folder)
    if kept is not None and _answers(kept):
        return kept
    stop(folder, keep_folder=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    token_path = folder / "token"
    token_path.touch(mode=0o600)
    token_path.write_text(secrets.token_urlsafe(32))
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    cluster = LocalCluster(f"http://127.0.0.1:{ports['dashboard-port']}", str(token_path))
    options = ["--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    options += ["--min-worker-port=0", "--max-worker-port=0", *(f"--{name}={port}" for name, port in ports.items())]
    options += [f"--object-store-memory={object_store_bytes}", f"--temp-dir={folder / 'ray'}"]
    options += [
        f"--{name}={value:g}" for name, value in (("num-cpus", num_cpus), ("num-gpus", num_gpus)) if value is not None
    ]
    (folder / "tmp").mkdir(exist_ok=True)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options],
            env=_environment(folder, token_path, env or {}),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / "cluster.json").write_text(json.dumps({"address": cluster.address, "token_path": cluster.token_path}))
    deadline = time.monotonic() + timeout_s
    while not _answers(cluster):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = (folder / "log").read_text(errors="replace")[-2000:]
            stop(folder, keep_folder=True)
            raise ServiceError(f"the local Ray cluster in {folder} did not start in {timeout_s:.0f} s:\n{tail}")
        time.sleep(0.25)
    return cluster


def stop(folder: Path, *, keep_folder: bool = False) -> None:
    """End every process of the cluster in this folder. If there is no cluster, nothing happens.

    :raises ServiceError: a process does not end
    """
    me = psutil.Process()
    left = processes.end_all(lambda: set(processes.marked(_MARKER, str(folder))) - {me}, grace_s=_GRACE_S)
    if left:
        raise ServiceError(
            f"these processes of the Ray cluster in {folder} do not end, even by SIGKILL: {sorted(left)}"
        )
    if not keep_folder:
        shutil.rmtree(folder, ignore_errors=True)


def _kept(folder: Path) -> LocalCluster | None:
    try:
        return LocalCluster(**json.loads((folder / "cluster.json").read_text()))
    except (FileNotFoundError, ValueError):
        return None


def _answers(cluster: LocalCluster) -> bool:
    """Say whether the cluster takes jobs. For some seconds after the start its job API does not."""
    try:
        token = Path(cluster.token_path).read_text()
        RayJobs(RayAddress(cluster.address, token)).get("none")
    except (OSError, ServiceError, ServiceRefusedError):
        return False
    return True


def _environment(folder: Path, token_path: Path, more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        # Temporary files of a worker that is killed are deleted with the cluster.
        "TMPDIR": str(folder / "tmp"),
        **more,
        _MARKER: str(folder),
        # Jobs run the same Python as this process.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        # Otherwise Ray replaces 127.0.0.1 by the address of the network card and listens on every interface.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # setproctitle would write over the environment that /proc shows, and with it over the marker.
        "SPT_NOENV": "1",
    }


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def folder_for(name: str) -> Path:
    """Return the folder of a cluster of this name.

    :raises ConfigurationError: Linux is needed
    """
    if not sys.platform.startswith("linux"):
        raise ConfigurationError("a local Ray cluster needs Linux: its processes are found in /proc")
    return Path("/tmp") / f"tw-ray-{os.getuid()}-{name}"  # noqa: S108 - short, as Ray needs it, and closed to others
