"""`taxiway simulate MODEL --replay RELEASE`: a release that was real, by its own policy and by another."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
_NAMED = 5  # releases, when the one that was asked for is not there


def run(spec: ModelSpec, release_id: str, *, as_json: bool, width: int) -> int:
    """Replay a release; return 1 if its own policy does not give the recorded verdicts.

    :param spec: whose judge is the other policy, if it is not the one that was recorded
    :param release_id: its id in the ledger, or how that ends
    :raises ConfigurationError: the ledger has no such release, or nothing of it to judge
    """
    from operators.audit.replay import by_spec, replay, same_policy
    from operators.audit.replay_text import rendered
    from operators.cli import connect

    ledger = connect.ledger()
    try:
        found, verdicts = _verdicts(ledger, spec.name, release_id)
        looks = ledger.looks(found)
    finally:
        ledger.close()
    policies = by_spec(spec.release)
    try:
        again = replay(found, looks, verdicts)
        other = None if same_policy(verdicts, policies) else replay(found, looks, verdicts, policies)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"the record of {found} cannot be read: {str(error).splitlines()[0]}") from error
    if as_json:
        said = {name: one and one.model_dump(mode="json") for name, one in (("recorded", again), ("policy", other))}
        print(json.dumps({"model": spec.name, "release": found, "same": again.same, **said}, indent=2))
    else:
        print(f"{spec.name}: release {found}, look by look\n")
        print(rendered(again, other, width=width))
    return 0 if again.same else _EXIT_FAILED


def _verdicts(ledger: Ledger, model: str, release_id: str) -> tuple[str, Sequence[Entry]]:
    rows = ledger.entries(model, kind=VerdictRow.KIND)
    known = list(dict.fromkeys(str(row.release_id) for row in rows))
    found = [one for one in known if one == release_id] or [one for one in known if one.endswith(release_id)]
    if len(found) == 1:
        return found[0], [row for row in rows if row.release_id == found[0]]
    newest = ", ".join(reversed(found[-_NAMED:] or known[-_NAMED:])) or "none"
    what = "several releases" if found else "no release"
    raise ConfigurationError(
        f"the ledger has {what} of {model} with verdicts and the id {release_id!r}; newest: {newest}"
    )


def with_judge(spec: ModelSpec, changes: Sequence[str]) -> ModelSpec:
    """Return a spec with another judge.

    :param changes: ``KEY=VALUE``, the key by dots below `release.judge`, the value as in YAML
    :raises ConfigurationError: a change makes no sense
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
