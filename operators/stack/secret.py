"""The stack's secrets: generated once, kept in one file that only its owner reads, never in a command line or a log."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from operators.core.errors import ConfigurationError


@dataclass(frozen=True)
class Secrets:
    """One value each; ``repr`` shows none. ``stack_id`` is no secret: it marks this stack's processes."""

    stack_id: str = field(default_factory=lambda: secrets.token_hex(8))
    postgres_password: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    s3_access_key: str = field(default_factory=lambda: secrets.token_hex(10))
    s3_secret_key: str = field(default_factory=lambda: secrets.token_hex(20))
    ray_token: str = field(default_factory=lambda: secrets.token_hex(32))
    agent_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    airflow_password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    airflow_jwt_secret: str = field(default_factory=lambda: secrets.token_hex(32))
    airflow_api_secret: str = field(default_factory=lambda: secrets.token_hex(32))
    airflow_fernet_key: str = field(default_factory=lambda: base64.urlsafe_b64encode(os.urandom(32)).decode())

    def __repr__(self) -> str:
        return f"Secrets({self.stack_id})"


def load(path: Path) -> Secrets:
    """Read the file, or generate it. A secret that the file does not have yet is generated, too.

    :raises ConfigurationError: the file is damaged
    """
    known: dict[str, str] = {}
    if path.exists():
        try:
            known = json.loads(path.read_text())
            loaded = Secrets(**known)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{path} is damaged ({error}); move it away, and new secrets are generated"
            ) from None
    else:
        loaded = Secrets()
    if asdict(loaded) != known:
        write_private(path, json.dumps(asdict(loaded), indent=1))
    return loaded


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file in one step. Nobody but its owner can read it, from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    temporary.replace(path)
