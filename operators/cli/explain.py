"""`taxiway explain`: which version answered a request, why that one, and where it comes from."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from operators.audit.explanation import Explanation

_SHOWN_TAGS = ("data_digest", "code_commit", "dag_run", "validation", "validation_checks", "model_digest")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("explain", help="say which version answered a request, and why")
    parser.add_argument("request_id", help="value of the header X-Request-Id of the answer")
    parser.add_argument("--model", help="search the log of this model only (default: every model)")
    parser.add_argument(
        "--at", type=_time, metavar="TIME", help="search within an hour of this time, e.g. 2026-05-01T12:30 (UTC)"
    )
    parser.add_argument(
        "--hours", type=float, default=24.0, help="without --at: how many hours back to search (default: 24)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def run(options: argparse.Namespace) -> int:
    """Explain; return 1 if the request is not in the log."""
    from operators.audit.request_search import Explainer
    from operators.cli import connect
    from operators.core.ledger import Ledger
    from operators.core.settings import Settings
    from operators.core.storage import Storage
    from operators.registry.client import Registry

    connect.use_stack()
    settings = Settings.load()
    end = options.at + timedelta(hours=1) if options.at else datetime.now(UTC)
    begin = end - timedelta(hours=2 if options.at else options.hours)
    ledger, registry = Ledger(settings.ledger_url), Registry(settings.mlflow_url)
    try:
        explainer = Explainer(ledger, registry, Storage(settings.storage_url))
        found = explainer.explain(options.request_id, begin=begin, end=end, model=options.model)
    finally:
        ledger.close()
        registry.close()
    if not found:
        print(
            f"no version has logged an answer to {options.request_id} from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC. "
            "A replica keeps answers for up to `monitoring.prediction_log.flush_every` before it writes them: if the request "
            "was just now, ask again then. Requests that failed are not logged"
        )
        return 1
    if options.json:
        print(json.dumps([one.model_dump(mode="json") for one in found], indent=2))
    else:
        print("\n\n".join(in_words(one) for one in found))
    return 0


def in_words(one: Explanation) -> str:
    """Return an explanation for a terminal."""
    answer, moment, origin = one.answer, one.moment, one.origin
    values = ", ".join(f"{value:g}" for value in answer.predictions)
    more = ", …" if answer.rows > len(answer.predictions) else ""
    lines = [
        f"{answer.model} version {answer.version} ({answer.arm or 'not through the edge'}), "
        f"{answer.predicted_at.isoformat(timespec='milliseconds')}: {values}{more}",
        f"  why         {one.why}",
    ]
    if moment is not None:
        route = moment.route
        other = f", canary {route.canary} at {route.weight_bp / 100:g} %" if route.canary else ""
        ended = f"; {moment.ended}" if moment.ended else ""
        lines.append(f"  route       stable {route.stable}{other} since {moment.since:%Y-%m-%d %H:%M:%S} UTC{ended}")
        lines.append(f"  set by      {moment.release_id}")
    if origin is None:
        return "\n".join([*lines, "  origin      the registry has no such version any more"])
    lines.append(f"  run         {origin.run_id or 'unknown'}")
    shown = [(name, origin.tags.get(f"taxiway.{name}")) for name in _SHOWN_TAGS]
    lines += [f"  {name.replace('_', ' '):<18}{value}" for name, value in shown if value]
    return "\n".join([*lines, *(f"  {text}" for text in origin.decisions)])
