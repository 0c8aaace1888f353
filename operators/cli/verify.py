"""`taxiway verify`: check the ledger's chain of hashes, and judge every verdict again from its record."""

from __future__ import annotations

import argparse
from contextlib import closing


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify", help="check that no row of the ledger was changed, and judge each verdict again from its record"
    )
    parser.add_argument("model", nargs="?", help="name of the model (default: every model)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check the ledger; return 1 if a row is wrong."""
    from operators.audit.verify import verify
    from operators.cli import connect
    from operators.core.errors import ConfigurationError

    with closing(connect.ledger()) as ledger:
        known = ledger.models()
        if options.model and options.model not in known:
            raise ConfigurationError(
                f"the ledger has no rows of {options.model!r}; it has: {', '.join(known) or 'none'}"
            )
        reports = [verify(ledger, model) for model in ([options.model] if options.model else known)]
    for report in reports:
        outcome = "right" if report.holds else "WRONG"
        print(f"{report.model}: {report.rows} rows, {report.verdicts} verdicts judged again: {outcome}")
        for remark in report.remarks:
            print(f"  {'WRONG' if remark.wrong else 'note '}  row {remark.seq}: {remark.text}")
    return 0 if all(report.holds for report in reports) else 1
