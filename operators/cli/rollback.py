"""`taxiway rollback`: send a model's traffic back, now. It needs the agent, but no scheduler."""

from __future__ import annotations

import argparse
from contextlib import closing


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("rollback", help="send the traffic of a model back to an earlier version, now")
    parser.add_argument("model", help="name of the model")
    parser.add_argument(
        "--to",
        metavar="VERSION",
        help="version that gets all traffic (default: stable if a canary has traffic, else the version before stable)",
    )
    parser.add_argument("--reason", required=True, help="why; the ledger keeps it with your name")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Roll back; return 1 if the ledger or the alias could not be written."""
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
    # Imported after the traffic has moved, because it imports SQLAlchemy, which takes time.
    from operators.rollout.manual_moves import ManualMoves

    with closing(connect.model_traffic(options.model)) as traffic:
        done = ManualMoves(traffic).write_down(done, reason, actor)
    if done.unwritten:
        print(f"the ledger or the alias could not be written, so the DAG `reconcile` will write it: {done.unwritten}")
        return 1
    print("ledger and alias are written, too")
    return 0
