"""Where a model comes from: the commit and the content of its code, and the versions of the packages that it needs."""

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
    """Return ``TAXIWAY_CODE_COMMIT`` or, if it is not set, the commit of the checkout around a file, else ``unknown``."""
    if given := os.environ.get("TAXIWAY_CODE_COMMIT"):
        return given
    command = ["git", "-C", str(file.resolve().parent), "rev-parse", "HEAD"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):  # git is not installed, or hangs
        return "unknown"
    return git.stdout.strip() if git.returncode == 0 else "unknown"


def code_digest(file: Path) -> str:
    """Return the SHA-256 of a file of code."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def model_digest(python_model: Path, artifacts: Mapping[str, Path]) -> str:
    """Return the SHA-256 of all files of a model. The same bytes are the same model, whatever its number in the registry.

    :param python_model: the file that MLflow runs
    :param artifacts: files and folders, by the names under which the model asks for them
    """
    digest = hashlib.sha256(python_model.read_bytes())
    for name, path in sorted(artifacts.items()):
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            inside = file.relative_to(path).as_posix() if path.is_dir() else ""
            digest.update(f"\0{name}\0{inside}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as content:
                hashlib.file_digest(content, lambda: digest)
    return digest.hexdigest()


def pinned(name: str, *other_names: str) -> str:
    """Return a requirement with the version that is installed here, e.g. ``xgboost==3.2.0``.

    :param other_names: other distributions of the same package, e.g. a build for CPUs only
    :raises ConfigurationError: none of them is installed
    """
    for candidate in (name, *other_names):
        try:
            return f"{name}=={version(candidate).partition('+')[0]}"
        except PackageNotFoundError:
            continue
    raise ConfigurationError(f"{name} is not installed on the Ray cluster; add it to the image or the `runtime_env`")
