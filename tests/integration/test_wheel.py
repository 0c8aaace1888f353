"""The wheel, installed beside a bare Airflow: no Ray, no MLflow, no Great Expectations, and none of this folder's files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

import operators

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("operators", "ray_jobs")
FRAMEWORKS = ("ray", "mlflow", "great_expectations", "pandas", "pyarrow", "duckdb", "boto3", "xgboost", "pytest")
UV = (sys.executable, "-m", "uv", "--quiet")

_PROBE = """
import json, sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
import operators, ray_jobs.edge
from airflow.sdk import task
names = {name: getattr(operators, name).__class__.__name__ for name in operators.__all__}
print(json.dumps({
    "names": list(names),
    "frameworks": [name for name in sys.argv[1:] if find_spec(name)],
    "from": operators.__file__,
    "providers": [point.value for point in entry_points(group="apache_airflow_provider") if "operators" in point.value],
    "edge": sorted(path.name for path in Path(ray_jobs.edge.__file__).parent.iterdir() if path.suffix != ".py"),
    "decorator": callable(task.ray),
}))
"""


@dataclass(frozen=True)
class Bare:
    """A virtual environment with the wheel and what its metadata asks for."""

    folder: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TAXIWAY", "AIRFLOW"))
        }
        env |= {"AIRFLOW_HOME": str(self.folder / "airflow"), "TAXIWAY_HOME": str(self.folder / "home")}
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def wheel() -> Iterator[Path]:
    """Built from a copy: setuptools leaves folders beside what it builds."""
    with tempfile.TemporaryDirectory(prefix="taxiway-wheel-") as folder:
        for package in PACKAGES:
            shutil.copytree(ROOT / package, Path(folder) / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, folder)
        build = ("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", "dist", ".")
        subprocess.run([*UV, *build], cwd=folder, check=True, timeout=120)
        (built,) = (Path(folder) / "dist").glob("*.whl")
        yield built


@pytest.fixture(scope="module")
def bare(wheel: Path) -> Iterator[Bare]:
    """At the lock's versions, which uv has in its cache where it has installed them before: seconds."""
    with tempfile.TemporaryDirectory(prefix="taxiway-bare-") as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text(
            "\n".join(re.findall(r"^(\S+==[^\\\n]+?)(?: \\)?$", (ROOT / "requirements.lock").read_text(), re.M))
        )
        python = f"{folder}/venv/bin/python"
        subprocess.run([*UV, "venv", "--python", sys.executable, f"{folder}/venv"], check=True, timeout=60)
        install = (*UV, "pip", "install", "--python", python, "--constraint", str(pins), str(wheel))
        if subprocess.run([*install, "--offline"], capture_output=True, timeout=120, check=False).returncode:
            subprocess.run(install, check=True, timeout=300)
        yield Bare(Path(folder) / "venv")


def test_the_wheel_has_every_file_of_its_packages(wheel: Path) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == here
    assert {"ray_jobs/edge/haproxy.cfg", "ray_jobs/edge/edge.lua", "operators/ui/static/console.html"} <= packed


def test_a_bare_airflow_gets_every_public_name_and_no_framework(bare: Bare) -> None:
    done = bare.run("python", "-c", _PROBE, *FRAMEWORKS)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["names"] == operators.__all__
    assert seen["frameworks"] == []
    assert seen["from"].startswith(str(bare.folder))
    assert seen["providers"] == ["operators.provider:get_provider_info"]
    assert {"haproxy.cfg", "edge.lua"} <= set(seen["edge"])
    assert seen["decorator"]


def test_commands_that_need_an_extra_say_which(bare: Bare) -> None:
    shown = bare.run("taxiway", "--help")
    assert shown.returncode == 0, shown.stderr
    assert {"up", "demo", "plan", "verify"} <= set(shown.stdout.split())
    table = bare.folder / "orders.csv"
    table.write_text("id,price\n1,2\n")
    for command, extra in (
        (("up",), "local"),
        (("demo",), "local"),
        (("airflow", "version"), "local"),
        (("suite", "draft", str(table)), "gx"),
    ):
        done = bare.run("taxiway", *command)
        assert done.returncode == 2, done.stderr
        assert f"pip install 'taxiway[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_commands_that_need_none_do_their_work(bare: Bare) -> None:
    spec = ROOT / "include" / "models" / "flight_delay.yaml"
    for command in (
        ("check", str(spec)),
        ("plan", str(spec)),
        ("simulate", str(spec), "--releases", "2", "--scenario", "identical", "--jobs", "1"),
    ):
        done = bare.run("taxiway", *command)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout, done.stderr
