"""The settings of one edge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from operators.core.errors import ConfigurationError

_TEMPLATE = Path(__file__).with_name("haproxy.cfg")
_ADDRESS = re.compile(r"(\*|[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
# The buffer holds the body, the HTTP headers, and the space that HAProxy reserves for rewriting them.
_HEADER_BYTES = 16_384
_LIMITS = (
    ("fallback_body_bytes", 16_384, 16_777_216),
    ("max_body_bytes", 16_384, 2**31),
    ("units", 1_000, 50_000_000),
    ("breaker_failures", 1, 1_000_000),
    ("breaker_s", 1, 86_400),
    ("requests_per_s", 1, 1_000_000),
)


@dataclass(frozen=True)
class EdgeConfig:
    """The settings of one edge.

    :param bind: address that callers use, ``host:port``
    :param upstream: address of Ray Serve's proxy, where a version answers below ``/<model>/<version>``
    :param state_dir: folder for the routes, the runtime socket and the pid file; one edge owns it
    :param stable_timeout_s: a stable version that is slower costs the caller a 504
    :param fallback_body_bytes: a request with a larger body never goes to a canary, as it could not be sent again
    :param max_body_bytes: a request with a larger body is refused with 413
    :param units: how many units are told apart at one time; a unit takes 0.2 KB
    :param breaker_failures: this many failures of a canary in a row open its breaker: stable answers at once
    :param breaker_s: how long a breaker stays open; then one request tries the canary again
    :param certificate: PEM file with a certificate and its key; callers then use TLS
    :param tokens: file with a line ``<SHA-256 of the token, hex> <caller's name>`` for each caller; others get 401
    :param requests_per_s: of one caller, or of one address where there are no tokens; requests beyond it get 429
    :param template: HAProxy's config; edge.lua lies beside it
    :raises ConfigurationError: if a value is not valid
    """

    bind: str
    upstream: str
    state_dir: Path
    stable_timeout_s: float = 30.0
    fallback_body_bytes: int = 32_768
    max_body_bytes: int = 16_777_216
    units: int = 500_000
    breaker_failures: int = 10
    breaker_s: int = 5
    certificate: Path | None = None
    tokens: Path | None = None
    requests_per_s: int | None = None
    template: Path = _TEMPLATE

    def __post_init__(self) -> None:
        for name in ("bind", "upstream"):
            if not _ADDRESS.fullmatch(getattr(self, name)):
                raise ConfigurationError(f"edge: {name} must be host:port, not {getattr(self, name)!r}")
        if self.stable_timeout_s < 0.001:
            raise ConfigurationError("edge: stable_timeout_s must be at least 0.001")
        for name, least, most in _LIMITS:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not least <= value <= most):
                raise ConfigurationError(f"edge: {name} {value!r} is not an integer from {least} to {most}")
        if self.fallback_body_bytes > self.max_body_bytes:
            raise ConfigurationError("edge: fallback_body_bytes is greater than max_body_bytes")
        for name in ("certificate", "tokens"):
            path = getattr(self, name)
            if path is not None and not (path.is_absolute() and path.is_file()):
                raise ConfigurationError(f"edge: {name}: there is no file {path}; give a whole path")

    def environment(self) -> dict[str, str]:
        """Return the variables that the template expands, without the edge's id."""
        values: dict[str, object] = {
            "BIND": self.bind,
            "UPSTREAM": self.upstream,
            "STABLE_TIMEOUT_MS": round(self.stable_timeout_s * 1000),
            "BODY_BYTES": self.fallback_body_bytes,
            "BUFFER_BYTES": self.fallback_body_bytes + _HEADER_BYTES,
            "MAX_BODY_BYTES": self.max_body_bytes,
            "UNITS": self.units,
            "BREAKER_FAILURES": self.breaker_failures,
            "BREAKER_S": self.breaker_s,
            "CERTIFICATE": self.certificate,
            "TOKENS": None if self.tokens is None else "yes",
            "RATE": self.requests_per_s,
        }
        return {f"TAXIWAY_EDGE_{name}": str(value) for name, value in values.items() if value is not None}
