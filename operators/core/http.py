"""HTTP to the services: one place for time-outs, tokens, and what an answer means for a retry."""

from __future__ import annotations

from typing import Any

import httpx

from operators.core.errors import ServiceError, ServiceRefusedError

DEFAULT_TIMEOUT_S = 15.0


def client(base_url: str, *, token: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> httpx.Client:
    """Return a client that keeps its connections and retries a connection that could not be made."""
    return httpx.Client(
        base_url=base_url, headers=_headers(token), timeout=timeout_s, transport=httpx.HTTPTransport(retries=2)
    )


def async_client(base_url: str, *, token: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> httpx.AsyncClient:
    """Return the same for triggers, which must never block their event loop."""
    return httpx.AsyncClient(
        base_url=base_url, headers=_headers(token), timeout=timeout_s, transport=httpx.AsyncHTTPTransport(retries=2)
    )


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def answer(response: httpx.Response, service: str) -> Any:
    """Return the JSON of an answer.

    :param service: name for the message, e.g. "the agent"
    :raises ServiceRefusedError: a 4xx: asking again will not help
    :raises ServiceError: a 5xx, or no JSON
    """
    request = response.request
    what = f"{service} at {request.url.scheme}://{request.url.netloc.decode()} answered {request.method} {request.url.path}"
    if response.status_code >= 500:
        raise ServiceError(f"{what} with {response.status_code}: {response.text[:500]}")
    if response.status_code >= 400:
        raise ServiceRefusedError(f"{what} with {response.status_code}: {response.text[:500]}")
    try:
        return response.json()
    except ValueError:
        raise ServiceError(f"{what} without JSON: {response.text[:200]}") from None


def unreachable(service: str, error: httpx.HTTPError) -> ServiceError:
    """Turn a transport failure into an error that says which service and where."""
    return ServiceError(f"{service} did not answer: {type(error).__name__}: {error}")
