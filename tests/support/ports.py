"""Ports for the servers of tests, several of which run at the same time in several processes."""

from __future__ import annotations

import secrets
import socket

# Below what a system gives to outgoing connections (from 32768), so that no client takes the port before its server does.
# And below 30000, from where the replicas of a stack that `taxiway up` starts have theirs.
_FIRST, _LAST = 20_000, 30_000
_given: set[int] = set()


def free_port() -> int:
    """Return a port of the loopback interface that is free, and that this process has not got before."""
    while True:
        # Not from `random`: Hypothesis seeds that, and two processes would choose the same ports.
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        with socket.socket() as probe:
            if port not in _given and probe.connect_ex(("127.0.0.1", port)) != 0 and _can_bind(port):
                _given.add(port)
                return port


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
