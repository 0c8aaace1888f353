"""The traffic of a plan or a simulation: given by options, recorded, measured at the edge, or assumed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from operators.core.errors import ConfigurationError, TaxiwayError
from operators.core.explain_error import explain
from operators.core.loader import INCLUDE, load_spec
from operators.core.spec import ModelSpec
from operators.planning.simulation.label_arrivals import Labelling
from operators.planning.simulation.traffic_model import TrafficModel
from operators.stack import environment, supervisor
from operators.stack.config import Stack

_MEASURED_FOR_S = 3.0
_ENOUGH = 200  # requests; a share of fewer is not used


def number(
    parser: argparse.ArgumentParser,
    option: str,
    metavar: str,
    text: str,
    *,
    default: float | None = None,
    kind: Any = float,
) -> None:
    """Add an option that takes a number."""
    parser.add_argument(option, type=kind, default=default, metavar=metavar, help=text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the model and describe its traffic."""
    parser.add_argument("model", help="name of a model in include/models, or path of a spec")
    number(parser, "--rate", "R", "requests per second (default: measured at the edge, else 20)")
    number(
        parser, "--error-rate", "PCT", "percent of stable's answers that fail (default: measured at the edge, else 0.5)"
    )
    number(
        parser,
        "--slow-rate",
        "PCT",
        "percent of stable's answers that are slow (default: measured at the edge, else 1)",
    )
    number(parser, "--units", "N", "number of callers (default: each request is a caller of its own)", kind=int)
    number(parser, "--skew", "S", "how unevenly callers send: exponent of Zipf's law, 0 for evenly (default: 1)")
    parser.add_argument(
        "--like", type=Path, metavar="FILE", help="take the traffic from this record of a verdict, a JSON file"
    )
    number(parser, "--label-share", "PCT", "percent of the requests that get a label (default: no labels)")
    number(parser, "--label-delay", "S", "seconds from the answer to its label (default: 60)", default=60.0)
    number(
        parser, "--disagree", "PCT", "percent of the pairs in which just one answer is right (default: 6)", default=6.0
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def spec_of(model: str) -> ModelSpec:
    """Return the spec of a model.

    :param model: name of the model, or path of its spec
    :raises ConfigurationError: there is no such spec
    """
    path = Path(model)
    if path.suffix not in (".yaml", ".yml"):
        path = INCLUDE / "models" / f"{model}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
            raise ConfigurationError(f"no model {model!r}; known: {known or 'none'}; or give the path of a spec")
    return load_spec(path)


def load_of(options: argparse.Namespace, spec: ModelSpec) -> tuple[TrafficModel, tuple[str, ...]]:
    """Return the traffic, and the names of its fields that are assumed.

    :raises ConfigurationError: an option is out of its range
    """
    given: dict[str, Any] = {
        "rate_per_s": options.rate,
        "error_rate": options.error_rate and options.error_rate / 100,
        "slow_rate": options.slow_rate and options.slow_rate / 100,
        "units": options.units,
        "skew": options.skew,
    }
    given = {name: value for name, value in given.items() if value is not None}
    wanted = {"rate_per_s", "error_rate", "slow_rate"} - given.keys()
    known = _like(options.like, spec) if options.like else _measured(spec.name) if wanted else {}
    try:
        load = TrafficModel(**{**known, **given})
    except ValidationError as error:
        raise ConfigurationError(explain(error, TrafficModel)) from None
    assumed = sorted(wanted - known.keys())
    return load, (*assumed, *(["units"] if load.units is None and spec.release.unit is not None else []))


def labelling_of(options: argparse.Namespace) -> Labelling | None:
    """Return how labels come; None: no option says it.

    :raises ConfigurationError: an option is out of its range
    """
    if options.label_share is None:
        return None
    try:
        return Labelling(share=options.label_share / 100, delay_s=options.label_delay, disagree=options.disagree / 100)
    except ValidationError as error:
        raise ConfigurationError(f"labels, {explain(error, Labelling)}") from None


def _like(path: Path, spec: ModelSpec) -> dict[str, float]:
    from operators.planning.simulation.recorded_traffic import load_like

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        load = load_like(json.loads(text), holdout_share=spec.release.holdout_pct / 100)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"--like {path}: not the JSON of a verdict, which has `evidence` and `elapsed_s`: {str(error).splitlines()[0]}"
        ) from None
    return load.model_dump(include={"rate_per_s", "error_rate", "slow_rate"})


def _measured(model: str) -> dict[str, float]:
    """Return the rates that two readings of the edge's counters give; a rate that they do not give is left out."""
    from operators.core.traffic import Row
    from operators.judge.tally import Tally
    from operators.traffic.client import Agent

    if not os.environ.get("TAXIWAY_AGENT_URL"):
        if not supervisor.is_up():
            return {}
        os.environ.update(environment.services(Stack.running()))
    try:
        agent = Agent()
        begun, first = time.monotonic(), agent.counters(model)
        time.sleep(_MEASURED_FOR_S)
        last, lasted_s = agent.counters(model), time.monotonic() - begun
    except TaxiwayError as error:
        print(f"taxiway: the traffic at the edge could not be measured: {error}", file=sys.stderr)
        return {}

    def total(rows: Iterable[Row], name: str, arm: str | None = None) -> int:
        return sum(getattr(row, name) for row in rows if row.arm != "shadow" and arm in (None, row.arm))

    known: dict[str, float] = {}
    gained = total(Tally.begin(first).advance(last).gained.values(), "requests")
    if gained > 0:
        known["rate_per_s"] = gained / lasted_s
    requests = total(last.rows, "requests", "stable")
    if requests >= _ENOUGH:
        known["error_rate"] = min(total(last.rows, "failures", "stable") / requests, 0.999)
        known["slow_rate"] = min(total(last.rows, "slow", "stable") / requests, 0.999)
    return known
