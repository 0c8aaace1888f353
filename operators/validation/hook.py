"""Airflow's connections to databases and to GX Cloud."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from airflow.sdk import BaseHook

from operators.core.errors import ConfigurationError

# psycopg 3, because a Python signal, e.g. of a time-out, interrupts its waits; those of psycopg2 it does not.
_POSTGRES, _SQLITE = "postgresql+psycopg", "sqlite"
_POSTGRES_OPTIONS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "application_name")


def database_url(conn_id: str, database: str | None = None) -> sa.URL:
    """Return SQLAlchemy's URL of a connection. Its ``repr`` and ``str`` hide the password.

    PostgreSQL and SQLite need no provider package. Other databases need theirs, because its hook knows the URL.

    :param database: database in place of the connection's
    :raises ConfigurationError: the type of the connection is no database, or its provider is missing
    """
    connection = BaseHook.get_connection(conn_id)
    if connection.conn_type in ("postgres", "postgresql"):
        extra = connection.extra_dejson
        return sa.URL.create(
            _POSTGRES,
            connection.login,
            connection.password,
            connection.host,
            connection.port,
            database or connection.schema,
            {key: str(extra[key]) for key in _POSTGRES_OPTIONS if key in extra},
        )
    if connection.conn_type == "sqlite":
        return sa.URL.create(_SQLITE, database=database or connection.host)
    return _provider_url(conn_id, connection)


def _provider_url(conn_id: str, connection: Any) -> sa.URL:
    try:
        url = connection.get_hook().sqlalchemy_url
    except Exception as error:  # noqa: BLE001 - a provider may be missing, or know no URL, and says so in its own way
        raise ConfigurationError(
            f"the connection {conn_id!r} of type {connection.conn_type!r} gives no database URL ({type(error).__name__}): "
            "install the provider of this type, or use a connection of type postgres or sqlite"
        ) from None
    return sa.make_url(url)


def gx_cloud(conn_id: str) -> dict[str, str]:
    """Return the arguments of GX Cloud for `great_expectations.get_context`.

    :param conn_id: login: the organization, password: the access token, schema: the workspace
    :raises ConfigurationError: one of them is missing
    """
    connection = BaseHook.get_connection(conn_id)
    values = {
        "cloud_organization_id": connection.login,
        "cloud_access_token": connection.password,
        "cloud_workspace_id": connection.schema,
    }
    if missing := [name for name, value in values.items() if not value]:
        raise ConfigurationError(
            f"the connection {conn_id!r} lacks {', '.join(missing)}: login is the organization's id, password the access "
            "token, schema the workspace's id"
        )
    return {name: str(value) for name, value in values.items()}
