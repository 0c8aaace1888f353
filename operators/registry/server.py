"""Address and credentials of an MLflow server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import httpx
from pydantic import SecretStr, ValidationError, model_validator

from operators.core.errors import ConfigurationError, ServiceError, ServiceRefusedError
from operators.core.frozen import Frozen
from operators.core.http import answer, async_client, client
from operators.core.settings import setting
from operators.registry.entities import SERVICE

_TIMEOUT_S = 30.0
_TRY_AGAIN = (408, 429)


class Server(Frozen):
    """Address and credentials of a tracking server; ``repr`` hides the secrets.

    :param url: e.g. ``https://mlflow.example.com``
    :param token: bearer token; goes before ``username`` and ``password``
    :param verify: whether to check the server's certificate, or the path of the CA bundle to check it with
    """

    url: str
    token: SecretStr | None = None
    username: str | None = None
    password: SecretStr | None = None
    verify: bool | str = True

    @model_validator(mode="before")
    @classmethod
    def _without_userinfo(cls, values: Any) -> Any:
        """Take user and password out of the address: it is shown in links and messages."""
        parts = urlsplit(values["url"])
        if parts.scheme not in ("http", "https") or not parts.hostname:
            # Not shown: it may have a password in it.
            raise ValueError("the address of the MLflow server must begin with http:// or https:// and name a host")
        if "@" not in parts.netloc:
            return values
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return {
            "username": user,
            "password": password,
            **{k: v for k, v in values.items() if v is not None},
            "url": shown,
        }

    @classmethod
    def from_environment(cls) -> Self:
        """Read the variables that MLflow's own client reads.

        :raises ConfigurationError: ``MLFLOW_TRACKING_URI`` is not set
        """
        env = os.environ
        insecure = env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
        return cls.checked(
            url=setting("MLFLOW_TRACKING_URI", "address of the MLflow tracking server"),
            token=env.get("MLFLOW_TRACKING_TOKEN") or None,
            username=env.get("MLFLOW_TRACKING_USERNAME") or None,
            password=env.get("MLFLOW_TRACKING_PASSWORD") or None,
            verify=False if insecure else env.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True,
        )

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Return a server.

        :raises ConfigurationError: the values make none; the message does not repeat them
        """
        try:
            return cls(**values)
        except ValidationError as error:
            reasons = "; ".join(problem["msg"] for problem in error.errors(include_input=False))
            raise ConfigurationError(f"the address or the credentials of MLflow are wrong: {reasons}") from None

    def client(self) -> httpx.Client:
        """Return a client for tasks."""
        http = client(self.url, token=self._token(), timeout_s=_TIMEOUT_S, verify=self.verify)
        http.auth = self._login()
        return http

    def async_client(self) -> httpx.AsyncClient:
        """Return a client for triggers."""
        http = async_client(self.url, token=self._token(), timeout_s=_TIMEOUT_S, verify=self.verify)
        http.auth = self._login()
        return http

    def page(self, model: str, version: str) -> str:
        """Return the address of a version in MLflow's UI."""
        return f"{self.url.rstrip('/')}/#/models/{model}/versions/{version}"

    def _token(self) -> str | None:
        return self.token.get_secret_value() if self.token else None

    def _login(self) -> httpx.Auth:
        if self.token or not self.username:
            return httpx.Auth()  # adds nothing
        return httpx.BasicAuth(self.username, self.password.get_secret_value() if self.password else "")


def request(method: str, path: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an httpx request to the REST API."""
    sent: dict[str, Any] = {"params": values} if method == "GET" else {"json": values}
    return {"method": method, "url": f"/api/2.0/mlflow/{path}", **sent}


def read(response: httpx.Response) -> Any:
    """Return the JSON of an answer, with advice where MLflow's own words do not help.

    :raises ServiceRefusedError: asking again will not help
    :raises ServiceError: it may
    """
    if response.status_code in _TRY_AGAIN:
        raise ServiceError(f"{SERVICE} is too busy ({response.status_code}): {response.text[:200]}")
    if response.status_code == 403 and "Host header" in response.text:
        host = response.request.url.netloc.decode()
        raise ServiceRefusedError(
            f"{SERVICE} refuses requests to the host name {host}: start it with `--allowed-hosts {host}`"
        )
    return answer(response, SERVICE)


def is_missing(error: ServiceRefusedError) -> bool:
    """Say whether MLflow means that there is no such model, version, alias or run."""
    text = str(error)
    # An alias that is not there is an invalid parameter to MLflow.
    return "RESOURCE_DOES_NOT_EXIST" in text or ("INVALID_PARAMETER_VALUE" in text and "not found" in text)


def newer_than(model: str, version: int) -> str:
    """Return the search filter of a model's versions above a number."""
    return f"{is_called(model)} AND version_number > {version}"


def is_called(model: str) -> str:
    """Return the search filter of a model's versions."""
    return f"name = {quoted(model)}"


def quoted(text: str) -> str:
    """Return a text as MLflow's search filters write it.

    :raises ConfigurationError: it has both kinds of quotes; the filters have no way to escape one
    """
    if "'" in text and '"' in text:
        raise ConfigurationError(f"MLflow cannot search for {text!r}: it has both kinds of quotes; use another name")
    quote = '"' if "'" in text else "'"
    return f"{quote}{text}{quote}"
