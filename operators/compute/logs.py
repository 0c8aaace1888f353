"""Copies a job's log into the task's log, line by line, within limits of rate, size and memory."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from operators.compute import reports

LINES_PER_S = 200
BYTES_PER_S = 64 * 1024
BURST_S = 10.0  # after a pause a job may log as much at once as in this time
LIMIT_BYTES = 20 * 1024 * 1024  # of one job in one task's log
_LINE_BYTES = 4 * 1024  # shown of one line
_PENDING_BYTES = 2 * reports.MAX_RESULT_BYTES  # kept of a line that has not ended
_MARK = reports.MARK.encode()
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def _text(line: bytes | bytearray) -> str:
    """Return a line as a terminal would show it: without colours, and only what follows the last carriage return."""
    return _ANSI.sub("", line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2])


class Budget:
    """A token bucket for lines and bytes, and a limit for the whole log. Lines beyond it are counted, not copied."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._lines: float = LINES_PER_S * BURST_S
        self._bytes: float = BYTES_PER_S * BURST_S
        self._left = LIMIT_BYTES

    @property
    def has_room(self) -> bool:
        """Whether an ordinary line may be copied now."""
        self._refill()
        return self._lines >= 1 and self._bytes >= _LINE_BYTES and self._left >= _LINE_BYTES

    def takes(self, size_bytes: int) -> bool:
        """Say whether one more line may be copied; if so, count it."""
        self._refill()
        if self._lines < 1 or self._bytes < size_bytes or self._left < size_bytes:
            return False
        self._lines -= 1
        self._bytes -= size_bytes
        self._left -= size_bytes
        return True

    def _refill(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        self._lines = min(self._lines + passed * LINES_PER_S, LINES_PER_S * BURST_S)
        self._bytes = min(self._bytes + passed * BYTES_PER_S, BYTES_PER_S * BURST_S)


class LogCopy:
    """The copy of one job's log, and how far it is.

    :param offset: bytes of the log that an earlier copy has handled. They are read for reports, but not copied again
    :param keep: how many of the last lines are remembered, for the error message
    """

    def __init__(self, *, offset: int = 0, keep: int = 20, clock: Callable[[], float] = time.monotonic) -> None:
        self.offset = offset
        self.result: Any = None
        self.has_result = False
        self.last_lines: deque[str] = deque(maxlen=keep)
        self._budget = Budget(clock)
        self._pending = bytearray()
        self.position = 0  # bytes read since the log's beginning, those of the pending line included
        self._left_out_lines = 0
        self._left_out_bytes = 0

    def restart(self) -> None:
        """Start again at the beginning of the log; what was copied is not copied again."""
        self._pending.clear()
        self.last_lines.clear()
        self.position = 0

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Take the next bytes of the log; yield the lines to copy."""
        first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
        if first < 0:
            self._keep(chunk)
            return
        yield from self._end_line(chunk[:first])
        if first < last:
            yield from self._whole_lines(chunk[first + 1 : last + 1])
        self._keep(chunk[last + 1 :])

    def _whole_lines(self, block: bytes) -> Iterator[str]:
        lines = block.split(b"\n")[:-1]
        known = self.position + len(block) <= self.offset
        # So a gigabyte can pass without looking at each line.
        if _MARK not in block and (known or (self.position >= self.offset and not self._budget.has_room)):
            self.position += len(block)
            if not known:
                self.offset = self.position
                self._left_out_lines += len(lines)
                self._left_out_bytes += len(block)
            self.last_lines.extend(_text(line)[:_LINE_BYTES] for line in lines[-(self.last_lines.maxlen or 0) :])
            return
        for line in lines:
            yield from self._end_line(line)

    def _end_line(self, end: bytes) -> Iterator[str]:
        self._keep(end)
        self.position += 1
        yield from self._line()

    def close(self) -> Iterator[str]:
        """Take the end of the log: yield the last line, if it has no newline, and a line about what was left out."""
        if self._pending:
            yield from self._line()
        yield from self._gap()

    def _keep(self, piece: bytes) -> None:
        self.position += len(piece)
        self._pending += piece[: max(_PENDING_BYTES - len(self._pending), 0)]

    def _line(self) -> Iterator[str]:
        text = _text(self._pending)
        self._pending.clear()
        report = reports.read(text) if reports.MARK in text else None
        if report is not None and report.has_result:
            self.result, self.has_result = report.result, True
            shown = None
        else:
            shown = (report.text if report else text)[:_LINE_BYTES]
            self.last_lines.append(shown)
        if self.position <= self.offset:
            return  # copied before
        self.offset = self.position
        if shown is None:
            return
        if self._budget.takes(len(shown)):
            yield from self._gap()
            yield shown
        else:
            self._left_out_lines += 1
            self._left_out_bytes += len(shown)

    def _gap(self) -> Iterator[str]:
        if self._left_out_lines:
            yield (
                f"[… {self._left_out_lines:,} lines ({self._left_out_bytes:,} bytes) were not copied: too many at once. "
                "Ray's dashboard has the whole log]"
            )
        self._left_out_lines = self._left_out_bytes = 0
