"""Read expectation suites from YAML, and say what is wrong with them before any data is read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from operators.core.errors import ConfigurationError
from operators.validation.policy import Expectation


@dataclass(frozen=True)
class Suites:
    """The expectations of one YAML file, by table; ``dataset`` is what the model's SQL makes."""

    path: Path
    tables: Mapping[str, tuple[Expectation, ...]]


def load_suites(path: Path) -> Suites:
    """Read suites and check every type and kwarg against the installed Great Expectations.

    :param path: YAML: table → ``expectations`` → list of ``type``, ``kwargs``, ``severity`` and ``meta.notes``
    :raises ConfigurationError: the file is wrong; one line for each problem, with file, line and a suggestion
    """
    tables = {table: tuple(items) for table, items in _read(path).items()}
    problems = [f"{path}:{e.line}: {text}" for items in tables.values() for e in items for text in _problems(e)]
    if problems:
        raise ConfigurationError("\n".join(problems))
    return Suites(path=path, tables=tables)


def _read(path: Path) -> dict[str, list[Expectation]]:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    tables = {}
    for table, body in _pairs(path, root, "tables"):
        lists = dict(_pairs(path, body, f"the suite of {table}")).get("expectations")
        if not isinstance(lists, yaml.SequenceNode) or not lists.value:
            raise ConfigurationError(
                f"{path}:{body.start_mark.line + 1}: the suite of {table} needs a list `expectations`"
            )
        tables[table] = [_expectation(path, node) for node in lists.value]
    return tables


def _pairs(path: Path, node: yaml.Node | None, what: str) -> Iterator[tuple[str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1 if node else 1
        raise ConfigurationError(f"{path}:{line}: {what} must be a mapping")
    for key, value in node.value:
        yield str(key.value), value


def _expectation(path: Path, node: yaml.Node) -> Expectation:
    line = node.start_mark.line + 1
    loader = yaml.SafeLoader("")
    value = loader.construct_document(node)
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}:{line}: an expectation is a mapping with `type` and `kwargs`")
    meta = value.pop("meta", None) or {}
    unknown = [key for key in value if key not in ("type", "kwargs", "severity")]
    if unknown:
        suggestion = hint(unknown[0], ["type", "kwargs", "severity", "meta"])
        raise ConfigurationError(f"{path}:{line}: unknown key {unknown[0]!r}; {suggestion}")
    try:
        return Expectation(**value, notes=str(meta.get("notes", "")), line=line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigurationError(f"{path}:{line}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


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
        suggestion = hint(expectation.type, list_registered_expectation_implementations())
        yield f"unknown expectation {expectation.type!r}; {suggestion}"
        return
    own = [key for key in implementation.__fields__ if key not in Base.__fields__]
    allowed = [*own, "row_condition", "condition_parser"]
    unknown = [key for key in expectation.kwargs if key not in allowed]
    for key in unknown:
        yield f"{expectation.type} has no argument {key!r}; {hint(key, own)}"
    if unknown:
        return
    try:
        implementation(**expectation.kwargs)
    except Exception as error:  # noqa: BLE001 - pydantic v1 raises several kinds, all of them about what was written
        yield f"{expectation.type}: {' '.join(str(error).split())[:300]}"


def hint(word: str, known: list[str]) -> str:
    """Suggest what a mistyped word was meant to be."""
    close = get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known)[:20])}"


def import_gx() -> Any:
    """Import Great Expectations: 6 to 8 s of CPU, so only where it is used, and with its usage statistics off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    return gx
