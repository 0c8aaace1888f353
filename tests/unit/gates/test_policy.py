from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from operators.core.spec_training import Gate
from operators.gates.policy import decide

GATE = Gate.model_validate(
    {"metric": "log_loss", "margin": 0.01, "require": {"roc_auc": {"min": 0.6}}, "min_rows": 100}
)


def metrics(log_loss: float, roc_auc: float = 0.7) -> dict[str, float]:
    return {"log_loss": log_loss, "roc_auc": roc_auc, "brier": 0.1, "accuracy": 0.8}


def test_first_champion_needs_only_the_limits() -> None:
    assert decide(GATE, rows=100, challenger=metrics(9.0), champion=None).passed
    assert not decide(GATE, rows=100, challenger=metrics(0.1, roc_auc=0.59), champion=None).passed


def test_every_reason_is_told() -> None:
    decision = decide(GATE, rows=99, challenger=metrics(0.5, roc_auc=0.5), champion=metrics(0.4))
    assert [reason.split()[0] for reason in decision.reasons] == ["the", "roc_auc", "log_loss"]


@given(st.floats(0, 2), st.floats(0, 2))
def test_margin_is_non_inferiority_for_a_loss(ours: float, theirs: float) -> None:
    assert decide(GATE, rows=100, challenger=metrics(ours), champion=metrics(theirs)).passed == (
        ours - theirs <= GATE.margin
    )


@given(st.floats(0, 1), st.floats(0, 1))
def test_direction_of_a_score(ours: float, theirs: float) -> None:
    gate = Gate.model_validate({"metric": "roc_auc", "margin": 0.05, "min_rows": 1})
    decision = decide(gate, rows=1, challenger=metrics(1, ours), champion=metrics(1, theirs))
    assert decision.passed == (theirs - ours <= gate.margin)
