"""The services that a command uses: those of the caller's environment, or else those of the stack on this machine."""

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
    """Put the addresses of the running stack into the environment, unless it has addresses already.

    :raises ConfigurationError: it has none, and no stack runs
    """
    if not os.environ.get("TAXIWAY_LEDGER_URL"):
        os.environ.update(environment.services(Stack.running()))


def ledger() -> Ledger:
    """Open the ledger."""
    from operators.core.ledger import Ledger

    use_stack()
    return Ledger(setting("TAXIWAY_LEDGER_URL", "SQLAlchemy URL of the ledger's PostgreSQL database"))


def model_traffic(model: str) -> ModelTraffic:
    """Connect to the ledger, the registry and the agent for one model."""
    from operators.rollout.model_traffic import ModelTraffic

    use_stack()
    return ModelTraffic(model)


def actor() -> str:
    """Return the name of the user who runs this command, for the ledger."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return f"uid {os.getuid()}"


def require_reason(text: str) -> str:
    """Return a reason without spaces around it.

    :raises ConfigurationError: it has fewer than three characters
    """
    if len(text.strip()) < 3:
        raise ConfigurationError("--reason is too short; it is kept in the ledger, so say why in a few words")
    return text.strip()
