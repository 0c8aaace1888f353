"""Extras of the package: what ``pip install taxiway`` leaves out, and some commands and tasks need."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Literal

from operators.core.errors import ConfigurationError

Extra = Literal["ray", "mlflow", "gx", "cpu", "gpu", "torch", "kubernetes", "slack", "local"]


def require(extra: Extra, *modules: str, purpose: str) -> None:
    """Check that an extra is installed, without importing it.

    :param modules: what it brings and the caller imports next
    :param purpose: what needs them, as the subject of the message
    :raises ConfigurationError: one of them is missing; the message names the extra to install
    """
    if missing := [module for module in modules if not _installed(module)]:
        raise ConfigurationError(
            f"{purpose} needs the extra `{extra}`: pip install 'taxiway[{extra}]' (not installed: {', '.join(missing)})"
        )


def _installed(module: str) -> bool:
    if sys.modules.get(module) is not None:
        return True
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False
