"""`taxiway simulate MODEL --replay RELEASE`: judge a real release again, by its own policy and by another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from operators.core.errors import ConfigurationError
from operators.core.explain_error import explain
from operators.core.rows import VerdictRow
from operators.core.spec import ModelSpec
from operators.core.spec_judge import Judge

if TYPE_CHECKING:
    from operators.core.ledger import Ledger
    from operators.core.ledger_entry import Entry

_EXIT_FAILED = 1
_NAMED = 5  # releases that an error names


def run(spec: ModelSpec, release_id: str, *, as_json: bool, width: int) -> int:
    """Replay a release; return 1 if its own policy does not give the recorded verdicts.

    :param spec: its judge is the other policy, if the recorded one differs
    :param release_id: id of the release in the ledger, or the end of the id
    :raises ConfigurationError: the ledger has no verdicts of such a release, or they cannot be read
    """
    from operators.audit.replay import by_spec, replay, same_policy
    from operators.audit.replay_text import rendered
    from operators.cli import connect

    with closing(connect.ledger()) as ledger:
        release_id, verdicts = _verdicts(ledger, spec.name, release_id)
        looks = ledger.looks(release_id)
    policies = by_spec(spec.release)
    try:
        again = replay(release_id, looks, verdicts)
        other = None if same_policy(verdicts, policies) else replay(release_id, looks, verdicts, policies)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"the record of {release_id} cannot be read: {str(error).splitlines()[0]}") from error
    if as_json:
        replays = {name: one and one.model_dump(mode="json") for name, one in (("recorded", again), ("policy", other))}
        print(json.dumps({"model": spec.name, "release": release_id, "same": again.same, **replays}, indent=2))
    else:
        print(f"{spec.name}: release {release_id}, look by look\n")
        print(rendered(again, other, width=width))
    return 0 if again.same else _EXIT_FAILED


def _verdicts(ledger: Ledger, model: str, release_id: str) -> tuple[str, Sequence[Entry]]:
    rows = ledger.entries(model, kind=VerdictRow.KIND)
    known = list(dict.fromkeys(str(row.release_id) for row in rows))
    matches = [one for one in known if one == release_id] or [one for one in known if one.endswith(release_id)]
    if len(matches) == 1:
        return matches[0], [row for row in rows if row.release_id == matches[0]]
    newest = ", ".join(reversed(matches[-_NAMED:] or known[-_NAMED:])) or "none"
    raise ConfigurationError(
        f"the ledger has {'several releases' if matches else 'no release'} of {model} with verdicts and an id that ends "
        f"in {release_id!r}; the newest: {newest}"
    )


def with_judge(spec: ModelSpec, changes: Sequence[str]) -> ModelSpec:
    """Return a spec with another judge.

    :param changes: ``KEY=VALUE``: a dotted key below `release.judge`, and its new value in YAML
    :raises ConfigurationError: a change cannot be read, or the judge cannot be like that
    """
    import yaml
    from pydantic import ValidationError

    document: dict[str, Any] = spec.release.judge.model_dump(mode="json", by_alias=True)
    for text in changes:
        path, equals, value = text.partition("=")
        *parents, key = path.removeprefix("judge.").split(".")
        if not equals or not key:
            raise ConfigurationError(f"--judge {text}: write KEY=VALUE, e.g. alpha=0.001 or failures.margin_pct=2")
        part = document
        for parent in parents:
            if not isinstance(part.get(parent), dict):
                part[parent] = {}
            part = part[parent]
        try:
            part[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"--judge {text}: {str(error).splitlines()[0]}") from None
    try:
        judge = Judge.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(f"--judge: {explain(error, Judge)}") from None
    return spec.model_copy(update={"release": spec.release.model_copy(update={"judge": judge})})
