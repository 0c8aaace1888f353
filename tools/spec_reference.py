"""Write docs/reference/spec.md from the fields of the spec: python tools/spec_reference.py."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from operators.core.spec import PredictionSpec  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "spec.md"
_PLAIN = {
    bool: "true/false", int: "whole number", float: "number", str: "text", date: "date", datetime: "time", Any: "anything",
}  # fmt: skip
_DURATIONS = (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 0.001))
_BOUNDS = (("ge", "at least {}"), ("gt", "above {}"), ("le", "at most {}"), ("lt", "below {}"))
_INTRO = """\
<!-- tools/spec_reference.py writes this page from the fields in operators/core/; edit it there. -->

# The spec of a model

One file `include/models/<name>.yaml` describes one model. `taxiway check` says what is wrong with it, with file, line and key.
Each section below is one part of the file; words such as *unit*, *bake* and *margin* are in the [glossary](../glossary.md).

A duration is a number and a unit: `250ms`, `30s`, `10m`, `6h`, `7d`, `2w`. A key that is not listed here is an error.
"""


def page() -> str:
    """Return the page."""
    return _INTRO + sections("", PredictionSpec, level=2)


def sections(path: str, model: type[BaseModel], *, level: int) -> str:
    """Return the tables of a model and of those in it.

    :param path: where the model is; empty: the whole file
    :param level: of the headings
    """
    return "".join(_section("#" * level, place, child) for place, child in sections_of(path, model))


def sections_of(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield each model of the spec with its place, parents first."""
    yield path, model
    for name, field in _fields(model):
        nested = _models(field.annotation)
        for child in nested:
            variant = f" ({child.__name__.lower()})" if len(nested) > 1 else ""
            yield from sections_of(_place(path, field.alias or name, field.annotation) + variant, child)


def _fields(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """Return the fields in the order of the page. Where a model has a base: keys before parts, its own before the base's."""
    fields, own = list(model.model_fields.items()), model.__annotations__
    if not any(getattr(base, "model_fields", None) for base in model.__bases__):
        return fields
    return sorted(fields, key=lambda one: (bool(_models(one[1].annotation)), one[0] not in own))


def _place(path: str, key: str, annotation: Any) -> str:
    origin = get_origin(_without_none(annotation))
    mark = {dict: ".<name>", tuple: "[]"}.get(origin, "")
    return f"{path}.{key}{mark}" if path else f"{key}{mark}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _section(marks: str, path: str, model: type[BaseModel]) -> str:
    heading = f"`{path}`" if path else "The whole file"
    about = "\n\n".join(" ".join(paragraph.split()) for paragraph in (inspect.getdoc(model) or "").split("\n\n"))
    rows = "".join(_row(path, name, field) for name, field in _fields(model))
    return f"\n{marks} {heading}\n\n{about}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}"


def _row(path: str, name: str, field: FieldInfo) -> str:
    key = field.alias or name
    cells = (f"`{key}`", _type(path, name, field), _default(name, field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _type(path: str, name: str, field: FieldInfo) -> str:
    key, annotation = field.alias or name, _without_none(field.annotation)
    if nested := _models(annotation):
        links = " or ".join(_link(_place(path, key, field.annotation), child, len(nested) > 1) for child in nested)
        return {dict: f"mapping of a name to {links}", tuple: f"list of {links}"}.get(get_origin(annotation), links)
    if name.endswith("_s"):
        return "duration or `none`" if "none" in (field.description or "").split("`") else "duration"
    words = _words(annotation) + (", in %" if name.endswith("_pct") else "")
    limits = [text.format(f"{value:g}") for at, text in _BOUNDS if (value := _bound(field, at)) is not None]
    return ", ".join([words, *limits])


def _words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in arguments)
    if origin is dict:
        return f"mapping of a name to {_words(arguments[1])}"
    if origin is tuple:
        return f"list of {_words(arguments[0])}".replace("one of", "any of")
    if origin in (Union, UnionType):
        return ", ".join(dict.fromkeys(_words(one) for one in arguments))
    return _PLAIN[annotation]


def _bound(field: FieldInfo, at: str) -> float | None:
    return next((getattr(limit, at) for limit in field.metadata if getattr(limit, at, None) is not None), None)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation):
        return Union[tuple(one for one in get_args(annotation) if one is not NoneType)]
    return annotation


def _link(path: str, model: type[BaseModel], several: bool) -> str:
    place = f"{path} ({model.__name__.lower()})" if several else path
    slug = re.sub(r"[^\w\- ]", "", place.lower()).replace(" ", "-")
    return f"[`{place}`](#{slug})"


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, dict | tuple):
        if any(isinstance(one, BaseModel) for one in value):
            return "one with its defaults"
        return f"`[{', '.join(value)}]`" if value else "none"
    return f"`{_duration(value)}`" if name.endswith("_s") else _plain(value)


def _plain(value: object) -> str:
    if value == "":
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value}`"


def _duration(seconds: float) -> str:
    unit, length = next(one for one in _DURATIONS if seconds >= one[1] and round(seconds / one[1], 6) % 1 == 0)
    return f"{seconds / length:g}{unit}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
