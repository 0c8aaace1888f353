"""`taxiway status`: the state that the supervisor published, compared with the processes and ports that there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from operators.core import processes
from operators.core.render import columns
from operators.stack import probes, state, supervisor
from operators.stack.config import AIRFLOW_USER, Stack

_SILENT = "does not answer at its address"


@dataclass(frozen=True)
class Row:
    """The line of one service in `taxiway status`."""

    name: str
    state: str
    pids: int
    pid: int | None
    rss_bytes: int
    address: str
    note: str


@dataclass(frozen=True)
class Report:
    """Everything that is shown."""

    up: bool
    rows: tuple[Row, ...]
    pss_bytes: int
    login: str
    log_dir: Path


def collect(stack: Stack) -> Report:
    """Return the state of the stack."""
    files = supervisor.Files(stack.run_dir)
    current = state.read(files.state) or state.StackState(state=state.STOPPED)
    alive = state.locked(files.lock)
    rows, seen = [], set[psutil.Process]()
    for name, service in current.services.items():
        row, below = _row(name, service, alive)
        rows.append(row)
        seen |= below
    every = processes.descendants([current.supervisor]) if alive else set()
    if rest := every - seen:
        used = processes.rss_bytes(rest)
        rows.append(Row("supervisor, orphans", state.READY, len(rest), current.supervisor, used, "", ""))
    return Report(
        up=alive and current.state == state.READY and all(row.state == state.READY for row in rows),
        rows=tuple(rows),
        pss_bytes=processes.pss_bytes(every),
        login=f"user {AIRFLOW_USER}, password {stack.secrets.airflow_password}" if alive else "",
        log_dir=stack.log_dir,
    )


def _row(name: str, service: state.ServiceState, alive: bool) -> tuple[Row, set[psutil.Process]]:
    shown, note = service.state, service.note
    process = processes.find(service.pid, service.start)
    below = processes.descendants([process.pid]) if process else set()
    if not alive and shown in (state.READY, state.STARTING, state.PENDING):
        shown, note = "lost", "the supervisor was killed; run `taxiway down`, then `taxiway up`"
    elif shown == state.READY and service.address.startswith("http") and not probes.connects(service.address):
        shown, note = state.FAILED, _SILENT
    if service.restarts:
        note = f"{note} (restarts: {service.restarts})".strip()
    return Row(name, shown, len(below), service.pid, processes.rss_bytes(below), service.address, note), below


def render(report: Report) -> str:
    """Return the table as text."""
    if not report.rows:
        return "nothing runs; `taxiway up` starts everything"
    cells = [("SERVICE", "STATE", f"{'PID':>7}", "PROCS", "RSS MB", "ADDRESS")]
    for row in report.rows:
        pid = str(row.pid) if row.pid and row.pids else "-"
        tail = "  ".join(filter(None, [row.address, row.note]))
        cells.append((row.name, row.state, f"{pid:>7}", f"{row.pids:>5}", f"{row.rss_bytes / 1e6:>6.0f}", tail))
    total = f"{sum(row.rss_bytes for row in report.rows) / 1e6:>6.0f}"
    cells.append(("total", "", "", "", total, f"({report.pss_bytes / 1e6:.0f} MB if shared pages are counted once)"))
    lines = columns(cells)
    for row in report.rows:
        if row.state == state.FAILED and row.note != _SILENT:
            lines.append(f"\n{row.name}: {supervisor.tail(report.log_dir / f'{row.name}.log')}")
    if report.login:
        lines.append(f"\nAirflow UI: {report.login}")
    return "\n".join(lines)
