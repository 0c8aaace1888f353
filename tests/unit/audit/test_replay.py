"""A recorded release is judged once more: the same by its own policy, and otherwise by another."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operators.audit.replay import as_recorded, by_spec, replay, same_policy
from operators.audit.replay_text import rendered
from operators.cli.replay import with_judge
from operators.core.errors import ConfigurationError
from operators.core.ledger_entry import Entry, LookEntry, json_digest
from operators.core.rows import VerdictRow
from operators.core.spec_judge import Judge
from operators.core.spec_release import Release
from operators.judge.evidence import Arm, Evidence, Outcome, Pairs, Period
from operators.judge.phases import alpha_share, judge_parts, policies
from tests.support.specs import small_spec

_BEGAN = datetime(2026, 5, 1, tzinfo=UTC)
_EVERY_S, _PER_LOOK = 2, 40


def release(**judge: Any) -> Release:
    given = {"alpha": 0.02, "min_requests": 50, "max_wait": "5m", "failures": {"margin_pct": 5}, "slow": None, **judge}
    shadow = {"sample_pct": 100, "bake": "10s"} if "labels" in judge else None
    return Release.model_validate({"steps": [{"weight_pct": 50, "bake": "10s"}], "judge": given, "shadow": shadow})


def evidence(looks: int, failed: int, pairs: Pairs | None = None) -> Evidence:
    count = _PER_LOOK * looks
    arms = {"stable": Arm(requests=count, failed=0, slow=0), "canary": Arm(requests=count, failed=failed, slow=0)}
    return Evidence(periods=(Period(weight=0.5, **arms),), pairs=pairs)


class Record:
    """What the ledger would have of a release, in which every look is written down a moment after it was made."""

    def __init__(self, spec: Release) -> None:
        self.spec, self.looks, self.verdicts = spec, list[LookEntry](), list[Entry]()

    def step(self, step: str, seen: list[Evidence], *, late: bool = False, blind: bool = False) -> Outcome:
        """Look until there is a verdict."""
        parts = policies(self.spec.judge, late=late, alpha_share=alpha_share(self.spec))
        asked: dict[str, Any] = {"bake_s": 10.0, "min_requests": self.spec.judge.min_requests, "harm_weight": 1.0}
        for number, one in enumerate(seen, 1):
            elapsed_s = float(_EVERY_S * number)
            said = judge_parts(parts, one, elapsed_s=elapsed_s, **asked)
            at, shown = _BEGAN + timedelta(seconds=elapsed_s + 0.004), json.loads(one.model_dump_json())
            self.looks.append(
                LookEntry(
                    model="m", release_id="r", step=step, n=number, at=at, evidence=shown, digest=json_digest(shown)
                )
            )  # fmt: skip
            if said.outcome is not Outcome.CONTINUE:
                break
        part = parts[-1] if said.part == "veto" else parts[0]
        judgement = said.model_dump(mode="json") | ({"outcome": "Inconclusive", "reason": "blind"} if blind else {})
        payload = {
            "step": step,
            "policy": part.model_dump(mode="json", by_alias=True),
            "evidence": shown,
            "elapsed_s": elapsed_s,
            **asked,
            "judgement": judgement,
            "blind": blind,
        }
        row = {
            "model": "m",
            "seq": 1,
            "kind": "verdict",
            "release_id": "r",
            "key": step,
            "previous_hash": "",
            "hash": "",
        }
        self.verdicts.append(Entry(**row, at=at + timedelta(seconds=5), payload=json.loads(json.dumps(payload))))
        return said.outcome


GOOD = [evidence(n, 0) for n in range(1, 20)]
BAD = [evidence(n, 2 * n) for n in range(1, 20)]  # 5 % fail


@pytest.mark.parametrize(("seen", "outcome"), [(GOOD, Outcome.SUCCESSFUL), (BAD, Outcome.FAILED)])
def test_the_same_policy_gives_the_same_verdict_at_the_same_look(seen: list[Evidence], outcome: Outcome) -> None:
    record = Record(release())
    assert record.step("canary_50", seen) is outcome
    again = replay("r", record.looks, record.verdicts)
    assert again.same
    assert again.steps[0].replayed == again.steps[0].recorded
    assert again.steps[0].replayed.look == len(record.looks) > 2
    assert again.steps[0].replayed.elapsed_s == 2.0 * len(record.looks)
    assert same_policy(record.verdicts, by_spec(release()))
    assert replay("r", record.looks, record.verdicts, by_spec(release())).same


def test_a_bolder_alpha_stops_it_sooner_and_a_stricter_one_not_yet() -> None:
    record = Record(release())
    record.step("canary_50", BAD)
    bold, strict = (replay("r", record.looks, record.verdicts, by_spec(release(alpha=a))) for a in (0.3, 0.0001))
    assert bold.steps[0].replayed.outcome is Outcome.FAILED
    assert bold.steps[0].replayed.look < len(record.looks)
    assert (bold.same, strict.same) == (False, False)
    assert strict.steps[0].replayed.outcome is Outcome.CONTINUE
    assert strict.steps[0].replayed.look == len(record.looks)
    assert not same_policy(record.verdicts, by_spec(release(alpha=0.3)))
    said = rendered(replay("r", record.looks, record.verdicts), bold, width=140)
    assert "the same" in said
    assert "With this policy the release ends at canary_50" in said
    assert "nothing in the record stops" in rendered(replay("r", record.looks, record.verdicts), strict, width=140)


def test_another_margin_and_a_later_step() -> None:
    record = Record(release())
    record.step("canary_10", GOOD)
    record.step("canary_50", BAD)
    wide = replay("r", record.looks, record.verdicts, by_spec(release(failures={"margin_pct": 20})))
    assert [step.replayed.outcome for step in wide.steps] == [Outcome.SUCCESSFUL, Outcome.FAILED]
    assert wide.steps[0].replayed.look <= wide.steps[0].recorded.look
    narrow = replay("r", record.looks, record.verdicts, by_spec(release(failures={"margin_pct": 0.1})))
    assert [step.replayed.outcome for step in narrow.steps] == [Outcome.CONTINUE, Outcome.FAILED]
    assert "canary_10: this policy has no verdict" in rendered(
        replay("r", record.looks, record.verdicts), narrow, width=140
    )
    record = Record(release(min_requests=400))
    record.step("canary_10", GOOD)
    record.step("canary_50", BAD)
    fewer = replay("r", record.looks, record.verdicts, by_spec(release()))
    assert fewer.steps[0].replayed.look < fewer.steps[0].recorded.look
    short = replay("r", record.looks, record.verdicts, by_spec(release(max_wait="3s", min_requests=400)))
    assert [step.step for step in short.steps] == ["canary_10"]  # Inconclusive there: the next step does not begin
    assert "does not begin" in rendered(replay("r", record.looks, record.verdicts), short, width=140)


def test_only_a_failure_ends_a_watch() -> None:
    record = Record(release())
    record.step("watch", GOOD, late=True)
    more = evidence(30, 0)
    verdict = record.verdicts[0]
    end = {**verdict.payload, "evidence": json.loads(more.model_dump_json()), "elapsed_s": 60.0}
    said = judge_parts(
        as_recorded(VerdictRow.of(verdict)), more, elapsed_s=60.0, bake_s=10.0, min_requests=50, harm_weight=1.0
    )
    end["judgement"] = json.loads(said.model_dump_json())
    again = replay("r", record.looks, [verdict.model_copy(update={"payload": end})])
    assert again.same
    assert again.steps[0].replayed.look == len(record.looks) + 1  # the last one was no news


def test_labels_that_failed_a_version_aside_are_heard_and_the_rest_went_on() -> None:
    # With so small a margin the counters hold it, while labels alone would let it go on at the fifth look.
    labels = {"within": "1h", "block": "none", "margin_pct": 5, "min_pairs": 10}
    record = Record(release(labels=labels, failures={"margin_pct": 0.01}))
    wrong = [
        evidence(n, 0, Pairs(total=40 * n, canary_only_wrong=max(0, 8 * (n - 8)), answered=40 * n))
        for n in range(1, 20)
    ]
    assert record.step("canary_50", wrong) is Outcome.FAILED
    assert list(record.verdicts[0].payload["judgement"]["guards"]) == ["labels"]
    again = replay("r", record.looks, record.verdicts)
    assert again.same
    assert again.steps[0].replayed.look > 8
    aside = as_recorded(VerdictRow.of(record.verdicts[0]))
    assert replay("r", record.looks, record.verdicts, lambda _: aside).steps[0].replayed.outcome is Outcome.SUCCESSFUL


def test_what_nobody_could_see_is_not_judged() -> None:
    record = Record(release())
    record.step("canary_50", GOOD[:1], blind=True)
    assert replay("r", record.looks, record.verdicts).same
    looks = [look.model_copy(update={"step": "other"}) for look in record.looks]
    assert replay("r", [*record.looks, *looks], record.verdicts).unseen == ("other",)


def test_a_verdict_that_was_turned_is_found() -> None:
    record = Record(release())
    record.step("canary_50", BAD)
    record.verdicts[0].payload["judgement"]["outcome"] = "Successful"
    again = replay("r", record.looks, record.verdicts)
    assert not again.same
    assert "canary_50: the record says" in rendered(again, None, width=140)


def test_a_policy_is_changed_key_by_key() -> None:
    spec = small_spec()
    changed = with_judge(spec, ["alpha=0.001", "judge.failures.margin_pct=2", "slow=null", "max_wait=7m"]).release.judge
    assert (changed.alpha, changed.max_wait_s, changed.slow) == (0.001, 420.0, None)
    assert changed.failures is not None
    assert changed.failures.margin_pct == 2
    assert with_judge(spec, []) == spec
    assert isinstance(changed, Judge)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alpha", "KEY=VALUE"),
        ("alpha=2", "alpha: "),
        ("alhpa=0.1", "alhpa"),
        ("=1", "KEY=VALUE"),
        ("alpha=[", "--judge"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        with_judge(small_spec(), [text])
