"""`taxiway plan` and `taxiway simulate`: what a release will do, before it begins."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from operators.cli import replay
from operators.cli.replay import with_judge
from operators.cli.traffic import add_arguments, labelling_of, load_of, number, spec_of
from operators.core.errors import ConfigurationError
from operators.core.spec import ModelSpec

if TYPE_CHECKING:
    from operators.planning.simulation.runner import Setting

_EXIT_FAILED, _EXIT_REFUSED = 1, 2
_WIDTH = 140  # without a terminal


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    plan = commands.add_parser(
        "plan",
        help="say how long a release will take, how many callers it exposes and what it detects",
        description="Says for each step how long it will take, how many callers will meet the new version, and the smallest "
        "regression that it detects. Exits with 2 if the steps are too short to detect a regression as large as the margin.",
    )
    _add_arguments(plan)
    plan.add_argument(
        "--effect",
        type=float,
        metavar="PCT",
        help="refuse a plan that does not detect this many more failures, in percentage points, before the promotion",
    )
    plan.set_defaults(run=run_plan)
    simulate = commands.add_parser(
        "simulate",
        help="simulate many releases of good and bad versions, without services",
        description="Simulates releases with the judge of production: versions that are as good as stable, and versions that "
        "crash, fail sometimes, are slow, leak memory or fail for some callers only. Says how often a good version is rolled "
        "back, after how long a bad one is, and how many callers it has until then.",
    )
    _add_arguments(simulate)
    simulate.add_argument(
        "--replay",
        metavar="RELEASE",
        help="instead, judge a release of the ledger again, look by look, by its own policy and by that of the spec",
    )
    simulate.add_argument(
        "--scenario",
        action="append",
        metavar="NAME[=VALUE]",
        help="simulate only this scenario; may be repeated (default: all, named in the output)",
    )
    number(simulate, "--releases", "N", "releases of each scenario (default: 500)", default=500, kind=int)
    seed = "seed of the random numbers; the same seed gives the same releases (default: 1)"
    number(simulate, "--seed", "N", seed, default=1, kind=int)
    simulate.add_argument(
        "--traffic",
        type=Path,
        metavar="FILE",
        help="recorded requests to replay, CSV or Parquet with the columns t, unit, failed, slow",
    )
    burst = "variance of the rate, divided by the square of its mean (default: 0)"
    number(simulate, "--burst", "V", burst, default=0.0)
    daily = "how far the rate rises and falls over a day, in percent (default: 0)"
    number(simulate, "--daily", "PCT", daily, default=0.0)
    number(simulate, "--look", "S", "seconds between two looks of the judge (default: 1)", default=1.0)
    jobs = os.cpu_count() or 1
    number(simulate, "--jobs", "N", "processes to use (default: one per core)", default=jobs, kind=int)
    simulate.set_defaults(run=run_simulate)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the judge of the spec, e.g. alpha=0.001 or failures.margin_pct=2; may be repeated",
    )


def run_plan(options: argparse.Namespace) -> int:
    """Print the plan of a release.

    :raises ConfigurationError: the spec or an option is wrong
    """
    from operators.planning.plan import plan
    from operators.planning.plan.text import rendered

    spec = with_judge(spec_of(options.model), options.judge)
    load, assumed = load_of(options, spec)
    if options.effect is not None and not 0 < options.effect <= 100:
        raise ConfigurationError(f"--effect {options.effect:g}: must be above 0 and at most 100 percentage points")
    effect = None if options.effect is None else options.effect / 100
    made = plan(spec.name, spec.release, load, labelling=labelling_of(options), assumed=assumed, effect=effect)
    print(made.model_dump_json(indent=2) if options.json else rendered(made, width=_width()))
    return _EXIT_REFUSED if made.problems else 0


def run_simulate(options: argparse.Namespace) -> int:
    """Simulate releases; return 1 if good versions are rolled back more often than alpha allows.

    :raises ConfigurationError: the spec or an option is wrong
    """
    from operators.planning.simulation.report import summarise
    from operators.planning.simulation.runner import simulate
    from operators.planning.simulation.scenarios import DEFAULT_SCENARIOS, scenario
    from operators.planning.simulation.text import rendered

    _check(options)
    spec = with_judge(spec_of(options.model), options.judge)
    if options.replay is not None:
        return replay.run(spec, options.replay, as_json=options.json, width=_width())
    setting = _setting(options, spec)
    summaries = []
    # A recording has the outages that it has, so none are simulated.
    usual = [name for name in DEFAULT_SCENARIOS if options.traffic is None or name != "outages"]
    for text in options.scenario or usual:
        batch = simulate(setting, scenario(text), releases=options.releases, seed=options.seed, jobs=options.jobs)
        summaries.append(summarise(batch, setting.load))
    alpha = spec.release.judge.alpha
    if options.json:
        document = {
            "model": spec.name,
            "alpha": alpha,
            "seed": options.seed,
            "load": setting.load.model_dump(),
            "left_out": setting.left_out,
            "scenarios": [one.model_dump() for one in summaries],
        }
        print(json.dumps(document, indent=2))
    else:
        print(rendered(summaries, alpha=alpha, width=_width()))
    too_many = [one.scenario for one in summaries if one.false_alarms is not None and one.false_alarms.low > alpha]
    if too_many:
        print(f"taxiway: more false rollbacks than alpha allows: {', '.join(too_many)}", file=sys.stderr)
    return _EXIT_FAILED if too_many else 0


def _setting(options: argparse.Namespace, spec: ModelSpec) -> Setting:
    from operators.planning.plan.text import traffic
    from operators.planning.simulation.feeds import Pattern
    from operators.planning.simulation.recorded_traffic import read_recording
    from operators.planning.simulation.runner import Setting

    if options.traffic is not None:
        recording = read_recording(options.traffic, spec.release.judge.slow)
        load, assumed = recording.load(), tuple[str, ...]()
    else:
        recording = None
        load, assumed = load_of(options, spec)
    if not options.json:
        print(f"{spec.name}: {options.releases:,} releases of each scenario. Traffic: {traffic(load, assumed)}\n")
    setting = Setting(
        release=spec.release,
        load=load,
        pattern=Pattern(options.burst, options.daily / 100),
        recording=recording,
        labelling=labelling_of(options),
        look_s=options.look,
    )
    if setting.left_out and not options.json:
        print(f"Guards that are not simulated: {', '.join(setting.left_out)}. (Labels are, with --label-share.)\n")
    return setting


def _check(options: argparse.Namespace) -> None:
    """Check that each number is in its range.

    :raises ConfigurationError: one is not
    """
    bounds = {
        "releases": (1, 1_000_000),
        "seed": (0, 2**63),
        "burst": (0, 100),
        "daily": (0, 100),
        "look": (0.01, 3600),
        "jobs": (1, 1024),
    }
    for name, (low, high) in bounds.items():
        value = getattr(options, name)
        if not low <= value <= high:
            raise ConfigurationError(f"--{name.replace('_', '-')} {value:g}: must be from {low:g} to {high:g}")


def _width() -> int:
    return shutil.get_terminal_size((_WIDTH, 24)).columns if sys.stdout.isatty() else _WIDTH
