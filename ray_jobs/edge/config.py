"""What one edge is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from operators.core.errors import ConfigurationError

_TEMPLATE = Path(__file__).resolve().parents[2] / "include" / "edge" / "haproxy.cfg"
_ADDRESS = re.compile(r"(\*|[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
# Beside the body, the buffer holds HTTP headers and what HAProxy reserves for rewriting them.
_HEADER_BYTES = 32_768


@dataclass(frozen=True)
class EdgeConfig:
    """What one edge is made of.

    :param bind: address that callers use, ``host:port``
    :param upstream: address of Ray Serve's proxy, where a version answers below ``/<model>/<version>``
    :param state_dir: folder for the routes, the runtime socket and the pid file; one edge owns it
    :param stable_timeout_s: a stable version that is slower costs the caller a 504
    :param fallback_body_bytes: a request with a larger body is never a canary's, as it could not be sent again
    :param template: HAProxy's config
    :raises ConfigurationError: if a value is not valid
    """

    bind: str
    upstream: str
    state_dir: Path
    stable_timeout_s: float = 30.0
    fallback_body_bytes: int = 262_144
    template: Path = _TEMPLATE

    def __post_init__(self) -> None:
        for name in ("bind", "upstream"):
            if not _ADDRESS.fullmatch(getattr(self, name)):
                raise ConfigurationError(f"edge: {name} must be host:port, not {getattr(self, name)!r}")
        if self.stable_timeout_s < 0.001:
            raise ConfigurationError("edge: a time-out must be at least 0.001 s")
        if not 16_384 <= self.fallback_body_bytes <= 16_777_216:
            raise ConfigurationError("edge: fallback_body_bytes must be between 16 KiB and 16 MiB")

    def environment(self) -> dict[str, str]:
        """Return the variables that the template expands, without the edge's id."""
        return {
            "TAXIWAY_EDGE_BIND": self.bind,
            "TAXIWAY_EDGE_UPSTREAM": self.upstream,
            "TAXIWAY_EDGE_CANARY_TIMEOUT_MS": "2000",
            "TAXIWAY_EDGE_STABLE_TIMEOUT_MS": str(round(self.stable_timeout_s * 1000)),
            "TAXIWAY_EDGE_BODY_BYTES": str(self.fallback_body_bytes),
            "TAXIWAY_EDGE_BUFFER_BYTES": str(self.fallback_body_bytes + _HEADER_BYTES),
        }
