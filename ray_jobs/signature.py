"""A model's interface as MLflow writes it down: made from the spec when a model is logged, checked when one is served."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.core.spec import ModelSpec

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

OUTPUT = "probability"
_TYPES = {"category": "string", "number": "double", "integer": "long", "boolean": "boolean"}
_COLUMNS = {
    "category": (pa.string(), "object"),
    "number": (pa.float64(), "float64"),
    "integer": (pa.int64(), "int64"),
    "boolean": (pa.bool_(), "bool"),
}


def signature_of(spec: ModelSpec) -> ModelSignature:
    """Return the signature that every version of a model has.

    :return: one named column for each feature, in the spec's order, optional if the kind ends with ``?``; out comes one
        double column, ``probability``
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = [
        ColSpec(_TYPES[kind.rstrip("?")], name, required=not kind.endswith("?")) for name, kind in spec.features.items()
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec("double", OUTPUT)]))


def input_example(spec: ModelSpec, table: pa.Table, rows: int = 5) -> pd.DataFrame:
    """Return a few real rows in the types of `signature_of`.

    MLflow has no null in an integer or boolean column. Rows without one are taken; if there are none, the columns that
    have a null in the first rows are left out, for they are optional.

    :param table: has at least the features
    :param rows: most rows of the example
    :raises ValueError: the table has no row, or a value is not of its feature's kind
    """
    import pandas as pd

    strict = [name for name, kind in spec.features.items() if kind.rstrip("?") in ("integer", "boolean")]
    known = reduce(pc.and_, (pc.is_valid(table[name]) for name in strict)) if strict else None
    full = table.select(list(spec.features)) if known is None else table.select(list(spec.features)).filter(known)
    sample = (full if full.num_rows else table).slice(0, rows)
    if not sample.num_rows:
        raise ValueError(f"there is no row to make an input example of {spec.name} from")
    columns: dict[str, Any] = {}
    for name, kind in spec.features.items():
        base = kind.rstrip("?")
        arrow, dtype = _COLUMNS[base]
        values = sample[name].cast(arrow, safe=base != "number").to_pylist()
        if name not in strict or None not in values:
            columns[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(columns)
