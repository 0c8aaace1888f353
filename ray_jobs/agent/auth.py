"""Admission to the API: the token, the size of the body, the time that an answer may take. Plain ASGI."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

OPEN_PATHS = frozenset({"/v1/health/live"})
BODY_BYTES = 1_048_576
ANSWER_S = 30.0

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class _TooLargeError(Exception):
    pass


class Admission:
    """Passes requests with the right token on, and refuses all others.

    :param app: the application behind it
    :param token: the API's only token
    :param body_bytes: a larger body is refused
    :param answer_s: a request that takes longer, with the reading of its body, is refused
    :raises ValueError: the token is empty, so everybody would be let in
    """

    def __init__(self, app: _App, *, token: str, body_bytes: int = BODY_BYTES, answer_s: float = ANSWER_S) -> None:
        if not token:
            raise ValueError("the agent needs a token that is not empty; set TAXIWAY_AGENT_TOKEN")
        self._app, self._token = app, token.encode()
        self._body_bytes, self._answer_s = body_bytes, answer_s

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN_PATHS and not self._knows(headers.get(b"authorization", b"")):
            problem = "a valid token is required: send the header `Authorization: Bearer $TAXIWAY_AGENT_TOKEN`"
            await _answer(send, 401, problem, [(b"www-authenticate", b"Bearer")])
            return
        too_large = f"the body is larger than {self._body_bytes} bytes, which is the limit"
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._body_bytes:
            await _answer(send, 413, too_large, [(b"connection", b"close")])
            return
        answer = _OneAnswer(send)
        try:
            await asyncio.wait_for(self._app(scope, self._limited(receive, answer, too_large), answer), self._answer_s)
        except _TooLargeError:
            await answer.refuse(413, too_large)
        except TimeoutError:
            slow = f"{scope['path']} took longer than {self._answer_s:g} s: Ray or an edge is slow; try again"
            await answer.refuse(503, slow)

    def _knows(self, header: bytes) -> bool:
        scheme, _, given = header.partition(b" ")
        return hmac.compare_digest(given, self._token) and scheme.lower() == b"bearer"

    def _limited(self, receive: _Receive, answer: _OneAnswer, problem: str) -> _Receive:
        taken = 0

        async def limited() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._body_bytes:
                await answer.refuse(413, problem)  # the code that reads the body may swallow the exception
                raise _TooLargeError
            return message

        return limited


class _OneAnswer:
    """Lets the first answer through, and nothing after a refusal."""

    def __init__(self, send: _Send) -> None:
        self._send, self._began, self._refused = send, False, False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if not self._refused:
            self._began = True
            await self._send(message)

    async def refuse(self, status: int, problem: str) -> None:
        if not self._began and not self._refused:
            self._refused = True
            await _answer(self._send, status, problem, [(b"connection", b"close")])


async def _answer(send: _Send, status: int, problem: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps({"error": problem}).encode()
    common = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*common, *headers]})
    await send({"type": "http.response.body", "body": body})
