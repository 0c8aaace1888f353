from __future__ import annotations

import numpy as np
import pytest

from operators.core.tasks import HIGHER_IS_BETTER, TASKS
from ray_jobs.training.evaluate import metrics


@pytest.mark.parametrize("label", [[0, 1, 1, 0], [1, 1, 1, 1]], ids=["both classes", "one class"])
def test_what_a_gate_may_name_is_what_is_measured(label: list[int]) -> None:
    measured = metrics(np.array(label), np.array([0.2, 0.7, 0.6, 0.4]))
    assert set(measured) == set(TASKS["binary"].metrics)
    assert all(np.isfinite(value) for value in measured.values())


def test_better_answers_are_better_by_every_metric() -> None:
    label = np.array([0, 1, 1, 0])
    good, bad = metrics(label, np.array([0.1, 0.9, 0.8, 0.2])), metrics(label, np.array([0.6, 0.4, 0.7, 0.9]))
    for name, higher in HIGHER_IS_BETTER.items():
        assert (good[name] > bad[name]) is higher
