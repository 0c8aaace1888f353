from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.cli.judge import answers, read_policy
from operators.cli.judge_input import Looks
from operators.core.errors import ConfigurationError


def counts(requests: int, failed: int, slow: int | None = 0) -> dict[str, int | None]:
    return {"requests": requests, "failed": failed} | ({} if slow is None else {"slow": slow})


def look(t: float, weight: float, **more: Any) -> dict[str, Any]:
    return {"t": t, "weight": weight, **more}


def judged(*looks: dict[str, Any], policy: dict[str, Any] | None = None, **options: float) -> list[dict[str, Any]]:
    return list(answers([json.dumps(x) for x in looks], policy or {}, **options))


def verdicts(*looks: dict[str, Any], **options: Any) -> list[str]:
    return [answer["verdict"] for answer in judged(*looks, **options)]


GOOD = look(60, 0.1, stable=counts(9000, 30), canary=counts(1000, 3))


def test_good_bad_and_undecided() -> None:
    early = look(1, 0.1, stable=counts(900, 3), canary=counts(100, 0))
    assert verdicts(early, GOOD) == ["Continue", "Successful"]
    assert verdicts(look(1, 0.1, stable=counts(900, 3), canary=counts(100, 20))) == ["Failed"]


def test_an_answer_has_what_was_promised() -> None:
    (answer,) = judged(GOOD)
    assert set(answer) == {"t", "verdict", "guards", "reason"}
    assert set(answer["guards"]) == {"failures", "slow"}
    low, high = answer["guards"]["failures"]["interval"]
    assert low < 0 < high < 0.01
    assert answer["guards"]["failures"]["threshold"] == 200


def test_without_slow_answers_a_bad_canary_fails_and_a_good_one_waits() -> None:
    assert verdicts(look(1, 0.1, stable=counts(900, 3, None), canary=counts(100, 20, None))) == ["Failed"]
    (answer,) = judged(look(1, 0.1, stable=counts(90000, 300, None), canary=counts(10000, 30, None)))
    assert answer["verdict"] == "Continue"
    assert answer["guards"]["slow"]["interval"] is None


def test_failed_stays_failed() -> None:
    bad = look(1, 0.1, stable=counts(900, 3), canary=counts(100, 20))
    later = look(900, 0.1, stable=counts(90000, 3), canary=counts(10000, 20))
    first, second = judged(bad, later)
    assert second["verdict"] == "Failed"
    assert second["reason"] == first["reason"]
    assert second["reason"].startswith("failed at t = 1: failures: ")


def test_gains_belong_to_the_weight_of_their_look() -> None:
    # 60 of 300 failures are the canary's, at 5 % and at 50 % of the traffic: as many as its share of either.
    first = look(1, 0.05, stable=counts(9500, 190, 0), canary=counts(500, 10, 0))
    second = look(2, 0.5, stable=counts(12000, 240, 0), canary=counts(3000, 60, 0))
    assert judged(first, second)[1]["guards"]["failures"]["e"] < 1
    assert judged(second)[0]["guards"]["failures"]["e"] < 1e-9  # all at 50 %
    assert judged(look(2, 0.05, stable=counts(12000, 240, 0), canary=counts(3000, 60, 0)))[0]["verdict"] == "Failed"


def test_a_counter_that_goes_back_began_anew() -> None:
    looks = Looks()
    looks.add(look(1, 0.1, stable=counts(900, 9), canary=counts(100, 4)))
    looks.add(look(2, 0.1, stable=counts(1800, 18), canary=counts(30, 1)))
    (period,) = looks.evidence().periods
    assert (period.canary.requests, period.canary.failed) == (130, 5)
    assert (period.stable.requests, period.stable.failed) == (1800, 18)


def test_no_weight_is_nothing_to_compare_and_the_baseline_does_not_count() -> None:
    before = look(0, 0, stable=counts(50000, 5000))
    after = look(60, 0.1, stable=counts(59000, 5030), canary=counts(1000, 3))
    first, second = judged(before, after)
    assert first["verdict"] == "Continue"
    assert "no weight" in first["reason"]
    assert second["verdict"] == "Successful"
    assert "30 of 9,000 stable units" in second["reason"]
    back = judged(before, after, look(61, 0, stable=counts(60000, 5040), canary=counts(1000, 3)))[2]
    assert back["verdict"] == "Continue"


def test_nan_is_missing_and_says_so() -> None:
    line = json.dumps(GOOD).replace('"failed": 3,', '"failed": NaN,')
    (answer,) = answers([line], {})
    assert answer["verdict"] == "Continue"
    assert answer["guards"]["failures"]["interval"] is None


def test_what_is_missing_at_a_change_of_weight_belongs_to_neither() -> None:
    looks = Looks()
    looks.add(look(1, 0.1, stable=counts(900, 9), canary=counts(100, 4)))
    looks.add(look(2, 0.1, stable=counts(1800, 18), canary={"requests": 200}))
    looks.add(look(3, 0.5, stable=counts(1900, 19), canary=counts(300, 9)))
    assert looks.evidence().periods[-1].canary.failed is None
    looks.add(look(4, 0.5, stable=counts(1900, 19), canary=counts(300, 9)))
    looks.add(look(5, 0.2, stable=counts(2700, 20), canary=counts(500, 10)))
    assert looks.evidence().periods[-1].canary.failed == 1


NOTHING, BAD = {"stable_only_wrong": 0, "canary_only_wrong": 0}, {"stable_only_wrong": 10, "canary_only_wrong": 60}


def test_pairs_on_the_first_line_are_a_guard() -> None:
    first, second = judged({**GOOD, "pairs": NOTHING}, {**GOOD, "pairs": BAD})
    assert (first["verdict"], second["verdict"]) == ("Continue", "Failed")
    assert second["guards"]["labels"]["threshold"] == 300
    assert judged({**GOOD, "pairs": BAD}, policy={"slow": None})[0]["guards"]["labels"]["threshold"] == 200


def test_pairs_alone_are_judged_alone() -> None:
    _, second = judged(look(0, 0.1, pairs=NOTHING), look(1, 0.1, pairs=BAD))
    assert second["verdict"] == "Failed"
    assert set(second["guards"]) == {"labels"}
    assert second["guards"]["labels"]["threshold"] == 100
    good = {"stable_only_wrong": 300, "canary_only_wrong": 300, "total": 20000}
    assert judged(look(0, 0.1, pairs=good))[0]["verdict"] == "Continue"  # no unit of the canary was seen
    with pytest.raises(ConfigurationError, match="line 2: the first line had pairs alone"):
        judged(look(0, 0.1, pairs=NOTHING), GOOD)


def test_what_is_gained_in_a_day_is_a_block() -> None:
    def shown(day: int, per_day: int) -> dict[str, Any]:
        wrong = {"stable_only_wrong": 600 * day, "canary_only_wrong": (600 + per_day) * day, "total": 20_000 * day}
        return look(86400.0 * day + 5, 0.1, pairs=wrong)

    worse = [one["verdict"] for one in judged(*(shown(day, 400) for day in range(14)))]
    assert worse.index("Failed") in range(8, 12)
    at_once = judged(
        *(shown(day, 400) for day in range(3)),
        policy={"failures": None, "slow": None, "labels": {"within": "1d", "block": "none"}},
    )
    assert [one["verdict"] for one in at_once] == ["Continue", "Failed", "Failed"]
    as_good = judged(*(shown(day, 0) for day in range(10)))[-1]["guards"]["labels"]
    assert as_good["interval"][1] < as_good["margin"]


def test_pairs_that_come_later_are_not_ignored_in_silence() -> None:
    late = judged(look(0, 0.1), {**GOOD, "pairs": NOTHING})[1]
    assert late["verdict"] == "Inconclusive"
    assert "pairs are not judged" in late["reason"]


def test_pairs_that_grow_slowly_keep_what_was_shown() -> None:
    only = {"failures": None, "slow": None, "labels": {"within": "1d", "block": "none"}}
    looks = [look(i, 0.5, pairs={"stable_only_wrong": i, "canary_only_wrong": i, "total": 100 * i}) for i in range(300)]
    units = {"stable": {"requests": 500}, "canary": {"requests": 500}}
    assert judged(*(x | units for x in looks), policy=only)[-1]["verdict"] == "Successful"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("9" * 5000, "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[]", "line 2: the line is not a JSON object"),
        ('{"weight": 0.1}', "line 2: `t` is missing"),
        ('{"t": 1}', "line 2: `weight` is missing"),
        ('{"t": 1, "weight": 1}', "line 2: `weight` is 1; it is the canary's share, from 0 to below 1"),
        ('{"t": 1, "weight": 5}', "for 5 % write 0.05"),
        ('{"t": 1, "weight": -0.1}', "line 2: `weight` is -0.1"),
        ('{"t": 1, "weight": NaN}', "line 2: `weight` is nan"),
        ('{"t": 1, "weight": 1e-300}', "line 2: `weight` is 1e-300"),
        ('{"t": 1' + "0" * 400 + ', "weight": 0.1}', "line 2: `t` is 1000"),
        ('{"t": 1, "weight": 0.1, "canary": {"requests": 1' + "0" * 400 + "}}", "line 2: `canary`: `requests` is 1000"),
        ('{"t": -1, "weight": 0.1}', "but the look before is at"),
        ('{"t": 1, "weight": 0.1, "canry": {}}', "did you mean 'canary'"),
        (
            '{"t": 1, "weight": 0.1, "canary": {"errors": 1}}',
            "`canary` has the unknown key `errors`; known here: requests",
        ),
        ('{"t": 1, "weight": 0.1, "canary": {"fails": 1}}', "did you mean 'failed'"),
        ('{"t": 1, "weight": 0.1, "canary": 3}', "`canary` is not a JSON object"),
        ('{"t": 1, "weight": 0.1, "canary": {"requests": -1}}', "`requests` is -1"),
        ('{"t": 1, "weight": 0.1, "canary": {"requests": 1.5}}', "`requests` is 1.5"),
        ('{"t": 1, "weight": 0.1, "canary": {"requests": "7"}}', "`requests` is '7'"),
        ('{"t": 1, "weight": 0.1, "canary": {"requests": 1, "failed": 2}}', "`failed` is 2, more than `requests`, 1"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=r".") as caught:
        list(answers(['{"t": 0, "weight": 0.1}', line], {}))
    assert message in str(caught.value)


@pytest.mark.parametrize("wrap", [{}, {"judge": None}, {"release": {"judge": None}}])
def test_policy_files(tmp_path: Path, wrap: dict[str, Any]) -> None:
    part: dict[str, Any] = {"alpha": 0.001, "max_wait": "5m", "slow": None}
    document = part if not wrap else {"judge": part} if "judge" in wrap else {"name": "m", "release": {"judge": part}}
    path = tmp_path / "policy.yaml"
    path.write_text(json.dumps(document))
    assert judged(GOOD, policy=read_policy(path))[0]["guards"]["failures"]["threshold"] == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alhpa: 0.1", "alhpa: unknown key; did you mean 'alpha'?"),
        ("alpha: 3", "alpha: should be less than or equal to 0.5"),
        ("failures: {margin_pct: x}", "failures.margin_pct:"),
        ("{failures: null, slow: null}", "a judge without guards"),
        ("[1]", "not a mapping"),
        ("a: [", "policy.yaml:"),
    ],
)
def test_a_wrong_policy_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r".") as caught:
        read_policy(path)
    assert message in str(caught.value)


def test_an_empty_policy_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("")
    assert read_policy(path) == {}


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5]), *[st.integers(0, 40)] * 4), max_size=12))
def test_evidence_is_the_sum_of_the_gains_by_weight(steps: list[tuple[float, int, int, int, int]]) -> None:
    looks, totals, expected = Looks(), [0, 0, 0, 0], dict.fromkeys([0.0, 0.1, 0.5], 0)
    for t, (weight, *more) in enumerate(steps):
        gains = [more[0] + more[1], more[1], more[2] + more[3], more[3]]
        totals = [a + b for a, b in zip(totals, gains, strict=True)]
        looks.add(look(t, weight, stable=counts(*totals[:2], None), canary=counts(*totals[2:], None)))
        expected[weight] += more[3]
    seen: dict[float, int] = {}
    for period in looks.evidence().periods:
        arm = period.canary
        seen[period.weight] = seen.get(period.weight, 0) + (
            arm.failed if arm.failed_first is None else arm.failed_first or 0
        )
    assert {w: n for w, n in seen.items() if n} == {w: n for w, n in expected.items() if n and w}


def test_each_look_is_answered_before_the_next_is_read() -> None:
    code = "import argparse, operators.cli.judge as j; p = argparse.ArgumentParser(); j.add_parser(p.add_subparsers()); o = p.parse_args(['judge']); raise SystemExit(o.run(o))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for t in range(3):
            process.stdin.write(json.dumps({**GOOD, "t": t}) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["t"] == t
        process.stdin.close()
        assert process.wait(10) == 0
