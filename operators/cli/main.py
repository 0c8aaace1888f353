"""The command ``taxiway``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from operators.cli import explain, judge, plan, quarantine, rollback, suite, verify
from operators.core.errors import ConfigurationError, SpecError, TaxiwayError
from operators.core.extras import require
from operators.stack import environment, status, supervisor
from operators.stack.config import Stack

EXIT_FAILED, EXIT_CONFIGURATION, EXIT_NOT_UP = 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (failed), 2 (a setting, a spec or an option is wrong) or 3 (not up)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Airflow's own options must reach it untouched, --help too.
    if given[:1] == ["airflow"]:
        return _guarded(lambda: _airflow(given[1:]))
    options = argument_parser().parse_args(given)
    run: Callable[[argparse.Namespace], int] = options.run
    return _guarded(lambda: run(options))


def _guarded(run: Callable[[], int]) -> int:
    try:
        return run()
    except ConfigurationError as error:
        print(f"taxiway: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except TaxiwayError as error:
        print(f"taxiway: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted; `taxiway status` lists what runs, `taxiway down` stops it", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FAILED


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of every command. The reference of the commands is made from it, too."""
    parser = argparse.ArgumentParser(
        prog="taxiway", description="Run Taxiway on this machine, plan releases, and roll models back."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the services, and return once they are ready")
    up.add_argument("--quiet", action="store_true", help="print nothing but errors")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="stop every service; the data stays")
    down.add_argument("--quiet", action="store_true", help="print nothing but errors")
    down.set_defaults(run=_down)
    commands.add_parser(
        "status", help="list the services, their addresses, their memory and how to log in"
    ).set_defaults(run=_status)
    commands.add_parser("env", help='print addresses and keys for a shell: eval "$(taxiway env)"').set_defaults(
        run=_env
    )
    demo = commands.add_parser("demo", help="play a model's whole life on real data")
    demo.add_argument("--rate", type=float, default=40.0, help="requests per second (default: 40)")
    demo.set_defaults(run=_demo)
    check = commands.add_parser("check", help="check the specs of models, and say what is wrong")
    check.add_argument(
        "paths", nargs="*", type=Path, metavar="SPEC", help="the files to check (default: all in include/models)"
    )
    check.set_defaults(run=_check)
    for room in (suite, plan, judge, rollback, quarantine, verify, explain):
        room.add_parser(commands)
    commands.add_parser("airflow", help="run a command of Airflow's own command line against this stack")
    return parser


def _voice(options: argparse.Namespace) -> Callable[[str], None]:
    def say(line: str) -> None:
        if not options.quiet:
            print(line, flush=True)

    return say


def _up(options: argparse.Namespace) -> int:
    say = _voice(options)
    started = time.monotonic()
    if supervisor.is_up():
        say("already up")
    else:
        supervisor.ensure_up(progress=say)
        say(f"up in {time.monotonic() - started:.0f} s")
    stack = Stack.running()
    say(f"Airflow: {stack.airflow_url}  (user and password: taxiway status)")
    return 0


def _down(options: argparse.Namespace) -> int:
    say = _voice(options)
    started = time.monotonic()
    supervisor.down(progress=say)
    say(f"down in {time.monotonic() - started:.1f} s")
    return 0


def _status(_: argparse.Namespace) -> int:
    report = status.collect(Stack.running())
    print(status.render(report))
    return 0 if report.up else EXIT_NOT_UP


def _env(_: argparse.Namespace) -> int:
    for name, value in environment.services(Stack.running()).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from operators.core.loader import load_spec, spec_paths

    wrong = 0
    for path in options.paths or spec_paths():
        try:
            load_spec(path)
            print(f"{path}: good")
        except SpecError as error:
            wrong += 1
            print(error)
    return EXIT_CONFIGURATION if wrong else 0


def _demo(options: argparse.Namespace) -> int:
    from importlib import import_module

    return int(import_module("operators.demo.main").run(options))


def _airflow(arguments: Sequence[str]) -> int:
    require("local", "psycopg2", "asyncpg", purpose="`taxiway airflow`")
    stack = Stack.running()
    env = {**environment.base(stack), **environment.airflow(stack)}
    # The user's command is no part of the stack: `taxiway down` must not stop it.
    env.pop(environment.MARKER)
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *arguments], env)  # noqa: S606


if __name__ == "__main__":
    raise SystemExit(main())
