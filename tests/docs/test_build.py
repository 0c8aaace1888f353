"""The documents are built without a warning: no link leads nowhere, no page is left out, no public name is undescribed."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import operators
from docs._ext.public_face import described_with, parameters_of
from operators.cli.main import argument_parser

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = [getattr(operators, name) for name in operators.__all__]
CLASSES = [public for public in PUBLIC if isinstance(public, type) and not issubclass(public, Exception | BaseModel)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "doctrees")]
    done = subprocess.run([*command, "docs", str(folder / "html")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_public_name_is_on_the_page_of_the_operators(built: Path) -> None:
    page = (built / "reference" / "operators.html").read_text(encoding="utf-8")

    assert [name for name in operators.__all__ if name not in page] == []


def test_every_command_is_on_the_page_of_the_commands(built: Path) -> None:
    page = (built / "reference" / "commands.html").read_text(encoding="utf-8")
    commands = argument_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]

    assert [name for name in commands if f'id="taxiway-{name}"' not in page] == []


@pytest.mark.parametrize("public", CLASSES, ids=lambda public: public.__name__)
def test_every_parameter_of_a_public_class_is_described(public: type) -> None:
    constructors = [vars(base)["__init__"] for base in described_with(public) if "__init__" in vars(base)]
    wanted = {name for one in constructors for name in inspect.signature(one).parameters} - {"self", "kwargs"}

    assert wanted - set(parameters_of(public)) == set()
