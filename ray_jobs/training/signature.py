"""The MLflow signature of a model: made from the spec when the model is logged, checked when it is served."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.core.errors import RejectedError
from operators.core.spec import PredictionSpec

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

_TYPES = {"category": "string", "number": "double", "integer": "long", "boolean": "boolean"}
_NARROW: Mapping[str, tuple[str, tuple[float, float]]] = {
    "number": ("float", (-3.4028234663852886e38, 3.4028234663852886e38)),
    "integer": ("integer", (-(2**31), 2**31 - 1)),
}
"""The 32-bit type that a model may have for a kind of feature, and the range that it holds."""
_COLUMNS = {
    "category": (pa.string(), "object"),
    "number": (pa.float64(), "float64"),
    "integer": (pa.int64(), "int64"),
    "boolean": (pa.bool_(), "bool"),
}


def signature_of(spec: PredictionSpec) -> ModelSignature:
    """Return the signature that every version of a model has.

    :returns: the inputs are one named column for each feature, in the spec's order, and optional if the kind ends with ``?``.
        The output is one column of doubles
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = [
        ColSpec(_TYPES[kind.rstrip("?")], name, required=not kind.endswith("?")) for name, kind in spec.features.items()
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec("double", spec.output.name)]))


def input_example(spec: PredictionSpec, table: pa.Table, rows: int = 5) -> pd.DataFrame:
    """Return a few real rows in the types of `signature_of`.

    MLflow cannot have a null in an integer or boolean column. So rows without such a null are taken. If there are none, the
    columns that have a null in the first rows are left out, which MLflow accepts because they are optional.

    :param table: has at least the features
    :param rows: the most rows of the example
    :raises ValueError: the table has no row, or a value is not of its feature's kind
    """
    import pandas as pd

    strict = [name for name, kind in spec.features.items() if kind.rstrip("?") in ("integer", "boolean")]
    known = reduce(pc.and_, (pc.is_valid(table[name]) for name in strict)) if strict else None
    full = table.select(list(spec.features)) if known is None else table.select(list(spec.features)).filter(known)
    sample = (full if full.num_rows else table).slice(0, rows)
    if not sample.num_rows:
        raise ValueError(f"an input example of {spec.name} needs at least one row, and there is no row")
    columns: dict[str, Any] = {}
    for name, kind in spec.features.items():
        base = kind.rstrip("?")
        arrow, dtype = _COLUMNS[base]
        values = sample[name].cast(arrow, safe=base != "number").to_pylist()
        if name not in strict or None not in values:
            columns[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(columns)


def limits_of(signature: ModelSignature | None, spec: PredictionSpec) -> dict[str, tuple[float, float]]:
    """Check that a model takes the spec's features and returns one number, and return the ranges of its 32-bit types.

    A model may allow null where the spec does not, but not the other way round: callers could send a null that it cannot take.

    :returns: the smallest and the largest value of each feature that has less than 64 bits in the model
    :raises RejectedError: there is no signature, or it does not match the spec; the message lists every difference
    """
    if signature is None or signature.inputs is None or signature.outputs is None:
        raise RejectedError(
            f"the version of {spec.name} was logged without a signature, so its inputs and outputs are not known. "
            "Log it again with `signature=` (`ray_jobs.training.signature.signature_of` makes one from the spec)"
        )
    if problems := [*_wrong_inputs(signature.inputs, spec), *_wrong_outputs(signature.outputs)]:
        raise RejectedError(f"the version's signature does not match the spec of {spec.name}: {'; '.join(problems)}")
    types = {column.name: column.type.name for column in signature.inputs.inputs}
    narrow = {name: _NARROW.get(kind.rstrip("?"), ("", (0, 0))) for name, kind in spec.features.items()}
    return {name: limits for name, (narrow_type, limits) in narrow.items() if types[name] == narrow_type}


def _wrong_inputs(inputs: Any, spec: PredictionSpec) -> list[str]:
    if inputs.is_tensor_spec() or not inputs.has_input_names():
        return ["its inputs are not named columns"]
    columns = inputs.input_dict()
    problems = [f"it takes {name}, which is no feature" for name in columns if name not in spec.features]
    for name, kind in spec.features.items():
        base = kind.rstrip("?")
        allowed = [_TYPES[base], *([_NARROW[base][0]] if base in _NARROW else [])]
        if name not in columns:
            problems.append(f"it does not take the feature {name}")
        elif (type_name := getattr(columns[name].type, "name", str(columns[name].type))) not in allowed:
            problems.append(f"{name} is {type_name}, but the spec says {kind}, which is {' or '.join(allowed)}")
        elif kind.endswith("?") and columns[name].required:
            problems.append(f"{name} is required, but the spec says {kind}, which may be null")
    return problems


def _wrong_outputs(outputs: Any) -> list[str]:
    columns = outputs.inputs
    if len(columns) == 1:
        if not outputs.is_tensor_spec():
            if getattr(columns[0].type, "name", "") in ("double", "float"):
                return []
        elif columns[0].type.kind == "f" and columns[0].shape in ((-1,), (-1, 1)):
            return []
    return [f"it returns {outputs}, not one column of numbers"]
