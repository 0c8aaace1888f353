"""The unit of a guard's interval and margin, to show them as the judge's sentences do. Pure."""

from __future__ import annotations

from collections.abc import Collection

from operators.judge.wording import Unit

_SHARES = ("failures", "slow", "labels")


def unit_of(guard: str, series: Collection[str]) -> Unit:
    """Return the unit of a guard's numbers; empty: that of the number itself, e.g. of the label.

    :param guard: its name
    :param series: names of the judge's series guards, which compare with stable's values
    """
    return "points" if guard in _SHARES else "%" if guard in series else ""


def in_unit(value: float, unit: Unit) -> str:
    """Return a number as it is shown in front of its unit: shares are shown in hundredths."""
    return f"{(value * 100 if unit else value) + 0.0:.3g}"
