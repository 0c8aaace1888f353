"""The short way from a replica's HTTP server to its model.

Serve's own way wraps each request in tasks, contexts and metrics that nobody here reads: the edge counts, and limits what is
under way. It costs more than the model. So a request for a prediction is answered before it; all others (health checks,
metadata, errors) go on. The answer is the one that `Version.__call__` gives; without the short way everything works, slower.

Serve puts it in front because its setting `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` says so. When a replica stops, its HTTP
server first ends what is under way, whichever way that took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakMethod

from starlette.middleware import Middleware
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Infer = Callable[[bytes, Iterable[tuple[bytes, bytes]]], tuple[int, bytes, str]]
"""From a body and headers to a status, JSON, and the request's id."""

SETTING = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PATH = f"{__name__}:middlewares"

_here: WeakMethod[Infer] | None = None


def answer_by(infer: Infer) -> None:
    """Let a bound method answer in this process. Serve starts the HTTP server when the replica's constructor has run."""
    global _here
    _here = WeakMethod(infer)


def middlewares() -> list[Middleware]:
    """Return what Serve puts in front of an HTTP server: nothing where no version answers, in a proxy for example."""
    return [Middleware(FastPath, _here)] if _here is not None else []


class FastPath:
    """ASGI middleware that answers predictions before Serve's own code sees them.

    :param app: Serve's own way
    :param infer: returns what answers, or None if it has gone
    """

    def __init__(self, app: App, infer: Callable[[], Infer | None]) -> None:
        self._app = app
        self._infer = infer

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request for a prediction, and pass on everything else."""
        infer = self._infer() if is_inference(scope) else None
        if infer is None:
            await self._app(scope, receive, send)
            return
        body = await body_of(receive)
        if body is None:
            return
        status, answer, request_id = infer(body, scope["headers"])
        headers = [
            (b"content-length", b"%d" % len(answer)),
            (b"content-type", b"application/json"),
            (b"x-request-id", request_id.encode("latin-1")),
        ]
        with in_one_piece(send):
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": answer})


@contextmanager
def in_one_piece(send: Send) -> Iterator[None]:
    """Let uvicorn's answer leave at once. It writes head and body one by one, and each costs every hop on the way a wake-up.

    Where `send` is not uvicorn's, nothing happens.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        yield
        return
    transport = cycle.transport
    held = Held(transport)
    cycle.transport = held  # type: ignore[assignment]  # it is one as far as a cycle needs it
    try:
        yield
    finally:
        cycle.transport = transport
        held.release()


class Held:
    """A transport that keeps what is written until `release`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep the data until `release`."""
        self._parts.append(data)

    def release(self) -> None:
        """Write what was kept."""
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()

    def close(self) -> None:
        """Write what was kept and close."""
        self.release()
        self._transport.close()

    def is_closing(self) -> bool:
        """Ask the transport."""
        return self._transport.is_closing()


def is_inference(scope: Message) -> bool:
    """Tell whether a request asks for a prediction."""
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/infer")


async def body_of(receive: Receive) -> bytes | None:
    """Return the body of a request, or None if the caller has gone."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
    return None
