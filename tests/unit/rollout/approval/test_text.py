"""The evidence in the form in which a person decides."""

from __future__ import annotations

from typing import Any

from operators.core.rows import VerdictRow
from operators.rollout.approval.text import as_markdown
from tests.support.step_world import RELEASE


def guard(low: float, high: float, margin: float, missing: str = "") -> dict[str, Any]:
    return {
        "e": 0.5,
        "threshold": 300.0,
        "interval": [low, high],
        "margin": margin,
        "refuted": False,
        "missing": missing,
    }


def test_shares_are_shown_as_in_the_judges_sentences() -> None:
    guards = {
        "failures": guard(-0.012, 0.0361, 0.02, "the canary may still be worse by up to 3.61 points"),
        "cpu": guard(-0.2, 0.15, 0.1),
        "loss": guard(-1.25, 3.5, 2.0),
        "prediction": {**guard(0, 0, 0.02), "interval": None},
    }
    row = VerdictRow(
        step="canary_5_pct",
        policy={"series": {"cpu": {}}},
        evidence={},
        elapsed_s=1.0,
        judgement={"outcome": "Inconclusive", "reason": "a | b", "guards": guards},
    )
    text = as_markdown(RELEASE, [row])
    assert "| canary_5_pct | Inconclusive | a \\| b |" in text
    assert (
        "| failures | 0.5, fails at 300 | -1.2 and 3.61 points | 2 points | the canary may still be worse by up to"
        in text
    )
    assert "| cpu | 0.5, fails at 300 | -20 and 15 % | 10 % | nothing |" in text
    assert "| loss | 0.5, fails at 300 | -1.25 and 3.5 | 2 | nothing |" in text
    assert "| prediction | 0.5, fails at 300 | unknown | 2" not in text
