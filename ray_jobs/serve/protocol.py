"""Open Inference Protocol V2 over JSON: read a request into columns, write an answer. Pure: no Ray, no MLflow.

Source of the format: Open Inference Protocol, REST, https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from operators.core.spec_training import FeatureKind

NumberRange = tuple[float, float]
"""The smallest and the largest value that a type holds."""
_INTEGER_LIMITS: Mapping[str, NumberRange] = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
_KIND_LIMITS: Mapping[str, NumberRange] = {
    "number": (-sys.float_info.max, sys.float_info.max),
    "integer": _INTEGER_LIMITS["INT64"],
}
_DATATYPES: Mapping[str, frozenset[str]] = {
    "category": frozenset({"BYTES"}),
    "number": frozenset({"FP16", "FP32", "FP64", *_INTEGER_LIMITS}),
    "integer": frozenset(_INTEGER_LIMITS),
    "boolean": frozenset({"BOOL"}),
}
_PYTHON: Mapping[str, type] = {"category": str, "number": float, "integer": int, "boolean": bool}
_TYPES = {**{kind: frozenset({python}) for kind, python in _PYTHON.items()}, "number": frozenset({int, float})}
_PREFERRED = {"category": "BYTES", "number": "FP64", "integer": "INT64", "boolean": "BOOL"}


class BadRequestError(ValueError):
    """The caller's request is wrong. The message is the body of a 400."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its features as columns of one length. Not a pydantic model: that would check every value again."""

    id: str | None
    unit: str | None
    columns: dict[str, list[Any]]
    rows: int


def read_request(
    body: bytes, features: Mapping[str, FeatureKind], *, max_rows: int, limits: Mapping[str, NumberRange] | None = None
) -> Request:
    """Read and check a request.

    :param body: JSON as the caller sent it
    :param features: the model's features; a request must have all of them and no other
    :param max_rows: the most rows of a request
    :param limits: for features whose type in the model has less than 64 bits, what that type holds
    :raises BadRequestError: something is missing, unknown, of the wrong type or not finite
    """
    document = _parse(body)
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise BadRequestError("`inputs` must be a list with one tensor for each feature")
    columns: dict[str, list[Any]] = {}
    for tensor in inputs:
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str):
            raise BadRequestError("each item of `inputs` must be an object with a `name`, which is a string")
        if name in columns:
            raise BadRequestError(f"input {name!r} appears twice; give each feature once")
        if name not in features:
            raise BadRequestError(f"unknown input {name!r}; this model takes {', '.join(features)}")
        columns[name] = _values(name, tensor, features[name], (limits or {}).get(name))
    if missing := [name for name in features if name not in columns]:
        raise BadRequestError(f"missing input {', '.join(missing)}; this model takes {', '.join(features)}")
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        shown = ", ".join(f"{name} has {len(values)}" for name, values in columns.items())
        raise BadRequestError(f"inputs differ in length: {shown}; give one value for each row")
    rows = lengths.pop()
    if not 1 <= rows <= max_rows:
        raise BadRequestError(f"a request may have 1 to {max_rows} rows; this one has {rows}")
    return Request(
        id=_text(document, "id"),
        unit=unit_of(document.get("parameters") or {}),
        columns={name: columns[name] for name in features},
        rows=rows,
    )


def read_output(result: Any, rows: int) -> list[float]:
    """Return a model's answer as one finite number for each row.

    :param result: an array, a list, or a data frame of one column
    :raises ValueError: the result is something else, or a number is not finite
    """
    values = np.asarray(result)
    if values.dtype.kind not in "fiu":
        raise ValueError(f"the model returned values of type {values.dtype}; `predict` must return numbers")
    if values.shape not in ((rows,), (rows, 1)):
        raise ValueError(
            f"the model returned an array of shape {values.shape} for {rows} rows; `predict` must return one number a row"
        )
    numbers: list[float] = values.reshape(rows).astype(float).tolist()
    if not all(map(math.isfinite, numbers)):
        raise ValueError("the model returned NaN or infinity; `predict` must return finite numbers")
    return numbers


def write_answer(*, model: str, version: str, request_id: str | None, output: str, values: Sequence[float]) -> bytes:
    """Return the JSON of a successful answer: one FP64 tensor of shape [rows].

    :param values: finite, as `read_output` returns them
    """
    answer: dict[str, Any] = {
        "model_name": model,
        "model_version": version,
        "outputs": [{"name": output, "shape": [len(values)], "datatype": "FP64", "data": list(values)}],
    }
    if request_id is not None:
        answer["id"] = request_id
    return to_json(answer)


def metadata(*, model: str, version: str, features: Mapping[str, FeatureKind], output: str) -> dict[str, Any]:
    """Return the answer to ``GET /v2/models/{name}``."""
    return {
        "name": model,
        "versions": [version],
        "platform": "taxiway",
        "inputs": [{"name": n, "datatype": _PREFERRED[k.rstrip("?")], "shape": [-1]} for n, k in features.items()],
        "outputs": [{"name": output, "datatype": "FP64", "shape": [-1]}],
    }


def write_request(rows: Sequence[Mapping[str, Any]], features: Mapping[str, FeatureKind]) -> dict[str, Any]:
    """Return the request for predictions of these rows, which `read_request` reads."""
    inputs = []
    for name, kind in features.items():
        base = kind.rstrip("?")
        values = (row[name] for row in rows)
        data = [None if _is_null(value) else _PYTHON[base](value) for value in values]
        inputs.append({"name": name, "shape": [len(rows)], "datatype": _PREFERRED[base], "data": data})
    return {"inputs": inputs}


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = _load(body)
    except BadRequestError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequestError("the body must be a JSON object with `inputs`")
    if not isinstance(document.get("parameters", {}), dict):
        raise BadRequestError("`parameters` must be a JSON object")
    return document


def _load(body: bytes) -> Any:
    """Parse JSON. pydantic's parser takes a quarter of the time; the standard library's says what is wrong."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError:
        return json.loads(body, parse_constant=_not_finite)


def _not_finite(token: str) -> None:
    raise BadRequestError(f"{token} is not a finite number; JSON has only finite numbers")


def _text(holder: Mapping[str, Any], key: str) -> str | None:
    value = holder.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRequestError(f"`{key}` must be a string")
    if not _is_unicode(value):
        raise BadRequestError(f"`{key}` is not valid Unicode")
    return value


def unit_of(parameters: Mapping[str, Any]) -> str | None:
    """Return `parameters.unit`, which may be a string or an integer."""
    unit = parameters.get("unit")
    if isinstance(unit, int) and not isinstance(unit, bool):
        return str(unit)
    return _text(parameters, "unit")


def _is_unicode(value: str) -> bool:
    """Say whether UTF-8 can spell a text. JSON can also spell half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _values(name: str, tensor: Mapping[str, Any], kind: FeatureKind, limits: NumberRange | None) -> list[Any]:
    base = kind.rstrip("?")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in _DATATYPES[base]:
        raise BadRequestError(f"input {name!r} has datatype {datatype!r}; expected {_PREFERRED[base]}")
    data = tensor.get("data")
    if not isinstance(data, list):
        raise BadRequestError(f"input {name!r} needs `data`, a list of values")
    if data and all(isinstance(item, list) and len(item) == 1 for item in data):
        data = [item[0] for item in data]
    shape = tensor.get("shape")
    if shape not in ([len(data)], [len(data), 1]):
        raise BadRequestError(f"input {name!r} has shape {shape!r} but {len(data)} values; expected [{len(data)}]")
    narrow = narrowest(base, datatype, limits)
    if not _all_valid(data, base, nullable=kind.endswith("?"), limits=narrow):
        _complain(name, data, base, nullable=kind.endswith("?"), limits=narrow)
    return [None if value is None else float(value) for value in data] if base == "number" else data


@cache
def narrowest(base: str, datatype: str, limits: NumberRange | None) -> NumberRange | None:
    """Return the range of numbers that fit the feature's kind, the request's datatype and the model's type."""
    bounds = [each for each in (_KIND_LIMITS.get(base), _INTEGER_LIMITS.get(datatype), limits) if each]
    return (max(low for low, _ in bounds), min(high for _, high in bounds)) if bounds else None


def _all_valid(data: list[Any], base: str, *, nullable: bool, limits: NumberRange | None) -> bool:
    """Say whether all values are right. Nearly always they are, so this makes a few passes that run in C."""
    if nullable and None in data:
        data = [value for value in data if value is not None]
    if not _TYPES[base].issuperset(map(type, data)):
        return False
    if limits is not None:
        return not data or (limits[0] <= min(data) and max(data) <= limits[1])
    return base != "category" or _is_unicode("".join(data))


def _complain(name: str, data: list[Any], base: str, *, nullable: bool, limits: NumberRange | None) -> None:
    """Name the first value that is wrong.

    :raises BadRequestError: always
    """
    for index, value in enumerate(data):
        if _all_valid([value], base, nullable=nullable, limits=limits):
            continue
        if type(value) not in _TYPES[base]:
            raise BadRequestError(f"input {name!r}, row {index}: {_short(value)} is not a valid {base}")
        if limits is None:
            raise BadRequestError(f"input {name!r}, row {index} is not valid Unicode")
        low, high = limits
        raise BadRequestError(
            f"input {name!r}, row {index}: {_short(value)} is out of range; it must be from {low} to {high}"
        )
    raise BadRequestError(f"input {name!r} is not valid")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:39] + "…"
