"""A DuckDB connection whose query a time-out or a kill can end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


class QueryInterrupted(BaseException):
    """The connection was interrupted. It is no Exception, because Great Expectations catches those and goes on."""


class InterruptibleDuckDB:
    """Run DuckDB's queries in a thread, so that the main thread is free for signals.

    If a signal handler raises while DuckDB runs a query in the main thread, DuckDB takes it for an error of the query and still
    finishes the query. Here the exception reaches the caller, and the query is interrupted.

    :param db: an open connection
    """

    def __init__(self, db: Any) -> None:
        self._db = db

    def execute(self, statement: str) -> None:
        """Run a statement that has no rows."""
        self.run(lambda db: db.execute(statement))

    def rows(self, statement: str, parameters: Any = None) -> list[Any]:
        """Run a statement and return its rows."""
        rows: list[Any] = self.run(lambda db: db.execute(statement, parameters or []).fetchall())
        return rows

    def run(self, work: Callable[[Any], T]) -> T:
        """Do some work with the connection.

        :raises QueryInterrupted: `interrupt` was called
        """
        import duckdb

        future: Future[T] = Future()

        def target() -> None:
            try:
                future.set_result(work(self._db))
            except BaseException as error:  # noqa: BLE001 - it is raised in the caller
                future.set_exception(error)

        thread = Thread(target=target, name="duckdb", daemon=True)
        thread.start()
        try:
            return future.result()
        except duckdb.InterruptException as error:
            raise QueryInterrupted("the query was interrupted") from error
        finally:
            if not future.done():
                self._db.interrupt()
            thread.join()

    def interrupt(self) -> None:
        """End the query that runs, if one does."""
        self._db.interrupt()

    def register(self, name: str, table: Any) -> None:
        """Give an Arrow table a name."""
        self._db.register(name, table)

    def unregister(self, name: str) -> None:
        """Forget the name."""
        self._db.unregister(name)
