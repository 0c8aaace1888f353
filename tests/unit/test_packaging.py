from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict

from operators.core.extras import Extra

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> Any:
    spec = spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def extras() -> dict[str, list[str]]:
    return pyproject()["project"]["optional-dependencies"]


def published() -> list[str]:
    """What anybody who installs the wheel gets, or may ask for."""
    return [*pyproject()["project"]["dependencies"], *(text for extra in extras().values() for text in extra)]


def in_lock() -> list[str]:
    left_out = {text for extra in ("gpu", "torch") for text in extras()[extra]} - set(extras()["cpu"])
    groups = pyproject()["dependency-groups"]
    return sorted({*published(), *groups["stack"], *groups["dev"]} - left_out)


def locked() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, version in re.findall(
        r"^([a-z0-9._-]+)==([^\s;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    ):
        found.setdefault(name, []).append(version)
    return found


def test_requirements_txt_is_made_from_the_lock() -> None:
    lock = tool("lock")
    made = lock.for_astro((ROOT / "pyproject.toml").read_text(), (ROOT / "requirements.lock").read_text())
    assert (ROOT / "requirements.txt").read_text() == made


@pytest.mark.parametrize("text", [text for text in in_lock() if Requirement(text).name != "taxiway"])
def test_lock_satisfies_pyproject(text: str) -> None:
    wanted = Requirement(text)
    versions = locked()[re.sub(r"[-_.]+", "-", wanted.name).lower()]
    assert all(wanted.specifier.contains(version) for version in versions)


@pytest.mark.parametrize("text", published())
def test_who_installs_the_wheel_is_given_ranges(text: str) -> None:
    wanted = Requirement(text)
    assert wanted.name == "taxiway" or wanted.specifier
    assert not {"==", "==="} & {one.operator for one in wanted.specifier}
    assert wanted.name != "pytest"


def test_the_operators_alone_bring_no_framework() -> None:
    names = {Requirement(text).name for text in pyproject()["project"]["dependencies"]}
    assert not names & {Requirement(text).name for extra in extras().values() for text in extra}


def test_the_extras_are_those_that_messages_may_name() -> None:
    assert set(get_args(Extra)) == set(extras())


def test_the_project_itself_runs_exact_versions() -> None:
    stack = [Requirement(text) for text in pyproject()["dependency-groups"]["stack"]]
    assert {wanted.name for wanted in stack} == {
        "apache-airflow", "ray", "great-expectations", "mlflow", "boto3", "pytest"
    }  # fmt: skip
    assert all([one.operator for one in wanted.specifier] == ["=="] for wanted in stack)


def test_every_locked_package_has_a_hash() -> None:
    blocks = re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements.lock").read_text())
    assert len(blocks) > 200
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_heavy_frameworks_are_not_installed_by_default() -> None:
    assert {"torch", "tensorflow", "nvidia-nccl-cu12"} & set(locked()) == set()


def test_astros_requirements_leave_airflow_to_the_image() -> None:
    names = {
        Requirement(line).name
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and line[0] != "#"
    }
    assert "apache-airflow" not in names
    assert {"ray", "mlflow", "great-expectations", "boto3", "pytest"} <= names


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Variable(_Strict):
    is_secret: bool
    key: str
    value: str


class _Configuration(_Strict):
    """As `astro deployment create --deployment-file` reads it."""

    name: str
    description: str = ""
    runtime_version: str
    dag_deploy_enabled: bool
    ci_cd_enforcement: bool
    scheduler_size: str
    is_high_availability: bool
    is_development_mode: bool
    executor: str
    workspace_name: str
    deployment_type: str
    cloud_provider: str
    region: str
    default_task_pod_cpu: str
    default_task_pod_memory: str
    resource_quota_cpu: str
    resource_quota_memory: str


class _Queue(_Strict):
    name: str
    max_worker_count: int
    min_worker_count: int
    worker_concurrency: int
    worker_type: str


class _Deployment(_Strict):
    environment_variables: list[_Variable]
    configuration: _Configuration
    worker_queues: list[_Queue]
    alert_emails: list[str]


class _AstroFile(_Strict):
    deployment: _Deployment


def test_astro_yaml_follows_the_schema_and_the_image() -> None:
    deployment = _AstroFile.model_validate(yaml.safe_load((ROOT / "astro.yaml").read_text())).deployment
    assert any(queue.name == "default" for queue in deployment.worker_queues)
    assert not any(variable.is_secret for variable in deployment.environment_variables)
    (image,) = re.findall(r"^FROM \S+:(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert deployment.configuration.runtime_version == image
    stack = pyproject()["dependency-groups"]["stack"]
    airflow = Requirement(next(text for text in stack if text.startswith("apache-airflow")))
    assert str(airflow.specifier).removeprefix("==").startswith(image.split("-")[0])


_WITHOUT_AIRFLOW = """
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "airflow":
            raise ModuleNotFoundError("No module named 'airflow'", name="airflow")
sys.meta_path.insert(0, Refuse())
import ray_jobs, operators.core
names = [m.name for p in (ray_jobs, operators.core) for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
names += ["operators.gates.policy", "operators.judge.policy", "operators.compute.policy"]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "torch":  # an extra
            raise
print(len(names))
"""


def test_what_runs_on_ray_needs_no_airflow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_AIRFLOW], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 15


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_a_wrong_python_is_one_sentence(version: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    check = tool("check_machine")
    monkeypatch.setattr(check.sys, "version_info", (*version, 0))
    said = check.problem()
    assert said.count(". ") == 0
    assert "Python 3.11, 3.12 or 3.13 is needed" in said


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True).stdout
    for target in ("demo", "test", "up", "down", "status", "lock"):
        assert f"make {target} " in shown
