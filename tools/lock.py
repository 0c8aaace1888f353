"""Resolve pyproject.toml: writes requirements.lock (everything, with hashes) and requirements.txt (for Astro's image).

Astro's Runtime image brings its own Airflow, so requirements.txt leaves Airflow out and pins the direct dependencies to
the versions of the lock.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, FOR_ASTRO = ROOT / "requirements.lock", ROOT / "requirements.txt"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ;\s*(.+?))?(?: \\)?$", re.MULTILINE)


def resolve() -> None:
    """Write the lock, for every Python that the project supports."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11"]
    options = ["--generate-hashes", "--no-header", "--no-emit-index-url", "--extra", "local", "--extra", "dev", "-q"]
    subprocess.run([*command, *options, "pyproject.toml", "-o", LOCK.name], cwd=ROOT, check=True, timeout=600)


def for_astro(pyproject: str, lock: str) -> str:
    """Return requirements.txt."""
    pins: dict[str, list[tuple[str, str]]] = {}
    for name, version, marker in _PIN.findall(lock):
        pins.setdefault(_normal(name), []).append((version, marker))
    lines = [
        "# Made by `make lock` from pyproject.toml. Installed on top of Astro's Runtime image, which brings Airflow."
    ]
    for dependency in tomllib.loads(pyproject)["project"]["dependencies"]:
        match = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?", dependency)
        assert match, dependency
        name, extras = match[1], match[2] or ""
        if _normal(name) == "apache-airflow":
            continue
        for version, marker in pins[_normal(name)]:
            lines.append(f"{name}{extras}=={version}" + (f" ; {marker}" if marker else ""))
    return "\n".join(lines) + "\n"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    resolve()
    FOR_ASTRO.write_text(for_astro((ROOT / "pyproject.toml").read_text(), LOCK.read_text()))
