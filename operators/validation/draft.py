"""Draft a suite from a reference: data that is known to be good, with some room around its values. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from math import ceil, floor, isfinite
from typing import Any

import yaml

from operators.core.frozen import Frozen
from operators.validation.policy import Expectation, Severity
from operators.validation.sql_or_pandas import Kind

FEW_VALUES = 20
# Shapes of texts; the first that fits all values is proposed. They have no quotes, because they are written into SQL as they are.
SHAPES = (
    "^[0-9]+$",
    "^[A-Z]+$",
    "^[0-9A-Z]+$",
    "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "^[^@ ]+@[^@ ]+[.][a-z]+$",
)
_ROWS_PER_VALUE = 10
_ENOUGH_ROWS = 100
_VALUES = "expect_column_values_to_"


class Column(Frozen):
    """Measured facts of a column.

    ``low`` and ``high`` are the bounds of its numbers, or of the lengths of its texts.
    """

    name: str
    kind: Kind
    whole: bool = False
    nulls: int
    distinct: int | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    deviation: float | None = None
    values: tuple[str, ...] = ()
    shape: str = ""


class Table(Frozen):
    """Measured facts of a table."""

    rows: int
    hours: float | None = None
    columns: tuple[Column, ...]


def sketch(table: Table, *, margin_pct: float) -> tuple[Expectation, ...]:
    """Return the expectations that a reference suggests. The reference itself meets them.

    That a column has no missing and no double values is critical. Ranges, sets and shapes are warnings.

    :param margin_pct: room around the measured range, in percent of the range
    """
    margin = margin_pct / 100
    known = Expectation(
        type="expect_table_columns_to_match_set",
        kwargs={"column_set": [column.name for column in table.columns]},
        severity="warning",
        notes="the columns are the known ones",
    )
    expectations = [known, _row_count(table)]
    for column in table.columns:
        expectations += [*_presence(column, table.rows, margin), *_content(column, table.rows, margin)]
    return tuple(expectations)


def _row_count(table: Table) -> Expectation:
    if table.hours is None:
        bounds: dict[str, Any] = {"min_value": table.rows // 2, "max_value": table.rows * 2}
        notes = f"half to double the {table.rows:,} rows of the reference"
    else:
        hourly = table.rows / table.hours
        low, high = rounded(hourly / 2, up=False), rounded(hourly * 2, up=True)
        bounds = {
            "min_value": {"$PARAMETER": f"window_hours * {low}"},
            "max_value": {"$PARAMETER": f"window_hours * {high}"},
        }
        notes = f"half to double the {hourly:,.4g} rows an hour of the reference"
    return Expectation(type="expect_table_row_count_to_be_between", kwargs=bounds, notes=notes)


def _presence(column: Column, rows: int, margin: float) -> Iterator[Expectation]:
    share = column.nulls / rows
    if not column.nulls:
        yield _expect(column, f"{_VALUES}not_be_null", f"{column.name} is always known", severity="critical")
    elif (mostly := floor(100 * (1 - share * (1 + margin) - 0.01)) / 100) > 0:
        notes = f"{column.name} is known in {mostly:.0%} of the rows; it was in {1 - share:.1%}"
        yield _expect(column, f"{_VALUES}not_be_null", notes, mostly=mostly)
    if _is_key(column, rows):
        notes = f"no two rows have the same {column.name}"
        yield _expect(column, f"{_VALUES}be_unique", notes, severity="critical")


def _expect(column: Column, type_name: str, notes: str, severity: Severity = "warning", **kwargs: Any) -> Expectation:
    return Expectation(type=type_name, kwargs={"column": column.name, **kwargs}, severity=severity, notes=notes)


def _is_key(column: Column, rows: int) -> bool:
    return column.distinct == rows >= _ENOUGH_ROWS and (column.kind == "text" or column.whole)


def _content(column: Column, rows: int, margin: float) -> Iterator[Expectation]:
    if column.low is None or column.high is None:
        return
    if column.kind == "number" and _is_key(column, rows):
        return  # other rows have other numbers
    if column.kind == "number":
        yield from _numbers(column, column.low, column.high, margin)
    elif column.values and rows >= _ROWS_PER_VALUE * len(column.values):
        notes = f"{column.name} is one of the {len(column.values)} known values"
        yield _expect(column, f"{_VALUES}be_in_set", notes, value_set=list(column.values))
    else:
        yield from _texts(column, int(column.low), int(column.high), margin)


def _numbers(column: Column, low: float, high: float, margin: float) -> Iterator[Expectation]:
    if not (isfinite(low) and isfinite(high)):
        return
    room = (high - low) * margin
    bottom, top = rounded(low - room, up=False), rounded(high + room, up=True)
    if column.whole:
        bottom, top = floor(bottom), ceil(top)
    if low >= 0:
        bottom = max(bottom, 0)
    notes = f"{column.name} is {bottom:,} to {top:,}; it was {low:,.6g} to {high:,.6g}"
    yield _expect(column, f"{_VALUES}be_between", notes, min_value=bottom, max_value=top)
    if column.mean is None or not column.deviation:
        return
    bottom, top = (rounded(column.mean + sign * column.deviation / 2, up=sign > 0) for sign in (-1, 1))
    notes = f"the mean of {column.name} was {column.mean:,.4g}; half a standard deviation to either side"
    yield _expect(column, "expect_column_mean_to_be_between", notes, min_value=bottom, max_value=top)


def _texts(column: Column, low: int, high: int, margin: float) -> Iterator[Expectation]:
    if column.shape:
        shape = (
            column.shape.replace("+$", f"{{{low}}}$") if low == high and column.shape.count("+") == 1 else column.shape
        )
        yield _expect(column, f"{_VALUES}match_regex", f"{column.name} looks like {shape}", regex=shape)
        if shape != column.shape:
            return
    room = ceil((high - low) * margin)
    bottom, top = max(low - room, 0), high + room
    notes = f"{column.name} has {bottom:,} to {top:,} characters"
    yield _expect(column, "expect_column_value_lengths_to_be_between", notes, min_value=bottom, max_value=top)


def rounded(value: float, *, up: bool) -> float | int:
    """Round to three significant digits, away from the measured values."""
    digits = Context(prec=3, rounding=ROUND_CEILING if up else ROUND_FLOOR).create_decimal(Decimal(value))
    return int(digits) if digits == digits.to_integral_value() else float(digits)


def suite_text(name: str, expectations: Sequence[Expectation], table: Table, *, source: str) -> str:
    """Write a suite as YAML."""
    lines = [
        f"# Drafted from {table.rows:,} rows of {source}. Read every line: it says how this data was, not how data must be.",
        "# `critical` stops the run, `warning` is only listed. `mostly` is the share of rows that must meet it.",
        "# To set bad rows aside, give the suite a limit: `quarantine: {max_rows_pct: 1}`.",
        f"{_flow(name)}:",
        "  expectations:",
    ]
    for expectation in expectations:
        lines += [f"    - type: {expectation.type}", f"      kwargs: {_flow(expectation.kwargs)}"]
        if expectation.severity != "critical":
            lines.append(f"      severity: {expectation.severity}")
        lines.append(f"      meta: {_flow({'notes': expectation.notes})}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return text.strip().removesuffix("...").strip()
