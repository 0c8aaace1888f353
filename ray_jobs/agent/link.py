"""The keeper's connection to the agent."""

from __future__ import annotations

import http.client
from urllib.parse import quote, urlsplit

from operators.core.errors import ConfigurationError, ServiceError, ServiceRefusedError
from ray_jobs.agent.wire import Orders, Report

_TIMEOUT_S = 5.0


class Link:
    """One connection that is kept open. For one thread.

    :param url: where the agent listens
    :param token: of its API
    :param edge: id of the keeper's edge
    """

    def __init__(self, url: str, token: str, edge: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"the agent's address must be http://host:port, not {url!r}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=_TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._path = f"{parts.path.rstrip('/')}/v1/edges/{quote(edge, safe='')}/sync"
        self._url = url

    def sync(self, report: Report) -> Orders:
        """Report the edge's state to the agent, and return what the edge should have.

        :raises ServiceRefusedError: the agent refuses the report
        :raises ServiceError: the agent does not answer
        """
        try:
            self._connection.request("POST", self._path, report.model_dump_json().encode(), self._headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServiceError(f"the agent at {self._url} does not answer: {error}") from error
        if answer.status != http.HTTPStatus.OK:
            self._connection.close()
            kind = ServiceRefusedError if answer.status < 500 else ServiceError
            raise kind(f"the agent at {self._url} answered {answer.status}: {body[:300].decode(errors='replace')}")
        return Orders.model_validate_json(body)
