"""Read a spec from YAML and, when it is wrong, say in which file, on which line, at which key, and what to write instead."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from operators.core.errors import SpecError
from operators.core.explain_error import Location, dotted, problems, suggestion
from operators.core.settings import PROJECT_ROOT
from operators.core.spec import ModelSpec, spec_type

# The folder with models/, queries/ and expectations/: the project's own, or another one.
INCLUDE = Path(os.environ.get("TAXIWAY_INCLUDE") or PROJECT_ROOT / "include")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads a spec in a tenth of the time


def spec_paths(folder: Path | None = None) -> list[Path]:
    """Return the spec files of a folder (default ``include/models``), sorted by name."""
    return sorted((folder or INCLUDE / "models").glob("*.yaml"))


def load_specs(folder: Path | None = None) -> tuple[list[ModelSpec], list[str]]:
    """Return the specs of a folder, and what is wrong with the others."""
    specs, problems = [], []
    for path in spec_paths(folder):
        try:
            specs.append(load_spec(path))
        except SpecError as error:
            problems.append(str(error))
    return specs, problems


def load_spec(path: Path, *, include: Path | None = None) -> ModelSpec:
    """Read one spec and check that the files and functions that it names exist.

    :param path: the YAML file; its stem is the model's name
    :param include: the folder that ``query`` and ``suite`` are relative to; default: two levels above the file
    :raises SpecError: the spec is wrong; one line for each problem
    """
    lines, document = _read(path)
    try:
        kind = spec_type(document)
    except ValueError as error:
        raise SpecError(_line(path, lines, ("kind",), str(error))) from None
    try:
        spec = kind.model_validate(document)
    except ValidationError as error:
        wrong = list(problems(error, kind))
    else:
        wrong = list(_references(spec, include or path.resolve().parent.parent))
        if spec.name != path.stem:
            wrong.append((("name",), f"is {spec.name!r}, but the file is {path.name}; make the two the same"))
    if wrong:
        raise SpecError("\n".join(_line(path, lines, loc, text) for loc, text in wrong))
    return spec


def _read(path: Path) -> tuple[dict[Location, int], Any]:
    """Return where each key stands, and the document."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SpecError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    lines: dict[Location, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _locate(path, node, (), lines)
        document = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}" if mark else ""
        raise SpecError(f"{path}{where}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # a control character; a date such as 2013-11-31
        raise SpecError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise SpecError(
            f"{path}:1: a spec is a mapping of keys such as name, owner, data; got {type(document).__name__}"
        )
    return lines, document


def _locate(path: Path, node: yaml.Node, at: Location, lines: dict[Location, int]) -> None:
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))
            if here in lines:
                raise SpecError(f"{path}:{key.start_mark.line + 1}: {dotted(here)}: appears twice; keep one")
            lines[here] = key.start_mark.line + 1
            _locate(path, value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _locate(path, value, (*at, index), lines)


def _references(spec: ModelSpec, include: Path) -> Iterable[tuple[Location, str]]:
    for loc, relative in spec.files.items():
        if not (include / relative).is_file():
            near = sorted(p.relative_to(include).as_posix() for p in include.glob(f"*/*{Path(relative).suffix}"))
            meant = suggestion(relative, near, otherwise="paths are relative to include/", cutoff=0.4)
            yield loc, f"{relative!r} does not exist in {include}; {meant}"
    for loc, function in spec.functions.items():
        for text in _entrypoint(function):
            yield loc, text
    drill = spec.release.drill
    schedules: tuple[tuple[Location, str | None], ...] = (
        (("retraining", "schedule"), spec.retraining.schedule),
        (("release", "drill", "schedule"), drill.schedule if drill else None),
    )
    for at, schedule in schedules:
        if schedule is not None and not _is_cron(schedule):
            yield at, f"{schedule!r} is not a cron expression, such as '0 6 * * 1' or @weekly"


def _is_cron(schedule: str) -> bool:
    from croniter import croniter

    return bool(croniter.is_valid(schedule)) and schedule not in ("@once", "@continuous")


def _entrypoint(entrypoint: str) -> Iterable[str]:
    """Check a ``module:function`` without importing it: it may need libraries that only the Ray image has."""
    module, function = entrypoint.split(":")
    try:
        file = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        file = None
    if file is None or file.origin is None or not file.origin.endswith(".py"):
        yield f"module {module!r} is not a Python file on the Python path"
        return
    try:
        tree = ast.parse(Path(file.origin).read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        yield f"{module} is not valid Python: {error}"
        return
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if function not in functions:
        yield f"{module} has no function {function!r}; it has: {', '.join(functions)}"


def _line(path: Path, lines: dict[Location, int], loc: Location, text: str) -> str:
    at = loc
    while at and at not in lines:
        at = at[:-1]
    return f"{path}:{lines.get(at, 1)}: {dotted(loc)}: {text}"
