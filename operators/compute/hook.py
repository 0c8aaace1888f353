"""The Airflow connection type `ray`: address of a cluster's dashboard, token and TLS."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import BaseHook

from operators.compute.address import RayAddress
from operators.compute.policy import redirecting
from operators.core.errors import ConfigurationError
from operators.core.settings import setting

DEFAULT_CONN_ID = "ray_default"


class RayHook(BaseHook):
    """Reach a Ray cluster by an Airflow connection of type ``ray``.

    Host and port of the connection are the dashboard's; the password is the cluster's token (Ray's
    ``RAY_AUTH_TOKEN``). Extra fields: ``tls``, ``verify``, ``ca_path``, ``token_path``, ``dashboard_url``.

    :param ray_conn_id: id of the connection. None uses the cluster of ``TAXIWAY_RAY_URL`` with the token of
        ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH``
    :param address: address of another dashboard, for a cluster that the DAG creates; token and TLS are still the
        connection's
    :param token_path: file with the token, in place of the connection's
    """

    conn_name_attr = "ray_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "ray"
    hook_name = "Ray"

    def __init__(
        self, ray_conn_id: str | None = DEFAULT_CONN_ID, *, address: str | None = None, token_path: str | None = None
    ) -> None:
        super().__init__()
        self.ray_conn_id = ray_conn_id
        self.address = address
        self.token_path = token_path

    def get_conn(self) -> Any:
        """Return a `RayJobs` client."""
        from operators.compute.client import RayJobs

        return RayJobs(self.resolve())

    def resolve(self) -> RayAddress:
        """Return where the cluster is.

        :raises ConfigurationError: the connection is wrong, or the environment would redirect Ray's clients elsewhere
        """
        return self._checked(self.get_connection(self.ray_conn_id) if self._needs_connection else None)

    async def aresolve(self) -> RayAddress:
        """Return the same, without blocking a trigger's event loop."""
        return self._checked(await self.aget_connection(self.ray_conn_id) if self._needs_connection else None)

    @property
    def _needs_connection(self) -> bool:
        return self.ray_conn_id is not None and not (self.address and self.token_path)

    def _checked(self, connection: Any) -> RayAddress:
        address = self._of_environment() if connection is None else self._of_connection(connection)
        if self.address:
            address = RayAddress(self.address.rstrip("/"), address.token, address.verify)
        if astray := redirecting(os.environ, address.url):
            raise ConfigurationError(
                f"{' and '.join(astray)} would send Ray's clients to another cluster than {address.url}, the address of the "
                f"connection {self.ray_conn_id!r}. Unset it in the environment of workers and triggerers"
            )
        return address

    def _of_environment(self) -> RayAddress:
        url = self.address or setting("TAXIWAY_RAY_URL", "address of the Ray dashboard and its job API")
        if self.token_path:
            return RayAddress(url.rstrip("/"), _read_token(self.token_path, "token_path"))
        token = os.environ.get("RAY_AUTH_TOKEN") or _read_token(
            os.environ.get("RAY_AUTH_TOKEN_PATH"), "RAY_AUTH_TOKEN_PATH"
        )
        return RayAddress(url.rstrip("/"), token)

    def _of_connection(self, connection: Any) -> RayAddress:
        extra = connection.extra_dejson
        host = (connection.host or "").rstrip("/")
        if not host and not self.address:
            raise ConfigurationError(
                f"the connection {self.ray_conn_id!r} has no host; write the Ray dashboard's, e.g. http://ray-head, and port 8265"
            )
        parts = urlsplit(host if "://" in host else f"//{host}")
        if parts.scheme not in ("", "http", "https"):
            raise ConfigurationError(
                f"the connection {self.ray_conn_id!r} has the host {host!r}; write the address of the dashboard, with http:// or "
                "https://, not the address for Ray's own clients"
            )
        scheme = parts.scheme or ("https" if extra.get("tls") else "http")
        port = connection.port or parts.port
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        url = f"{scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
        verify: bool | str = extra.get("ca_path") or extra.get("verify") is not False
        path = self.token_path or extra.get("token_path")
        token = _read_token(path, f"token_path of the connection {self.ray_conn_id!r}") or connection.password
        return RayAddress(url, token, verify, str(extra.get("dashboard_url") or "").rstrip("/"))

    def test_connection(self) -> tuple[bool, str]:
        """Ask for a job, which needs the token, and return Ray's version."""
        try:
            return True, f"Ray {self.get_conn().version()} answers"
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the person who pressed the button wants to read it
            return False, str(error)


def _read_token(path: str | None, where: str) -> str | None:
    if not path:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        raise ConfigurationError(f"{where}: {path} cannot be read: {error.strerror}") from None
