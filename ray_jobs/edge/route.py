"""Who answers for a model: the route, and its JSON for the agent's API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from operators.core.errors import ConfigurationError

MODEL = re.compile(r"[a-z][a-z0-9_]{0,62}")
VERSION = re.compile(r"[0-9]{1,9}")
ALL_BP = 10_000
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_FIELD = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*){0,5}", re.ASCII)
# Name, least and greatest value of every number.
_LIMITS = (
    ("weight_bp", 0, ALL_BP),
    ("holdout_bp", 0, ALL_BP),
    ("shadow_bp", 0, ALL_BP),
    ("shadow_max_in_flight", 1, 1024),
    ("slow_us", 1, 600_000_000),
    ("canary_timeout_ms", 10, 600_000),
    ("max_in_flight", 1, 2000),
)


@dataclass(frozen=True)
class Unit:
    """What callers are assigned by: a header of the request, or a field of its JSON body (names joined by dots).

    :raises ConfigurationError: if it is not exactly one of the two, or is no name
    """

    header: str | None = None
    field: str | None = None

    def __post_init__(self) -> None:
        if (self.header is None) == (self.field is None):
            raise ConfigurationError("unit: give either `header` or `field`")
        pattern = _FIELD if self.header is None else _HEADER
        name = self.header if self.field is None else self.field
        if not isinstance(name, str) or not pattern.fullmatch(name):
            raise ConfigurationError(f"unit: {name!r} does not match {pattern.pattern}")


@dataclass(frozen=True)
class Route:
    """Who answers for one model. A model without ``stable`` is known, and answers 503.

    The unit of a request decides its bucket, 0 to 9999. The canary has the buckets below ``weight_bp``.

    :param weight_bp: share of the units that the canary answers, in basis points (0.01 %)
    :param from_top: the canary has the highest buckets that are not held out instead of the lowest: who moved last
    :param holdout_bp: share of the units, those with the highest buckets, that never see a canary
    :param shadow: version that gets copies of requests; its answers are dropped
    :param shadow_bp: share of the units whose requests are copied
    :param shadow_max_in_flight: copies at one time; a request over it is not copied
    :param unit: None: the header ``X-Taxiway-Unit``, else ``$.parameters.unit`` of the body, else the request id
    :param testers: whether the header ``X-Taxiway-Version`` chooses among the route's versions
    :param slow_us: an answer that takes longer counts as slow; None: none does
    :param canary_timeout_ms: a canary that is slower has failed, and stable answers
    :param max_in_flight: requests of the canary at one time; stable answers what is over it
    :param lease_s: seconds without renewal after which canary and shadow get nothing more; a weight above 0 needs one
    :param holder: id of the release that moves the route
    :raises ConfigurationError: if a value is not valid; the message names it
    """

    model: str
    stable: str | None
    canary: str | None = None
    weight_bp: int = 0
    from_top: bool = False
    holdout_bp: int = 0
    shadow: str | None = None
    shadow_bp: int = 0
    shadow_max_in_flight: int = 16
    unit: Unit | None = None
    testers: bool = False
    slow_us: int | None = None
    canary_timeout_ms: int = 2000
    max_in_flight: int = 64
    lease_s: float | None = 60.0
    holder: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not MODEL.fullmatch(self.model):
            raise ConfigurationError(f"model {self.model!r} does not match {MODEL.pattern}")
        self._check_versions()
        self._check_numbers()
        for name in ("from_top", "testers"):
            if type(getattr(self, name)) is not bool:
                raise self._error(f"{name} {getattr(self, name)!r} is not true or false")
        if self.unit is not None and not isinstance(self.unit, Unit):
            raise self._error(f"unit {self.unit!r} is not a Unit")
        if self.holder is not None and not (isinstance(self.holder, str) and 0 < len(self.holder) <= 250):
            raise self._error("holder must be a text of 1 to 250 characters")
        self._check_together()

    def _error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"route of {self.model}: {problem}")

    def _check_versions(self) -> None:
        for name in ("stable", "canary", "shadow"):
            version = getattr(self, name)
            if version is not None and (not isinstance(version, str) or not VERSION.fullmatch(version)):
                raise self._error(f"{name} {version!r} does not match {VERSION.pattern}; a version is a text of digits")

    def _check_numbers(self) -> None:
        for name, least, most in _LIMITS:
            value = getattr(self, name)
            if value is None and name == "slow_us":
                continue
            if type(value) is not int or not least <= value <= most:
                raise self._error(f"{name} {value!r} is not an integer from {least} to {most}")
        lease_s = self.lease_s
        if lease_s is not None and (type(lease_s) not in (int, float) or not 0.1 <= lease_s <= 86_400):
            raise self._error(f"lease_s {lease_s!r} is not a number of seconds from 0.1 to 86400")

    def _check_together(self) -> None:
        for version, share, weight in (
            ("canary", "weight_bp", self.weight_bp),
            ("shadow", "shadow_bp", self.shadow_bp),
        ):
            if weight and getattr(self, version) is None:
                raise self._error(f"{share} {weight} without a {version}")
            if getattr(self, version) is not None and self.stable is None:
                raise self._error(f"a {version} needs a stable version beside it")
        if self.canary is not None and self.canary == self.stable:
            raise self._error(f"version {self.canary} cannot be both stable and the canary")
        if self.weight_bp and self.lease_s is None:
            raise self._error("a weight above 0 needs lease_s: nobody may be left with a canary that nobody watches")
        if self.weight_bp + self.holdout_bp > ALL_BP and self.weight_bp:
            raise self._error(f"weight_bp {self.weight_bp} and holdout_bp {self.holdout_bp} are more than {ALL_BP}")

    @property
    def needs_lease(self) -> bool:
        """Whether something ends when nobody renews the lease."""
        return self.lease_s is not None and (self.weight_bp > 0 or self.shadow_bp > 0)

    # ------------------------------------------------------------------ JSON

    def to_json(self) -> dict[str, Any]:
        """Return every key but the model's name, as ``PUT /v1/routes/{model}`` takes it."""
        body = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "model"}
        if self.unit is not None:
            body["unit"] = {"header": self.unit.header} if self.unit.header is not None else {"field": self.unit.field}
        return body

    @classmethod
    def from_json(cls, model: str, body: object) -> Route:
        """Read what :meth:`to_json` writes. Every key but ``stable`` may be missing.

        :raises ConfigurationError: if a key is unknown or missing, or a value is not valid
        """
        known = [field.name for field in fields(cls) if field.name != "model"]
        values = _known(body, known, f"route of {model}")
        if "stable" not in values:
            raise ConfigurationError(f"route of {model}: `stable` is missing; give a version, or null for none")
        if values.get("unit") is not None:
            values["unit"] = Unit(**_known(values["unit"], ["header", "field"], f"route of {model}: unit"))
        return cls(model, **values)


def _known(body: object, known: list[str], where: str) -> dict[str, Any]:
    """Return a JSON object's keys if all of them are known.

    :raises ConfigurationError: if it is no object or has another key
    """
    if not isinstance(body, Mapping):
        raise ConfigurationError(f"{where}: expected a JSON object, not {type(body).__name__}")
    for key in body:
        if key not in known:
            raise ConfigurationError(f"{where}: unknown key {key!r}; known are {', '.join(known)}")
    return dict(body)
