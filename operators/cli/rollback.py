"""`taxiway rollback`: send a model's traffic back, now. It needs the agent only, and no scheduler."""

from __future__ import annotations

import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("rollback", help="send the traffic of a model back to an earlier version, now")
    parser.add_argument("model", help="name of the model")
    parser.add_argument(
        "--to",
        metavar="VERSION",
        help="version that gets all traffic (default: stable if a canary has traffic, else the version before it)",
    )
    parser.add_argument("--reason", required=True, help="why; the ledger keeps it with your name")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Roll back; return 1 if ledger or alias could not be written."""
    from operators.cli import connect
    from operators.traffic.client import Agent
    from operators.traffic.emergency import move_back

    reason, actor = connect.require_reason(options.reason), connect.actor()
    connect.use_stack()
    done = move_back(Agent(), options.model, options.to, reason=reason, actor=actor)
    left = f"; version {done.left} has none" if done.left else ""
    print(
        f"version {done.stable} of {options.model} has all the traffic after {done.traffic_s:.2f} s{left}", flush=True
    )
    # Imported once the traffic has moved: it brings SQLAlchemy.
    from operators.rollout.manual_moves import ManualMoves

    traffic = connect.model_traffic(options.model)
    try:
        done = ManualMoves(traffic).write_down(done, reason, actor)
    finally:
        traffic.close()
    if done.unwritten:
        print(f"ledger or alias do not say so yet, the DAG `reconcile` will make up for it: {done.unwritten}")
        return 1
    print("ledger and alias say so, too")
    return 0
