"""Ask a person whether a release continues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.context import NEVER_EXPIRE
from airflow.sdk.execution_time.hitl import HITLUser, upsert_hitl_detail

from operators.core.spec import ModelSpec
from operators.judge.evidence import Outcome
from operators.judge.phases import canary_phase
from operators.rollout.approval.text import as_markdown
from operators.rollout.approval.triggers import ApprovalTrigger
from operators.rollout.operators import with_retries
from operators.rollout.release_moves import ReleaseMoves
from operators.rollout.steps.operators import StepTask

GO_ON, ROLL_BACK = "Go on", "Roll back"
Answer = Literal["go_on", "roll_back"]
_ASKED = "asked"


class ApproveOperator(StepTask, HITLOperator):
    """Ask a person whether the release goes on. The form in Airflow shows the evidence, and the canary is watched
    meanwhile.

    :param spec: spec of the model
    :param release: what `BeginReleaseOperator` returned (templated)
    :param verdict: what the step before returned (templated)
    :param index: number of the step at which the canary stands, from 0
    :returns: ``answer`` and who gave it
    :raises AirflowFailException: the answer is to roll back, or the canary turned out bad before there was an answer
    """

    template_fields: Sequence[str] = ("release", "verdict")

    def __init__(self, *, spec: ModelSpec, release: Any, verdict: Any, index: int, **kwargs: Any) -> None:
        approval = spec.release.approval
        super().__init__(
            subject=f"Release of {spec.name}",
            options=[GO_ON, ROLL_BACK],
            defaults=GO_ON if approval.otherwise == "go_on" else ROLL_BACK,
            assigned_users=_users(spec),
            response_timeout=timedelta(seconds=approval.respond_within_s),
            **with_retries(kwargs),
        )
        self.spec = spec
        self.release = release
        self.verdict = verdict
        self.index = index

    def execute(self, context: Any) -> dict[str, Any]:
        """Show the evidence, and wait for an answer."""
        if not self.verdict:
            raise AirflowSkipException("the first release has nothing to compare with, and asks nobody")
        if self.spec.release.approval.mode == "ask" and self.verdict["outcome"] == Outcome.SUCCESSFUL:
            raise AirflowSkipException("the judge has decided; nobody need be asked")
        moves = self.moves()
        given = moves.approval(self.release["release_id"], self.task_id)
        if given is not None:  # this task was run before, and lost after the answer: nobody is asked twice
            return self._obey(given.answer, given.by)
        self.subject = f"Release version {self.release['version']} of {self.spec.name}? {self.verdict['reason']}"
        self.body = as_markdown(self.release, moves.verdicts(self.release["release_id"]))
        store = context["task_state_store"]
        if store.get(_ASKED) != self.release["release_id"]:
            self._ask(context)
            store.set(_ASKED, self.release["release_id"], retention=NEVER_EXPIRE)
        self._wait(moves, context)
        raise AssertionError("a task that is deferred does not come back here")

    def _ask(self, context: Any) -> None:
        """Show the form once: shown again, Airflow would discard an answer that has come already.

        A person may answer before Airflow has noted the deferral. Airflow then resumes the task at once, takes it for a killed
        one, and tries it again.
        """
        # The operator's own `execute` would park the task; nobody would watch the canary then, and it would lose its traffic.
        upsert_hitl_detail(
            ti_id=context["task_instance"].id,
            options=self.options,
            subject=self.subject,
            body=self.body,
            defaults=self.defaults,
            multiple=False,
            params={},
            assigned_users=self.assigned_users,
        )
        self.tell("pause", self.subject, context)

    def _wait(self, moves: ReleaseMoves, context: Any) -> None:
        release = self.spec.release
        phase = canary_phase(release, self.index)
        live = self.live(phase, self.before(moves, "canary"), began_at=time.time())
        trigger = ApprovalTrigger(
            spec=self.spec.to_json(),
            watched=live.model_dump(mode="json"),
            ti_id=context["task_instance"].id,
            options=self.options,
            params={},
            defaults=self.defaults,
            multiple=False,
            timeout_datetime=datetime.now(UTC) + timedelta(seconds=release.approval.respond_within_s),
        )
        self.defer(trigger=trigger, method_name="answered", kwargs={"watched": live.model_dump_json()})

    def answered(self, context: Any, event: dict[str, Any], watched: str) -> dict[str, Any]:
        """Write down who answered what, and obey."""
        if "look" in event:
            look = self.note(event, watched)
            raise AirflowFailException(f"{look.outcome} while a person was asked: {look.judgement.reason}")
        answer = self.execute_complete(context, event)
        chosen, user = answer["chosen_options"][0], answer["responded_by_user"]
        by = user["name"] if user else "timeout"
        answered: Answer = "go_on" if chosen == GO_ON else "roll_back"
        self.moves().approve(self.release["release_id"], self.task_id, answer=answered, by=by)
        return self._obey(answered, by)

    def _obey(self, answer: str, by: str) -> dict[str, Any]:
        if answer != "go_on":
            raise AirflowFailException(f"{by} decided to roll back")
        return {"answer": answer, "by": by}


def _users(spec: ModelSpec) -> list[HITLUser] | None:
    approvers = spec.release.approval.approvers
    if "anyone" in approvers:
        return None
    names = [spec.owner if name == "owner" else name for name in approvers]
    return [HITLUser(id=name, name=name) for name in names]
