"""Where a model came from: the code's commit and content, and the versions of what it needs."""

from __future__ import annotations

import hashlib
import os
import subprocess
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
