"""The MLflow connection."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from operators.core.errors import ConfigurationError, TaxiwayError
from operators.registry.client import Registry
from operators.registry.server import Server


class MlflowHook(BaseHook):
    """An MLflow tracking server and its model registry, over REST.

    Fields of a connection of type ``mlflow``:

    - ``host``: host name, or the whole address (``https://mlflow.example.com/path``)
    - ``schema``: ``https`` or ``http``, if ``host`` has none; default ``http``
    - ``port``: port of the server
    - ``login``, ``password``: user and password; a password without a user is a bearer token
    - ``extra``: ``tls_verify`` (false leaves the certificate unchecked), ``tls_ca_path`` (CA bundle on the worker)

    :param mlflow_conn_id: id of the connection. None reads the variables of MLflow's own client instead:
        ``MLFLOW_TRACKING_URI``, ``MLFLOW_TRACKING_TOKEN``, ``MLFLOW_TRACKING_USERNAME``,
        ``MLFLOW_TRACKING_PASSWORD``, ``MLFLOW_TRACKING_INSECURE_TLS`` and ``MLFLOW_TRACKING_SERVER_CERT_PATH``. So
        does the default id if no such connection is defined
    :param kwargs: arguments of Airflow's ``BaseHook``
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str | None = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id

    def server(self) -> Server:
        """Return address and credentials."""
        if self.mlflow_conn_id is None:
            return Server.from_environment()
        try:
            return server_of(self.get_connection(self.mlflow_conn_id))
        except AirflowNotFoundException:
            return self._without_connection()

    async def aserver(self) -> Server:
        """Return address and credentials, for triggers."""
        if self.mlflow_conn_id is None:
            return Server.from_environment()
        try:
            return server_of(await self.aget_connection(self.mlflow_conn_id))
        except AirflowNotFoundException:
            return self._without_connection()

    def _without_connection(self) -> Server:
        if self.mlflow_conn_id != self.default_conn_name:
            raise ConfigurationError(
                f"there is no Airflow connection {self.mlflow_conn_id!r}; add one of the type mlflow"
            )
        return Server.from_environment()

    def get_conn(self) -> Registry:
        """Return the registry."""
        return Registry(self.server())

    def test_connection(self) -> tuple[bool, str]:
        """Ask the registry for one model; for the button in Airflow's UI."""
        try:
            with closing(self.get_conn()) as registry:
                registry.health()
        except TaxiwayError as error:
            return False, str(error)
        return True, "MLflow answers, and its registry can be read"


def server_of(connection: Any) -> Server:
    """Read an Airflow connection.

    :raises ConfigurationError: it has no host
    """
    host = (connection.host or "").rstrip("/")
    if not host:
        raise ConfigurationError(
            f"the connection {connection.conn_id!r} has no host; write the address of the MLflow server there"
        )
    url = host if "://" in host else f"{connection.schema or 'http'}://{host}"
    scheme, _, rest = url.partition("://")
    netloc, slash, path = rest.partition("/")
    if connection.port and not netloc.rpartition(":")[2].isdigit():
        netloc = f"{netloc}:{connection.port}"
    extra = connection.extra_dejson
    user, password = connection.login or None, connection.password or None
    return Server.checked(
        url=f"{scheme}://{netloc}{slash}{path}",
        token=password if password and not user else None,
        username=user,
        password=password if user else None,
        verify=extra.get("tls_ca_path") or bool(extra.get("tls_verify", True)),
    )
