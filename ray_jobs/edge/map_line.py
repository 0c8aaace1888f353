"""Routes as HAProxy has them: one line of its map for each model. The only place that numbers the fields, with haproxy.cfg."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote

from operators.core.errors import ConfigurationError
from operators.core.traffic import Route, Unit


@dataclass(frozen=True)
class LiveRoute:
    """A route that has been set.

    :param lease_expires_at: unix seconds; None: nothing in it expires
    :param generation: changes with each route that is set; a breaker belongs to one generation
    """

    route: Route
    lease_expires_at: float | None
    generation: int

    def renewed(self, expires_at: float) -> LiveRoute:
        """Return the same route with another end of the lease."""
        return replace(self, lease_expires_at=expires_at)

    def line(self) -> str:
        """Return ``model value``."""
        values = dict(self.route) | {"lease_expires_at": self.lease_expires_at, "generation": self.generation}
        return f"{self.route.model} {':'.join(write(values[name]) for name, (write, _) in FIELDS.items())}"

    @classmethod
    def parse(cls, line: str) -> LiveRoute:
        """Read what :meth:`line` writes.

        :raises ConfigurationError: if it is something else
        """
        try:
            model, value = line.split()
            fields = zip(FIELDS.items(), value.split(":"), strict=True)
            values = {name: read(text) for (name, (_, read)), text in fields}
            expires_at, generation = values.pop("lease_expires_at"), values.pop("generation")
            return cls(Route(model=model, **values), expires_at, generation)
        except ValueError as error:
            raise ConfigurationError(f"{line!r} is not a route") from error


def _write_unit(unit: Unit | None) -> str:
    return "-" if unit is None else f"h={unit.header}" if unit.header else f"f={unit.field}"


def _read_unit(text: str) -> Unit | None:
    if text == "-":
        return None
    return Unit(header=text[2:]) if text.startswith("h=") else Unit(field=text[2:])


_Codec = tuple[Callable[[Any], str], Callable[[str], Any]]
_VERSION: _Codec = (lambda version: version or "none", lambda text: None if text == "none" else text)
_NUMBER: _Codec = (str, int)
_FLAG: _Codec = (lambda flag: str(int(flag)), lambda text: text == "1")

# The fields of a line in the order of their numbers in haproxy.cfg, which begin at 1: how each is written and read.
FIELDS: dict[str, _Codec] = {
    "stable": _VERSION,
    "canary": _VERSION,
    "weight_bp": _NUMBER,
    "lease_expires_at": (lambda at: str(round((at or 0) * 1000)), lambda text: int(text) / 1000 or None),
    "from_top": _FLAG,
    "holdout_bp": _NUMBER,
    "shadow": _VERSION,
    "shadow_bp": _NUMBER,
    "shadow_max_in_flight": _NUMBER,
    "unit": (_write_unit, _read_unit),
    "testers": _FLAG,
    "slow_us": (lambda us: str(us or 0), lambda text: int(text) or None),
    "canary_timeout_ms": _NUMBER,
    "max_in_flight": _NUMBER,
    "generation": _NUMBER,
    "holder": (
        lambda holder: "-" if holder is None else "=" + quote(holder, safe=""),
        lambda text: None if text == "-" else unquote(text[1:]),
    ),
    "lease_s": (
        lambda seconds: "-" if seconds is None else repr(seconds),
        lambda text: None if text == "-" else float(text),
    ),
}
