"""HTTP to the services: time-outs, tokens, and whether a retry can help after a failure."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from operators.core.errors import ConfigurationError, ServiceError, ServiceRefusedError

DEFAULT_TIMEOUT_S = 15.0
CONNECTIONS = 64


def client(
    base_url: str, *, token: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S, verify: bool | str = True
) -> httpx.Client:
    """Return a client that keeps its connections open and tries twice more if it cannot connect.

    :param verify: whether TLS certificates are checked; a path: against the certificates in this file
    """
    transport = httpx.HTTPTransport(retries=2, verify=_trust(verify))
    return httpx.Client(base_url=base_url, headers=_headers(token), timeout=timeout_s, transport=transport)


def async_client(
    base_url: str, *, token: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S, verify: bool | str = True
) -> httpx.AsyncClient:
    """Return the same client for triggers, which must not block the event loop."""
    # All open connections are kept. Otherwise a thousand waits that share a client would connect again for nearly every request.
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    transport = httpx.AsyncHTTPTransport(retries=2, verify=_trust(verify), limits=limits)
    return httpx.AsyncClient(base_url=base_url, headers=_headers(token), timeout=timeout_s, transport=transport)


def _trust(verify: bool | str) -> ssl.SSLContext | bool:
    if not isinstance(verify, str):
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise ConfigurationError(f"the file of certificates {verify} cannot be read: {error}") from None


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def answer(response: httpx.Response, service: str) -> Any:
    """Return the JSON of an answer.

    :param service: name for the message, e.g. "the agent"
    :raises ServiceRefusedError: a 4xx: asking again will not help
    :raises ServiceError: a 5xx, or no JSON
    """
    what = require_success(response, service)
    try:
        return response.json()
    except ValueError:
        raise ServiceError(f"{what} without JSON: {response.text[:200]}") from None


def require_success(response: httpx.Response, service: str) -> str:
    """Do nothing but describe the request, unless the answer is a failure.

    :returns: who answered what, for another message

    :raises ServiceRefusedError: a 4xx: asking again will not help
    :raises ServiceError: a 5xx
    """
    request = response.request
    where = f"{request.url.scheme}://{request.url.netloc.decode()}"  # without user and password
    what = f"{service} at {where} answered {request.method} {request.url.path}"
    if response.status_code >= 500:
        raise ServiceError(f"{what} with {response.status_code}: {response.text[:500]}")
    if response.status_code >= 400:
        raise ServiceRefusedError(f"{what} with {response.status_code}: {response.text[:500]}")
    return what


def unreachable(service: str, error: httpx.HTTPError) -> ServiceError:
    """Return the error of a service that could not be reached."""
    return ServiceError(f"{service} did not answer: {type(error).__name__}: {error}")
