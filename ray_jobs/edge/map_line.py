"""Routes as HAProxy has them: one line of a map for each model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from operators.core.errors import ConfigurationError
from ray_jobs.edge.route import Route, Unit

_NONE = "none"


@dataclass(frozen=True)
class LiveRoute:
    """A route that has been set.

    :param lease_expires_at: unix seconds; None: nothing in it expires
    :param generation: another one for each route that is set; the breaker's failures belong to it
    """

    route: Route
    lease_expires_at: float | None
    generation: int

    def weight_bp(self, now: float) -> int:
        """Return the weight that is in force: 0 after the lease has ended.

        :param now: unix seconds
        """
        ended = self.lease_expires_at is not None and self.lease_expires_at <= now
        return 0 if ended else self.route.weight_bp

    def renewed(self, expires_at: float) -> LiveRoute:
        """Return the same with another end of the lease."""
        return replace(self, lease_expires_at=expires_at)

    def line(self) -> str:
        """Return ``model value``. haproxy.cfg numbers the value's fields."""
        route = self.route
        unit = "-" if route.unit is None else f"h={route.unit.header}" if route.unit.header else f"f={route.unit.field}"
        fields = (
            route.stable or _NONE,
            route.canary or _NONE,
            route.weight_bp,
            0 if self.lease_expires_at is None else round(self.lease_expires_at * 1000),
            int(route.from_top),
            route.holdout_bp,
            route.shadow or _NONE,
            route.shadow_bp,
            route.shadow_max_in_flight,
            unit,
            int(route.testers),
            route.slow_us or 0,
            route.canary_timeout_ms,
            route.max_in_flight,
            self.generation,
            "-" if route.holder is None else "=" + quote(route.holder, safe=""),
            "-" if route.lease_s is None else repr(route.lease_s),
        )
        return f"{route.model} {':'.join(map(str, fields))}"

    @classmethod
    def parse(cls, line: str) -> LiveRoute:
        """Read what :meth:`line` writes.

        :raises ConfigurationError: if it is something else
        """
        try:
            model, value = line.split()
            part = value.split(":")
            kind, name = part[9][:2], part[9][2:]
            route = Route(
                model,
                stable=_version(part[0]),
                canary=_version(part[1]),
                weight_bp=int(part[2]),
                from_top=part[4] == "1",
                holdout_bp=int(part[5]),
                shadow=_version(part[6]),
                shadow_bp=int(part[7]),
                shadow_max_in_flight=int(part[8]),
                unit=None if not name else Unit(header=name) if kind == "h=" else Unit(field=name),
                testers=part[10] == "1",
                slow_us=int(part[11]) or None,
                canary_timeout_ms=int(part[12]),
                max_in_flight=int(part[13]),
                holder=None if part[15] == "-" else unquote(part[15][1:]),
                lease_s=None if part[16] == "-" else float(part[16]),
            )
            return cls(route, int(part[3]) / 1000 or None, int(part[14]))
        except (ValueError, IndexError) as error:
            raise ConfigurationError(f"{line!r} is not a route") from error


def _version(text: str) -> str | None:
    return None if text == _NONE else text
