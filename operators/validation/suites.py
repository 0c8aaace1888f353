"""Read expectation suites from YAML, and report mistakes in them before any data is read."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from operators.core.errors import ConfigurationError
from operators.core.explain_error import explain, suggestion
from operators.core.extras import require
from operators.validation.policy import Expectation, QuarantineLimit, Suite

_KEYS = ("type", "kwargs", "severity", "quarantine")


@dataclass(frozen=True)
class Suites:
    """The expectations of one YAML file, by table; ``dataset`` is what the model's SQL makes."""

    path: Path
    tables: Mapping[str, Suite]

    def only(self, name: str = "") -> tuple[str, Suite]:
        """Return one suite and its name.

        :param name: default: the only one of the file
        :raises ConfigurationError: there is no such suite, or several and no name
        """
        if not name and len(self.tables) == 1:
            return next(iter(self.tables.items()))
        if name not in self.tables:
            raise ConfigurationError(
                f"{self.path}: there is no suite {name!r}; {suggestion(name, sorted(self.tables))}"
            )
        return name, self.tables[name]


def load_suites(path: Path) -> Suites:
    """Read suites and check every type and kwarg against the installed Great Expectations.

    :param path: YAML: table → ``expectations`` → list of ``type``, ``kwargs``, ``severity``, ``quarantine`` and
        ``meta.notes``; table → ``quarantine`` → ``max_rows_pct``, ``max_rows``
    :raises ConfigurationError: the file is wrong; one line for each problem, with file, line and a suggestion
    """
    tables = _read(path)
    problems = [
        f"{path}:{e.line}: {text}" for suite in tables.values() for e in suite.expectations for text in _problems(e)
    ]
    if problems:
        raise ConfigurationError("\n".join(problems))
    return Suites(path=path, tables=tables)


def implementations(expectations: Sequence[Expectation]) -> list[Any]:
    """Return Great Expectations' own objects."""
    import_gx()
    from great_expectations.expectations.registry import get_expectation_impl

    # Not suite.add_expectation_configuration: it keeps one expectation of a type and column and drops the others.
    return [
        get_expectation_impl(e.type)(**e.kwargs, severity=e.severity, meta={"notes": e.notes}) for e in expectations
    ]


def described(objects: Sequence[Any]) -> tuple[Expectation, ...]:
    """Return Great Expectations' objects as our own type."""
    return tuple(
        Expectation(
            type=o.expectation_type,
            kwargs=dict(o.configuration.kwargs),
            severity=getattr(o.severity, "value", o.severity),
            notes=" ".join([o.notes] if isinstance(o.notes, str) else o.notes or []),
        )
        for o in objects
    )


def is_about_rows(type_name: str) -> bool:
    """Say whether an expectation judges each row by itself, so that bad rows can be set aside."""
    import_gx()
    from great_expectations.expectations import expectation as kinds
    from great_expectations.expectations.registry import get_expectation_impl

    rows = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    return issubclass(get_expectation_impl(type_name), rows)


def _read(path: Path) -> dict[str, Suite]:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    return {table: _suite(path, table, body) for table, body in _pairs(path, root, "tables")}


def _suite(path: Path, table: str, body: yaml.Node) -> Suite:
    line = body.start_mark.line + 1
    parts = dict(_pairs(path, body, f"the suite of {table}"))
    if unknown := [key for key in parts if key not in ("expectations", "quarantine")]:
        meant = suggestion(unknown[0], ["expectations", "quarantine"])
        raise ConfigurationError(f"{path}:{line}: the suite of {table} has an unknown key {unknown[0]!r}; {meant}")
    items = parts.get("expectations")
    if not isinstance(items, yaml.SequenceNode) or not items.value:
        raise ConfigurationError(f"{path}:{line}: the suite of {table} needs a list `expectations`")
    limit = None
    if "quarantine" in parts:
        limit = _checked(path, parts["quarantine"], QuarantineLimit, QuarantineLimit.model_validate)
    return Suite(expectations=tuple(_expectation(path, node) for node in items.value), quarantine=limit)


def _checked(path: Path, node: yaml.Node, model: type[BaseModel], build: Callable[[Any], Any]) -> Any:
    """Build a model from a part of the file; an error names its line."""
    try:
        return build(yaml.SafeLoader("").construct_document(node))
    except ValidationError as error:
        raise ConfigurationError(f"{path}:{node.start_mark.line + 1}: {explain(error, model)}") from None


def _pairs(path: Path, node: yaml.Node | None, what: str) -> Iterator[tuple[str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1 if node else 1
        raise ConfigurationError(f"{path}:{line}: {what} must be a mapping (`key: value`)")
    for key, value in node.value:
        yield str(key.value), value


def _expectation(path: Path, node: yaml.Node) -> Expectation:
    line = node.start_mark.line + 1

    def build(value: Any) -> Expectation:
        if not isinstance(value, dict):
            raise ConfigurationError(f"{path}:{line}: an expectation is a mapping with `type` and `kwargs`")
        meta = value.pop("meta", None) or {}
        if unknown := [key for key in value if key not in _KEYS]:
            meant = suggestion(unknown[0], [*_KEYS, "meta"])
            raise ConfigurationError(f"{path}:{line}: unknown key {unknown[0]!r}; {meant}")
        return Expectation(**value, notes=str(meta.get("notes", "")), line=line)

    expectation: Expectation = _checked(path, node, Expectation, build)
    return expectation


def _problems(expectation: Expectation) -> Iterator[str]:
    """Yield what the installed Great Expectations would refuse."""
    import_gx()
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation import Expectation as Base
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    try:
        implementation = get_expectation_impl(expectation.type)
    except ExpectationNotFoundError:
        known = sorted(list_registered_expectation_implementations())
        yield f"unknown expectation {expectation.type!r}; {suggestion(expectation.type, known)}"
        return
    own = [key for key in implementation.__fields__ if key not in Base.__fields__]
    allowed = [*own, "row_condition", "condition_parser"]
    unknown = [key for key in expectation.kwargs if key not in allowed]
    for key in unknown:
        yield f"{expectation.type} has no argument {key!r}; {suggestion(key, own)}"
    if unknown:
        return
    try:
        implementation(**expectation.kwargs)
    except Exception as error:  # noqa: BLE001 - pydantic v1 raises several kinds, all of them about what was written
        yield f"{expectation.type}: {' '.join(str(error).split())[:300]}"
    if expectation.quarantine and not is_about_rows(expectation.type):
        yield f"{expectation.type} is not about single rows, so no rows can be set aside for it; remove `quarantine`"


@cache
def import_gx() -> Any:
    """Import Great Expectations with its usage statistics off. The import takes 6 to 8 s of CPU, so only users of it do this.

    :raises ConfigurationError: it is not installed
    """
    require("gx", "great_expectations", purpose="validation")
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    # The import creates a million objects that stay. Without this the garbage collector would scan them again and again, which
    # takes a sixth of the time of a validation.
    gc.collect()
    gc.freeze()
    return gx
