"""Where a model came from: the code's commit and content, and the versions of what it needs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from operators.core.errors import ConfigurationError

_GIT_TIMEOUT_S = 10


def code_commit(file: Path) -> str:
    """Return the commit of the code: ``TAXIWAY_CODE_COMMIT``, else that of the checkout around a file, else ``unknown``."""
    if given := os.environ.get("TAXIWAY_CODE_COMMIT"):
        return given
    command = ["git", "-C", str(file.resolve().parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def code_digest(file: Path) -> str:
    """Return the SHA-256 of a file of code."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def model_digest(python_model: Path, artifacts: Mapping[str, Path]) -> str:
    """Return the SHA-256 of all that a model is made of: the same bytes are the same model, whatever its number.

    :param python_model: the file that MLflow runs
    :param artifacts: files and folders, by the name that the model knows them by
    """
    digest = hashlib.sha256(python_model.read_bytes())
    for name, path in sorted(artifacts.items()):
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            inside = file.relative_to(path).as_posix() if path.is_dir() else ""
            digest.update(f"\0{name}\0{inside}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def pinned(name: str, *other_names: str) -> str:
    """Return a requirement with the version that is installed here, e.g. ``xgboost==3.2.0``.

    :param other_names: distributions that bring the same package, e.g. a build for CPUs alone
    :raises ConfigurationError: none of them is installed
    """
    for candidate in (name, *other_names):
        try:
            return f"{name}=={version(candidate).partition('+')[0]}"
        except PackageNotFoundError:
            continue
    raise ConfigurationError(f"{name} is not installed on the Ray cluster; add it to the image or the `runtime_env`")
