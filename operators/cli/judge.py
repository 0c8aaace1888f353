"""`taxiway judge`: reads cumulative counts and prints a verdict for each look, both as JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from operators.cli.judge_input import Looks
from operators.core.errors import ConfigurationError
from operators.core.explain_error import explain
from operators.core.spec_judge import Judge
from operators.judge.evidence import Judgement, Outcome
from operators.judge.policy import judge

_EXAMPLE = (
    '{"t": 60, "weight": 0.1, "stable": {"requests": 900, "failed": 3, "slow": 9}, '
    '"canary": {"requests": 100, "failed": 1, "slow": 2}, "pairs": {"stable_only_wrong": 0, "canary_only_wrong": 1}}'
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = commands.add_parser(
        "judge",
        help="judge a canary from counts on standard input, without any service",
        description="Reads one JSON line of cumulative counts per look, and prints a verdict for each: Successful, Failed, "
        "Inconclusive or Continue. More looks do not make an error more likely. Count each caller once; count requests only if "
        "each request is assigned by itself. The increase since the line before belongs to the weight of this line. All keys "
        "but t and weight are optional, but missing evidence is never Successful. Pairs on the first line turn the guard "
        "`labels` on; without a policy and without other counts it is the only guard. The pairs of one day are a block; the "
        "policy `labels: {block: none}` counts each pair by itself.",
        epilog=f"example of a line: {_EXAMPLE}",
    )
    command.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="YAML or JSON file with the keys of `release.judge` (default: the defaults of the spec)",
    )
    command.add_argument(
        "--harm-weight",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the callers that the canary would get next, from 0 to 1 (default: 1)",
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a verdict for each line of the input.

    :raises ConfigurationError: the policy or a line is wrong
    """
    if not 0 < options.harm_weight <= 1:
        raise ConfigurationError(f"--harm-weight is {options.harm_weight:g}; it is a share, above 0 and at most 1")
    # Text that is not UTF-8 is no JSON either, so the error names its line.
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    for answer in answers(sys.stdin, read_policy(options.policy), harm_weight=options.harm_weight):
        print(json.dumps(answer), flush=True)
    return 0


def answers(lines: Iterable[str], given: dict[str, Any], *, harm_weight: float = 1.0) -> Iterator[dict[str, Any]]:
    """Yield the verdict on each line. After a Failed one, all are Failed.

    :param given: the policy as it was written
    :raises ConfigurationError: a line is wrong; the message has its number
    """
    looks, policy, failed = Looks(), Judge.model_validate(given), ""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        first = not looks.looked
        try:
            looks.add(_parsed(line))
            if first:
                policy = _settled(given, looks)
                looks.block_s = policy.labels.block_s if policy.labels else None
            elif policy.failures is None and not given and looks.with_arms:
                raise ConfigurationError(
                    "the first line had pairs alone, so only pairs are judged; give the arms on the first line, too, with zeros"
                )
        except ConfigurationError as error:
            raise ConfigurationError(f"line {number}: {error}") from None
        judgement = judge(policy, looks.evidence(), elapsed_s=looks.t - looks.step_began, harm_weight=harm_weight)
        if judgement.outcome is Outcome.FAILED and not failed:
            failed = f"failed at t = {looks.t:g}: {judgement.reason}"
        yield _answer(looks, policy, judgement, failed)


def _settled(given: dict[str, Any], looks: Looks) -> Judge:
    """Return the policy after the first look. From then on the guards share alpha, so none can be added later."""
    if not looks.with_pairs or "labels" in given:
        return Judge.model_validate(given)
    alone: dict[str, Any] = {} if given or looks.with_arms else {"failures": None, "slow": None}
    return Judge.model_validate({**given, **alone, "labels": {"within": "1d"}})


def _answer(looks: Looks, policy: Judge, judgement: Judgement, failed: str) -> dict[str, Any]:
    outcome, reason = judgement.outcome, judgement.reason
    if looks.with_pairs and policy.labels is None:
        reason = (
            f"the pairs are not judged, because the first line had none and the policy has no guard `labels`; {reason}"
        )
        outcome = Outcome.INCONCLUSIVE if outcome is Outcome.SUCCESSFUL else outcome
    if not looks.weight:
        outcome, reason = Outcome.CONTINUE, "the canary has no weight, so there is nothing to compare"
    if failed:
        outcome, reason = Outcome.FAILED, failed
    shown = {"e", "threshold", "interval", "margin"}
    guards = {name: one.model_dump(mode="json", include=shown) for name, one in judgement.guards.items()}
    return {"t": looks.t, "verdict": outcome.value, "guards": guards, "reason": reason}


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"not JSON ({error}); a line looks like {_EXAMPLE}") from None


def read_policy(path: Path | None) -> dict[str, Any]:
    """Return the `judge:` part of a file as it was written, after a check; without a file, an empty policy.

    :param path: YAML or JSON file with the part itself, a spec, or the `release:` of a spec
    :raises ConfigurationError: the file cannot be read, or is wrong
    """
    import yaml
    from pydantic import ValidationError

    if path is None:
        return {}
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"--policy {path}: {error}") from None
    for key in ("release", "judge"):
        if isinstance(document, dict) and key in document:
            document = document[key]
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise ConfigurationError(f"--policy {path}: not a mapping; write it like `judge:` in a spec")
    try:
        Judge.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(f"--policy {path}: {explain(error, Judge)}") from None
    return document
