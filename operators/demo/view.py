"""What the demo prints: a line for each event and, on a terminal, a status line below them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_PLAIN_COLUMNS = 160  # without a terminal there is no width to ask for


class View:
    """Prints events; without a terminal, in plain lines.

    :param status: returns the text of the status line
    """

    def __init__(self, status: Callable[[], str]) -> None:
        terminal = sys.stdout.isatty()
        self._console = Console(highlight=False, soft_wrap=True, width=None if terminal else _PLAIN_COLUMNS)
        self._status = status
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._line, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _line(self) -> Text:
        return Text(f"{self._clock()} ▸ {self._status()}", style="cyan")

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def event(self, text: str, *, style: str = "") -> None:
        """Print one line."""
        shown = f"[{style}]{escape(text)}[/]" if style else escape(text)
        self._console.print(f"[dim]{self._clock():>5}[/]  {shown}")

    def heading(self, text: str) -> None:
        """Print the title of an act."""
        self._console.print()
        self.event(text, style="bold")

    def text(self, text: str) -> None:
        """Print as it is."""
        self._console.print(escape(text))

    def table(self, title: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Print a table."""
        table = Table(title=title, title_justify="left", header_style="bold")
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        self._console.print()
        self._console.print(table)
