"""The fast path from a replica's HTTP server to its model.

Serve wraps each request in tasks, contexts and metrics, which cost more time than the model. Nobody here reads them: the edge
counts requests and limits how many are under way. So the fast path answers requests for predictions before Serve sees them, and
passes on all others (health checks, metadata, errors). Its answers are those of `Version.__call__`. Without the fast path
everything works, but slower.

Serve installs it because the setting `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it. When a replica stops, its HTTP server
first ends the requests under way, on the fast path too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakMethod

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

Infer = Callable[[bytes, Iterable[tuple[bytes, bytes]]], tuple[int, bytes, str]]
"""Takes a body and headers; returns a status, JSON and the request's id."""

SETTING = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PATH = f"{__name__}:middlewares"

_here: WeakMethod[Infer] | None = None


def answer_by(infer: Infer) -> None:
    """Let a bound method answer in this process. Call it in the replica's constructor: the HTTP server starts later."""
    global _here
    _here = WeakMethod(infer)


def middlewares() -> list[Middleware]:
    """Return the middleware for a process that has a version, and none for other processes, such as a proxy."""
    return [Middleware(FastPath, _here)] if _here is not None else []


class FastPath:
    """ASGI middleware that answers requests for predictions before Serve's own code sees them.

    :param app: Serve's own code
    :param infer: returns the version's method, or None if the version has gone
    """

    def __init__(self, app: ASGIApp, infer: Callable[[], Infer | None]) -> None:
        self._app = app
        self._infer = infer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a prediction; pass on any other."""
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
    """Send head and body of uvicorn's answer in one write. Two writes would wake up every hop on the way twice.

    If `send` is not uvicorn's, nothing changes.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        yield
        return
    transport = cycle.transport
    buffered = BufferedTransport(transport)
    cycle.transport = buffered  # type: ignore[assignment]  # it has what a cycle needs of a transport
    try:
        yield
    finally:
        cycle.transport = transport
        buffered.release()


class BufferedTransport:
    """A transport that buffers what is written until `release`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Buffer the data."""
        self._parts.append(data)

    def release(self) -> None:
        """Write the buffer."""
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()

    def close(self) -> None:
        """Write the buffer, then close."""
        self.release()
        self._transport.close()

    def is_closing(self) -> bool:
        """Say whether the transport is closing."""
        return self._transport.is_closing()


def is_inference(scope: Scope) -> bool:
    """Say whether a request asks for a prediction."""
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/infer")


async def body_of(receive: Receive) -> bytes | None:
    """Return the body of a request, or None if the caller has gone."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
    return None
