"""Code in the documents works: Python compiles and imports what there is, YAML is a part of a spec, commands exist."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter

import operators
from operators.cli.main import argument_parser
from operators.core.spec import PredictionSpec
from tests.support.documents import ROOT, Code, code, pages

ALL = [one for page in pages() for one in code(page)]
PYTHON = [one for one in ALL if one.language == "python"]
YAML = [one for one in ALL if one.language == "yaml"]
SHELL = [one for one in ALL if one.language in ("", "bash", "sh", "shell", "console", "inline")]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)


def place(one: object) -> str:
    return one.place if isinstance(one, Code) else ""


@pytest.mark.parametrize("snippet", PYTHON, ids=place)
def test_python_compiles_and_imports_what_there_is(snippet: Code) -> None:
    tree = ast.parse(snippet.text, snippet.place)
    compile(tree, snippet.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    assert list(wrong_imports(tree)) == []


@pytest.mark.parametrize("snippet", PYTHON, ids=place)
def test_python_says_where_a_public_name_is_imported_from(snippet: Code) -> None:
    tree = ast.parse(snippet.text, snippet.place)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & set(operators.__all__)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}

    assert used - imported == set()


def wrong_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in ("operators", "ray_jobs"):
            continue
        for alias in node.names:
            if not exists(str(node.module), alias.name):
                yield f"from {node.module} import {alias.name}"


def exists(module: str, name: str) -> bool:
    if module == "operators":
        return name in operators.__all__
    if module.startswith("operators."):
        return hasattr(import_module(module), name)
    spec = find_spec(module)  # what runs on the cluster may need what is not installed here
    if spec is None or spec.origin is None:
        return False
    source = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return name in {getattr(node, "name", "") for node in source.body}


@pytest.mark.parametrize("snippet", YAML, ids=place)
def test_yaml_that_looks_like_a_spec_is_one(snippet: Code) -> None:
    document = yaml.safe_load(snippet.text)
    fields = {field.alias or name: field for name, field in PredictionSpec.model_fields.items()}
    if not isinstance(document, dict) or not set(document) & {"data", "training", "gate", "serving", "release"}:
        return  # another file: expectations, or a setting of somebody else's
    if {name for name, field in fields.items() if field.is_required()} <= set(document):
        PredictionSpec.model_validate(document)
        return
    assert set(document) <= set(fields)
    for key, part in document.items():
        if is_whole(fields[key].annotation, part):
            TypeAdapter(fields[key].annotation).validate_python(part)


def is_whole(annotation: Any, part: object) -> bool:
    """Tell whether a part of a spec has all that it must have; a snippet may show a few keys alone."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel) and isinstance(part, dict)):
        return True
    return {field.alias or name for name, field in annotation.model_fields.items() if field.is_required()} <= set(part)


def commands(snippet: Code) -> Iterator[list[str]]:
    for line in snippet.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"[|;&]+", line.partition(" #")[0]):
            words = part.removeprefix("$ ").split() if "…" in part or "'" in part else shlex.split(part, posix=False)
            if words and words[0].rpartition("/")[2] in ("taxiway", "make"):
                yield [words[0].rpartition("/")[2], *words[1:]]


@pytest.mark.parametrize(
    ("where", "words"),
    [(one.place, words) for one in SHELL for words in commands(one)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_every_command_exists(where: str, words: list[str]) -> None:
    if words[0] == "make":
        assert set(words[1:2]) <= set(TARGETS), where
        return
    parser, rest = argument_parser(), words[1:]
    while rest and (choices := subcommands(parser)) and not rest[0].startswith("-"):
        assert rest[0] in choices, f"{where}: there is no {' '.join(words)}"
        parser, rest = choices[rest[0]], rest[1:]
        if rest and words[1] == "airflow":
            return
    unknown = [
        word for word in rest if word.startswith("-") and word.partition("=")[0] not in parser._option_string_actions
    ]
    assert unknown == [], f"{where}: {' '.join(words)}"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}
