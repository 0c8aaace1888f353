"""Judge a release of the ledger again, look by look: by its own policy, to prove its verdicts, or by another one. Pure.

The ledger has every verdict, and the looks at which the evidence had changed. Another policy gets the same looks, and may stop
the release sooner. Where it would have stayed longer at a step, there is no record of that; the replay goes on with the next
step of the real release.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from operators.core.ledger_entry import Entry, LookEntry, json_digest
from operators.core.rows import VerdictRow
from operators.core.spec_judge import Judge
from operators.core.spec_release import Release
from operators.judge.evidence import Evidence, Judgement, Outcome
from operators.judge.phases import FROZEN, SHADOW, WATCH, alpha_share, judge_parts, policies

Policies = Callable[[VerdictRow], tuple[Judge, ...]]
"""Returns, for a verdict, the policy that decides, and then those that can only fail the version."""


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
    """The recorded and the replayed verdict of one step.

    :param looks: how many were recorded
    :param recorded: the recorded verdict
    :param replayed: the policy's verdict; Continue: it has none where the record of this step ends
    :param blind: the recorded verdict was given because nothing could be measured; no policy was asked
    """

    step: str
    looks: int
    recorded: Ended
    replayed: Ended
    blind: bool

    @property
    def same(self) -> bool:
        """Whether the same verdict came at the same look."""
        again, before = self.replayed, self.recorded
        if self.blind:
            return again.outcome is Outcome.CONTINUE
        return (again.outcome, again.look, again.reason) == (before.outcome, before.look, before.reason)


class Replay(_Fact):
    """A release, up to the step at which the policy stops it.

    :param unseen: steps that have looks but no verdict: their policy is not known
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


def as_recorded(verdict: VerdictRow) -> tuple[Judge, ...]:
    """Return the policy that gave a verdict.

    :raises ValueError: the judge cannot read it
    """
    return (Judge.model_validate_json(json.dumps(verdict.policy)),)


def by_spec(release: Release) -> Policies:
    """Return the policies of a spec, for steps, weights and bakes as they were recorded."""

    def of(verdict: VerdictRow) -> tuple[Judge, ...]:
        late = verdict.step == WATCH or bool(verdict.step == SHADOW and release.shadow and release.shadow.await_labels)
        return policies(release.judge, late=late, alpha_share=alpha_share(release))

    return of


def same_policy(verdicts: Iterable[Entry], given: Policies) -> bool:
    """Return whether these verdicts were given by these policies."""
    return all(
        any(part.model_dump(mode="json", by_alias=True) == verdict.policy for part in given(verdict))
        for verdict in map(VerdictRow.of, verdicts)
        if not verdict.blind
    )


def replay(
    release_id: str, looks: Sequence[LookEntry], verdicts: Sequence[Entry], given: Policies = as_recorded
) -> Replay:
    """Judge a release again.

    :param looks: of the release, oldest first
    :param verdicts: likewise; of a step with several, the last one counts
    :param given: the policies; default: the recorded ones
    :raises ValueError: a row cannot be read
    """
    judged = {VerdictRow.of(row).step: row for row in verdicts}
    steps: list[StepReplay] = []
    unseen: list[str] = []
    for name in dict.fromkeys([*(look.step for look in looks), *judged]):
        if name not in judged:
            unseen.append(name)
            continue
        steps.append(_step([look for look in looks if look.step == name], judged[name], given))
        if _stops(steps[-1]):
            break
    return Replay(release_id=release_id, steps=tuple(steps), unseen=tuple(unseen))


def _stops(step: StepReplay) -> bool:
    outcome = step.replayed.outcome
    return outcome is Outcome.FAILED or (outcome is Outcome.INCONCLUSIVE and not _until(step.step))


def _until(step: str) -> bool:
    """Return whether only a failure ends a step before its time is over."""
    return step == WATCH or step.endswith(FROZEN)


def _step(looks: Sequence[LookEntry], row: Entry, given: Policies) -> StepReplay:
    verdict = VerdictRow.of(row)
    seen = list(_seen(looks, verdict, row.at))
    before = Judgement.model_validate_json(json.dumps(verdict.judgement))
    return StepReplay(
        step=verdict.step,
        looks=len(seen),
        recorded=Ended(
            look=_number(seen, verdict), elapsed_s=verdict.elapsed_s, outcome=before.outcome, reason=before.reason
        ),
        replayed=_ended(seen, verdict, given(verdict), only_fails=given is as_recorded and before.part == "veto"),
        blind=verdict.blind,
    )


def _seen(looks: Sequence[LookEntry], verdict: VerdictRow, at: datetime) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """Return (seconds since the step began, evidence) of each look; the seconds are exact for the verdict's own look.

    The other looks were written some milliseconds after they were made.
    """
    digest = json_digest(verdict.evidence)
    last = max((number for number, look in enumerate(looks) if look.digest == digest), default=None)
    at = at if last is None else looks[last].at
    for number, look in enumerate(looks):
        elapsed_s = verdict.elapsed_s - (at - look.at).total_seconds()
        yield verdict.elapsed_s if number == last else round(max(0.0, elapsed_s), 3), look.evidence
    if last is None and not verdict.blind:  # at the end of a watch, nothing may have changed since the look before
        yield verdict.elapsed_s, verdict.evidence


def _number(seen: Sequence[tuple[float, Mapping[str, Any]]], verdict: VerdictRow) -> int:
    numbers = [number for number, (at_s, _) in enumerate(seen, 1) if at_s == verdict.elapsed_s]
    return numbers[-1] if numbers else len(seen)


def _ended(
    seen: Sequence[tuple[float, Mapping[str, Any]]],
    verdict: VerdictRow,
    given: tuple[Judge, ...],
    *,
    only_fails: bool,
) -> Ended:
    """Judge look by look until one ends the step; else return the last."""
    only_fails = only_fails or _until(verdict.step)
    ended = Ended(look=0, elapsed_s=0.0, outcome=Outcome.CONTINUE, reason="there is no look")
    for number, (elapsed_s, evidence) in enumerate(seen, 1):
        judgement = judge_parts(
            given,
            Evidence.model_validate_json(json.dumps(evidence)),
            elapsed_s=elapsed_s,
            bake_s=verdict.bake_s,
            min_requests=_least(verdict, given[0]),
            harm_weight=verdict.harm_weight,
        )
        ended = Ended(look=number, elapsed_s=elapsed_s, outcome=judgement.outcome, reason=judgement.reason)
        if judgement.outcome is Outcome.FAILED or (judgement.outcome is not Outcome.CONTINUE and not only_fails):
            break
    return ended


def _least(verdict: VerdictRow, policy: Judge) -> int | None:
    """Return how many units are needed: the policy's number, unless the step had a number of its own."""
    recorded = verdict.min_requests
    return policy.min_requests if recorded == verdict.policy["min_requests"] else recorded
