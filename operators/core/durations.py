"""Durations as people write them in YAML: ``250ms``, ``30s``, ``10m``."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d|w)$")


def parse_duration_s(value: object) -> float:
    """Return the seconds of ``250ms``, ``30s``, ``10m``, ``6h``, ``7d`` or ``2w``.

    :raises ValueError: the unit is missing or unknown
    """
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration; write a number and a unit of {', '.join(_UNITS_S)}, e.g. 30s")
    return float(match[1]) * _UNITS_S[match[2]]


DurationS = Annotated[
    float, BeforeValidator(parse_duration_s), Field(gt=0), PlainSerializer(lambda seconds: f"{seconds!r}s")
]
