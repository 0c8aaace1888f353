"""The agent's HTTP server, in a thread of its own: HTTP, event loop and agent start and stop together."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable

import uvicorn

from operators.core.errors import ServiceError
from ray_jobs.agent.agent import Agent
from ray_jobs.agent.api import application
from ray_jobs.agent.auth import Admission

_LISTEN_S = 30.0


def listen(host: str, port: int, patience_s: float = _LISTEN_S) -> socket.socket:
    """Return a socket that listens. Wait if the agent before this one still has the port.

    :raises ServiceError: the port stays taken
    """
    deadline = time.monotonic() + patience_s
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            if time.monotonic() > deadline:
                raise ServiceError(f"the agent could not listen on {host}:{port}: {error}") from error
            time.sleep(0.1)


class Server:
    """Serves one agent until it is stopped.

    :param make: creates the agent, on the server's event loop
    :param at: a listening socket
    :param token: the API's token
    """

    def __init__(self, make: Callable[[], Agent], at: socket.socket, token: str) -> None:
        self._make, self._at, self._token = make, at, token
        self._failed: BaseException | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="agent", daemon=True)
        self._server: uvicorn.Server | None = None

    def start(self) -> None:
        """Return once it answers.

        :raises ServiceError: it does not answer in time
        """
        self._thread.start()
        if not self._up.wait(_LISTEN_S) or self._failed is not None:
            raise ServiceError(f"the agent did not come up: {self._failed or 'it took too long'}") from self._failed

    def stop(self) -> None:
        """End it; open requests get a second."""
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(10)

    async def _run(self) -> None:
        try:
            agent = self._make()
            config = uvicorn.Config(
                Admission(application(agent), token=self._token),
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
                limit_concurrency=512,
            )
            self._server = uvicorn.Server(config)
            chores = asyncio.create_task(agent.look_after())
            asyncio.get_running_loop().call_soon(self._up.set)
            await self._server.serve(sockets=[self._at])
            chores.cancel()
        except BaseException as error:
            self._failed = error
            self._up.set()
            raise
