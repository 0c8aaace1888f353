"""The data plane alone, in a folder of its own: Ray with Serve, the agent, the edge, and PostgreSQL for the ledger.

Started as `taxiway up` starts them, by the same supervisor. As a program this is that supervisor.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from operators.core.errors import ConfigurationError, ServiceError
from operators.stack import catalog, environment, preflight, state, supervisor
from operators.stack.config import Stack

_SERVICES = ("postgres", "ray", "serving")
_READY_WITHIN_S = 180.0


# Far from where people and tests start stacks; two that start at once cannot see each other's ports. The replicas' are
# kept below those that the kernel gives out.
_OFFSETS = (5000, 5400, 6200, 6600)
_REPLICAS = {"TAXIWAY_PORT_SERVE_REPLICA_HTTP": "20500", "TAXIWAY_PORT_SERVE_REPLICA_GRPC": "21500"}


def load_free() -> Stack:
    """Return a stack at the first offset whose ports are free; the environment then says which.

    :raises ConfigurationError: there is none
    """
    os.environ.update(_REPLICAS)
    for offset in random.sample(_OFFSETS, len(_OFFSETS)):
        os.environ["TAXIWAY_PORT_OFFSET"] = str(offset)
        stack = Stack.load()
        try:
            preflight.check_ports(stack)
        except ConfigurationError:
            continue
        return stack
    raise ConfigurationError(f"the ports at none of the offsets {_OFFSETS} are free")


@contextmanager
def data_plane(folder: Path) -> Iterator[Stack]:
    """Run it; the environment then says where everything is.

    :raises ServiceError: it does not come up; the message has the end of the log
    """
    os.environ.update(TAXIWAY_HOME=str(folder / "home"), TAXIWAY_STORAGE_URL=f"file://{folder}/storage")
    (folder / "storage").mkdir(parents=True, exist_ok=True)
    stack = load_free()
    stack.make_folders()
    stack.remember()
    log = stack.log_dir / "supervisor.log"
    with log.open("w") as words:
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.plane"],
            env=environment.base(stack),
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    try:
        _wait(stack, child)
        os.environ.update(environment.services(stack))
        yield stack
    finally:
        supervisor.down(stack)
        child.wait(30)


def _wait(stack: Stack, child: subprocess.Popen[bytes]) -> None:
    path, end = supervisor.Files(stack.run_dir).state, time.monotonic() + _READY_WITHIN_S
    while (found := state.read(path)) is None or found.state != state.READY:
        if child.poll() is not None or time.monotonic() > end:
            logs = "\n".join(supervisor.tail(stack.log_dir / f"{name}.log") for name in ("supervisor", *_SERVICES))
            raise ServiceError(f"the data plane did not come up:\n{logs}")
        time.sleep(0.1)


if __name__ == "__main__":
    running = Stack.running()
    every = catalog.of(running)
    chosen = {name: every[name] for name in _SERVICES}
    sys.exit(supervisor.supervise(chosen, run_dir=running.run_dir, log_dir=running.log_dir))
