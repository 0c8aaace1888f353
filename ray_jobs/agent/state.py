"""What the agent must not forget: the routes, the versions before, and the edges that it knows."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from operators.core.errors import ConfigurationError
from operators.core.traffic import Closed, LeasedRoute
from ray_jobs.edge.files import write


class Bar(Closed):
    """A holder that was overruled: it cannot give this version traffic again.

    :param reason: who overruled it, and why
    """

    holder: str | None
    version: str
    reason: str


class HeldRoute(LeasedRoute):
    """A route and what the agent knows of it.

    :param ended: the lease has ended; nobody can renew it
    :param before: the version that was stable before the last promotion
    :param bar: set by a rollback
    """

    ended: bool = False
    before: str | None = None
    bar: Bar | None = None


class Retirement(Closed):
    """A version that is to be deleted once it has no more requests.

    :param by: unix seconds; it is deleted then, even if it still has requests
    :param generation: of the routes that no longer name it
    """

    model: str
    version: str
    by: float
    generation: int


class State(BaseModel):
    """The agent's state. Every change of the routes is a new generation.

    :param lineage: tells this agent's generations from those of another agent, whose files a machine may still have
    :param edges: id → address of every edge that may have callers
    :param retiring: application → what is to be deleted
    """

    model_config = ConfigDict(extra="forbid")

    lineage: str = Field(default_factory=lambda: secrets.token_hex(8))
    generation: int = 0
    held: dict[str, HeldRoute] = Field(default_factory=dict)
    edges: dict[str, str] = Field(default_factory=dict)
    retiring: dict[str, Retirement] = Field(default_factory=dict)

    def leased(self) -> dict[str, LeasedRoute]:
        """Return what the edges should have."""
        return {model: LeasedRoute(route=held.route, expires_at=held.expires_at) for model, held in self.held.items()}


class Store:
    """The state, kept in one file.

    ``moving`` is the lock for changes of routes: hold it from reading the state until the change is saved.

    :param path: the file
    :raises ConfigurationError: the file is not one that this class writes
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()
        self.moving = asyncio.Lock()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.state = State.model_validate_json(path.read_bytes()) if path.exists() else State()
        except ValidationError as error:
            raise ConfigurationError(
                f"{path} cannot be read: {error}. Move it away: the agent then takes over the routes of its edges"
            ) from error

    async def save(self) -> None:
        """Write the state; it is on disk when this returns. Later changes never reach the disk before earlier ones."""
        async with self._writing:
            text = self.state.model_dump_json(indent=1)
            await asyncio.to_thread(write, self._path, text)
