"""A release that was real, judged once more look by look: as it was, to prove its verdicts, or by another policy. Pure.

The ledger has the looks at which something had changed, and every verdict. Another policy sees the same looks: it may stop the
release sooner. If it would have stayed longer at a step, the record has nothing of that; it goes on with what the real release
showed in its next step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from operators.core.ledger_schema import Entry, Look, json_digest
from operators.core.spec_judge import Judge
from operators.core.spec_release import Release
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.judge.phases import FROZEN, SHADOW, WATCH, alpha_share, judge_parts, policies

Policies = Callable[[Mapping[str, Any]], tuple[Judge, ...]]
"""Gives, for the record of a verdict, the policy that has the say, and then those that can only fail the version."""


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True)


class Ended(_Fact):
    """How a step ended.

    :param look: number of the look, from 1
    :param elapsed_s: since the step began
    """

    look: int
    elapsed_s: float
    outcome: Outcome
    reason: str


class StepReplay(_Fact):
    """What the recorded policy and the replayed one said of one step.

    :param looks: how many were recorded
    :param recorded: what its verdict says
    :param replayed: what the policy says; Continue: it would have gone on watching where the record of this step ends
    :param blind: the recorded verdict was given because nothing could be seen; no policy was asked
    """

    step: str
    looks: int
    recorded: Ended
    replayed: Ended
    blind: bool

    @property
    def same(self) -> bool:
        """Whether the same verdict came at the same look."""
        found, said = self.replayed, self.recorded
        if self.blind:
            return found.outcome is Outcome.CONTINUE
        return (found.outcome, found.look, found.reason) == (said.outcome, said.look, said.reason)


class Replay(_Fact):
    """A whole release, up to the step that the policy would have ended it at.

    :param unseen: steps of which there are looks but no verdict: what was asked there is not known
    """

    release_id: str
    steps: tuple[StepReplay, ...]
    unseen: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether every verdict is the recorded one."""
        return all(step.same for step in self.steps)

    @property
    def stopped(self) -> StepReplay | None:
        """The step at which the policy stops the release."""
        return next((step for step in self.steps if _stops(step)), None)


def as_recorded(record: Mapping[str, Any]) -> tuple[Judge, ...]:
    """Return the policy that gave a verdict.

    :param record: payload of a row of the kind `verdict`
    :raises ValueError: it is not one that the judge can read
    """
    return (Judge.model_validate_json(json.dumps(record["policy"])),)


def by_spec(release: Release) -> Policies:
    """Return the policies of a spec, for steps, weights and bakes as they were recorded."""

    def found(record: Mapping[str, Any]) -> tuple[Judge, ...]:
        late = record["step"] == WATCH or bool(
            record["step"] == SHADOW and release.shadow and release.shadow.await_labels
        )
        return policies(release.judge, late=late, alpha_share=alpha_share(release))

    return found


def same_policy(verdicts: Iterable[Entry], given: Policies) -> bool:
    """Return whether these verdicts were given by these policies."""
    return all(
        any(part.model_dump(mode="json", by_alias=True) == row.payload["policy"] for part in given(row.payload))
        for row in verdicts
        if not row.payload["blind"]
    )


def replay(release_id: str, looks: Sequence[Look], verdicts: Sequence[Entry], given: Policies = as_recorded) -> Replay:
    """Judge a release once more.

    :param looks: of the release, oldest first
    :param verdicts: likewise; of a step with several, the last one counts
    :param given: the policies; default: those that were recorded
    :raises ValueError: a record cannot be read
    """
    spoken = {row.payload["step"]: row for row in verdicts}
    steps: list[StepReplay] = []
    unseen: list[str] = []
    for name in dict.fromkeys([*(look.step for look in looks), *spoken]):
        if name not in spoken:
            unseen.append(name)
            continue
        steps.append(_step([look for look in looks if look.step == name], spoken[name], given))
        if _stops(steps[-1]):
            break
    return Replay(release_id=release_id, steps=tuple(steps), unseen=tuple(unseen))


def _stops(step: StepReplay) -> bool:
    outcome = step.replayed.outcome
    return outcome is Outcome.FAILED or (outcome is Outcome.INCONCLUSIVE and not _until(step.step))


def _until(step: str) -> bool:
    """Return whether only a failure ends a step before its time is over."""
    return step == WATCH or step.endswith(FROZEN)


def _step(looks: Sequence[Look], verdict: Entry, given: Policies) -> StepReplay:
    record = verdict.payload
    seen = list(_seen(looks, record, verdict.at))
    said = Judgement.model_validate_json(json.dumps(record["judgement"]))
    return StepReplay(
        step=record["step"],
        looks=len(seen),
        recorded=Ended(
            look=_number(seen, record), elapsed_s=record["elapsed_s"], outcome=said.outcome, reason=said.reason
        ),
        replayed=_ended(seen, record, given(record), only_fails=given is as_recorded and _spoke_aside(record)),
        blind=record["blind"],
    )


def _seen(looks: Sequence[Look], record: Mapping[str, Any], at: datetime) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """Give (seconds since the step began, evidence) of each look; of the one that the verdict rests on, exactly.

    The others are written down some milliseconds after they were made.
    """
    digest = json_digest(record["evidence"])
    last = max((number for number, look in enumerate(looks) if look.digest == digest), default=None)
    at = at if last is None else looks[last].at
    for number, look in enumerate(looks):
        elapsed_s = record["elapsed_s"] - (at - look.at).total_seconds()
        yield record["elapsed_s"] if number == last else round(max(0.0, elapsed_s), 3), look.evidence
    if last is None and not record["blind"]:  # when a watch is over, nothing may have changed since the look before
        yield record["elapsed_s"], record["evidence"]


def _number(seen: Sequence[tuple[float, Mapping[str, Any]]], record: Mapping[str, Any]) -> int:
    numbers = [number for number, (at_s, _) in enumerate(seen, 1) if at_s == record["elapsed_s"]]
    return numbers[-1] if numbers else len(seen)


def _ended(
    seen: Sequence[tuple[float, Mapping[str, Any]]],
    record: Mapping[str, Any],
    given: tuple[Judge, ...],
    *,
    only_fails: bool,
) -> Ended:
    """Ask look by look until one ends the step; else return the last."""
    only_fails = only_fails or _until(record["step"])
    ended = Ended(look=0, elapsed_s=0.0, outcome=Outcome.CONTINUE, reason="nothing was seen")
    for number, (elapsed_s, evidence) in enumerate(seen, 1):
        said = judge_parts(
            given,
            Evidence.model_validate_json(json.dumps(evidence)),
            elapsed_s=elapsed_s,
            bake_s=record["bake_s"],
            min_requests=_least(record, given[0]),
            harm_weight=record["harm_weight"],
        )
        ended = Ended(look=number, elapsed_s=elapsed_s, outcome=said.outcome, reason=said.reason)
        if said.outcome is Outcome.FAILED or (said.outcome is not Outcome.CONTINUE and not only_fails):
            break
    return ended


def _least(record: Mapping[str, Any], policy: Judge) -> int | None:
    """Return how many units are needed: the policy's number where the recorded one was the recorded policy's."""
    recorded: int | None = record["min_requests"]
    return policy.min_requests if recorded == record["policy"]["min_requests"] else recorded


def _spoke_aside(record: Mapping[str, Any]) -> bool:
    """Return whether labels or numbers that come late have failed a version: another part of the judge had the say till then."""
    policy = record["policy"]
    at_once = policy["failures"] or policy["slow"] or policy["prediction"] or policy["series"]
    return not at_once and record["judgement"]["outcome"] == Outcome.FAILED
