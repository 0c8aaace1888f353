"""What a command needs to reach the services: the caller's environment or, without one, the stack that runs here."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from operators.core.errors import ConfigurationError
from operators.core.settings import setting
from operators.stack import environment
from operators.stack.config import Stack

if TYPE_CHECKING:
    from operators.core.ledger import Ledger
    from operators.rollout.model_traffic import ModelTraffic


def use_stack() -> None:
    """Take the addresses of the running stack, unless the environment has some.

    :raises ConfigurationError: there are neither
    """
    if os.environ.get("TAXIWAY_LEDGER_URL"):
        return
    os.environ.update(environment.services(Stack.running()))


def ledger() -> Ledger:
    """Open the ledger."""
    from operators.core.ledger import Ledger

    use_stack()
    return Ledger(setting("TAXIWAY_LEDGER_URL", "SQLAlchemy URL of the ledger's PostgreSQL database"))


def model_traffic(model: str) -> ModelTraffic:
    """Connect to a model's ledger, versions and route."""
    from operators.rollout.model_traffic import ModelTraffic

    use_stack()
    return ModelTraffic(model)


def actor() -> str:
    """Return who runs this command, for the ledger."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def require_reason(text: str) -> str:
    """Return a reason that says something.

    :raises ConfigurationError: it does not
    """
    if len(text.strip()) < 3:
        raise ConfigurationError("--reason is kept in the ledger: say in a few words why")
    return text.strip()
