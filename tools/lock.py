"""Resolve pyproject.toml: writes requirements.lock (everything, with hashes) and requirements.txt (for Astro's image).

The ranges in pyproject.toml are for people who install Taxiway beside other packages. The group ``stack`` has the exact
versions that the project itself runs; the lock pins those, what the extras of one machine need, and the group ``dev``.
Astro's Runtime image brings its own Airflow, so requirements.txt leaves out Airflow and what Airflow asks for.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, FOR_ASTRO = ROOT / "requirements.lock", ROOT / "requirements.txt"
GROUPS = ("stack", "dev")
# `gpu` and `torch` bring gigabytes, and are for nodes with GPUs.
EXTRAS = ("local", "kubernetes", "slack")
# What a task in Astro's image does: no servers.
_ASTRO_EXTRAS = ("ray", "mlflow", "gx", "cpu")
_AIRFLOWS = re.compile(r"# +(via )?apache-airflow(-core|-task-sdk)$", re.MULTILINE)
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ;\s*(.+?))?(?: \\)?$")


def resolve() -> None:
    """Write the lock, for every Python that the project supports; a version that still fits stays."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11"]
    chosen = [*(f"--group={group}" for group in GROUPS), *(f"--extra={extra}" for extra in EXTRAS)]
    options = ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-package=taxiway", "-q"]
    subprocess.run([*command, *options, *chosen, "pyproject.toml", "-o", LOCK.name], cwd=ROOT, check=True, timeout=600)


def for_astro(pyproject: str, lock: str) -> str:
    """Return requirements.txt."""
    pins: dict[str, list[tuple[str, str]]] = {}
    with_airflow = set[str]()
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock):
        if match := _PIN.match(block.split("\n", 1)[0]):
            pins.setdefault(_normal(match[1]), []).append((match[2], match[3]))
            if _AIRFLOWS.search(block):
                with_airflow.add(_normal(match[1]))
    lines = [
        "# Made by `make lock` from pyproject.toml. Installed on top of Astro's Runtime image, which brings Airflow."
    ]
    named = set[str]()
    for dependency in _wanted(tomllib.loads(pyproject)):
        match = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?", dependency)
        assert match, dependency
        name, extras = match[1], match[2] or ""
        normal = _normal(name)
        if normal in named or normal in with_airflow or normal.startswith("apache-airflow"):
            continue
        named.add(normal)
        for version, marker in pins[normal]:
            lines.append(f"{name}{extras}=={version}" + (f" ; {marker}" if marker else ""))
    return "\n".join(lines) + "\n"


def _wanted(pyproject: dict) -> list[str]:
    extras = pyproject["project"]["optional-dependencies"]
    chosen = [dependency for extra in _ASTRO_EXTRAS for dependency in extras[extra]]
    return [*pyproject["dependency-groups"]["stack"], *pyproject["project"]["dependencies"], *chosen]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    resolve()
    FOR_ASTRO.write_text(for_astro((ROOT / "pyproject.toml").read_text(), LOCK.read_text()))
