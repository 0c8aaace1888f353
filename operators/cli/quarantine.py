"""`taxiway quarantine`: list the versions in quarantine, put one in, or take one out."""

from __future__ import annotations

import argparse
from contextlib import closing
from uuid import uuid4


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("quarantine", help="list, put or lift versions that must not be released")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="list the versions in quarantine")
    listed.add_argument("model", nargs="?", help="name of the model (default: every model)")
    listed.set_defaults(run=run_list)
    for name, run, help_text in (
        ("lift", run_lift, "take a version out of quarantine, and all others with the same files"),
        ("put", run_put, "put a version into quarantine, so that no release takes it"),
    ):
        one = actions.add_parser(name, help=help_text)
        one.add_argument("model", help="name of the model")
        one.add_argument("version", help="number of the version in MLflow")
        one.add_argument("--reason", required=True, help="why; the ledger keeps it with your name")
        one.set_defaults(run=run)


def run_list(options: argparse.Namespace) -> int:
    """Print the versions in quarantine."""
    from operators.cli import connect
    from operators.rollout.quarantine import KINDS, standing

    with closing(connect.ledger()) as ledger:
        for model in [options.model] if options.model else ledger.models():
            for one in standing(ledger.entries(model, kind=KINDS)):
                print(f"{model} {one.version}  {one.at:%Y-%m-%d %H:%M} UTC  {one.reason}")
    return 0


def run_lift(options: argparse.Namespace) -> int:
    """Take a version out; return 1 if it was not in quarantine."""
    from operators.cli import connect

    reason = connect.require_reason(options.reason)
    with closing(connect.model_traffic(options.model)) as traffic:
        traffic.registry.find(options.model, options.version)
        row = traffic.quarantine.lift(
            options.version, by=connect.actor(), reason=reason, key=f"{options.model}/lifted/{uuid4().hex}"
        )
    if row is None:
        print(f"version {options.version} of {options.model} is not in quarantine")
        return 1
    print(f"version {options.version} of {options.model} may be released again")
    return 0


def run_put(options: argparse.Namespace) -> int:
    """Put a version into quarantine."""
    from operators.cli import connect

    reason = f"{connect.actor()}: {connect.require_reason(options.reason)}"
    with closing(connect.model_traffic(options.model)) as traffic:
        traffic.registry.find(options.model, options.version)
        traffic.quarantine.put(options.version, reason, key=f"{options.model}/quarantined/{uuid4().hex}")
    print(f"version {options.version} of {options.model} will not be released")
    return 0
