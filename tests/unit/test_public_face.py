from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import operators

ROOT = Path(__file__).resolve().parents[2]
FACE = ROOT / "operators" / "__init__.py"
# Bases that only the operators themselves build on, and the link that the provider registers.
INTERNAL = {
    "operators.registry.operators": {"RegistryOperator"},
    "operators.registry.sensors": {"RegistrySensor"},
    "operators.rollout.operators": {"ReleaseOperator"},
    "operators.rollout.steps.operators": {"Before", "StepOperator", "StepTask"},
    "operators.validation.operators": {"Expecting", "Validating"},
}
FILES = ("operators.py", "sensors.py", "notifiers.py", "hook.py", "module_job.py")


def typed() -> dict[str, str]:
    """The names that type checkers see, and where they come from."""
    (block,) = (node for node in ast.parse(FACE.read_text()).body if isinstance(node, ast.If))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name}: without `as {alias.name}` it is private to type checkers"
            found[alias.name] = str(node.module)
    return found


def written() -> dict[str, set[str]]:
    """The classes of every file that a DAG's author may import from."""
    found = {}
    for path in sorted((ROOT / "operators").rglob("*.py")):
        if path.name in FILES:
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            classes = (node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
            found[module] = {name for name in classes if not name.startswith("_")}
    return found


@pytest.mark.parametrize("name", operators.__all__)
def test_every_public_name_is_where_the_face_says(name: str) -> None:
    value = getattr(operators, name)
    assert value is getattr(import_module(operators._MODULE_OF[name]), name)
    defined_in = getattr(value, "__module__", "")
    assert not defined_in.startswith("operators.") or defined_in == operators._MODULE_OF[name]


def test_type_checkers_see_the_same_names() -> None:
    assert typed() == operators._MODULE_OF
    assert list(typed()) == operators.__all__
    assert len(set(operators.__all__)) == len(operators.__all__)
    assert set(operators.__all__) <= set(dir(operators))


def test_every_operator_sensor_and_hook_is_public_or_is_said_to_be_internal() -> None:
    public: dict[str, set[str]] = {}
    for name, module in operators._MODULE_OF.items():
        public.setdefault(module, set()).add(name)
    for module, classes in written().items():
        assert classes - public.get(module, set()) == INTERNAL.get(module, set()), module
    assert set(INTERNAL) <= set(written())


def test_an_unknown_name_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="SubmitRayJob"):
        exec("from operators import SubmitRayJob")
    assert not hasattr(operators, "no_such_name")


def test_to_import_the_package_imports_nothing_else() -> None:
    heavy = "airflow", "ray", "mlflow", "great_expectations", "pandas", "numpy", "pydantic", "sqlalchemy"
    code = f"import sys, operators; dir(operators); print([m for m in sys.modules if m.split('.')[0] in {heavy}])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[]"


def test_to_import_an_operator_imports_no_framework() -> None:
    heavy = "ray", "mlflow", "great_expectations", "pandas", "numpy", "pyarrow", "duckdb", "torch"
    code = (
        f"import sys\nfrom operators import *\nprint([m for m in sys.modules if m.split('.')[0] in {heavy}])\n"
        "print(SubmitRayJobOperator.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "SubmitRayJobOperator"], done.stdout
