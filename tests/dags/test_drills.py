from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from operators.core.errors import SpecError
from operators.core.loader import load_spec
from tests.dags.test_dags import DAGS, parse

KEY = "  approval: {mode: automatic}\n"


def add_drill(include: Path, text: str) -> Path:
    path = include / "models" / "flight_delay.yaml"
    spec = path.read_text()
    assert KEY in spec
    path.write_text(spec.replace(KEY, f"{KEY}  drill: {text}\n"))
    return path


def test_a_drill_by_hand_cleans_up_whatever_becomes_of_it() -> None:
    found = parse(DAGS / "drills.py")
    assert found["params"]["drill"] == ["model", "fault"]
    assert found["dags"] == {
        "drill": {
            "claim": ["clean_up", "prepare"],
            "prepare": ["clean_up", "drill"],
            "drill": ["clean_up"],
            "clean_up": [],
        }
    }


def test_a_spec_that_wants_it_has_a_dag_on_schedule(include: Path) -> None:
    add_drill(include, "{schedule: 0 4 * * 6, faults: [bad_canary, dead_agent]}")
    found = parse(DAGS / "drills.py", include)
    assert set(found["dags"]) == {"drill", "flight_delay.drill"}
    assert found["dags"]["flight_delay.drill"] == found["dags"]["drill"]
    assert found["params"]["flight_delay.drill"] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{schedule: 0 99 * * 6}", "release.drill.schedule: '0 99 * * 6' is not a cron expression"),
        ("{schedule: '@daily', fault: [bad_canary]}", "release.drill.fault: unknown key; did you mean 'faults'?"),
        ("{schedule: '@daily', faults: [bad_cannary]}", "release.drill.faults.0"),
    ],
)
def test_a_wrong_drill_is_refused_with_a_reason(include: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said.replace("*", r"\*").replace("?", r"\?")):
        load_spec(add_drill(include, text))


def test_clearing_the_drill_clears_all_of_it() -> None:
    """A try on the copy of the one before would find it taken away. Airflow adds a task's setups and their teardown."""
    found = importlib.util.spec_from_file_location("drills_to_clear", DAGS / "drills.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    cleared = module.drill.partial_subset(["drill"], include_downstream=True, include_upstream=False)
    assert sorted(cleared.task_ids) == ["claim", "clean_up", "drill", "prepare"]
