from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import yaml

from operators.core.durations import parse_duration_s
from operators.core.errors import SpecError
from operators.core.loader import INCLUDE, load_spec, spec_paths
from operators.core.spec import ModelSpec, PredictionSpec, prediction_spec
from operators.core.tasks import TASKS

SECOND_MODEL = """
name: on_time
owner: another-team
data:
  tables:
    flights: {source: raw/flights, time_column: sched_dep_at}
  query: queries/flight_delay.sql
  window: 30d
  holdout: 5d
  id: flight_id
  time: event_time
  label: label
  features: {carrier: category, distance: number}
validation: {suite: expectations/flight_delay.yaml}
training: {entrypoint: "ray_jobs.trainers.xgboost_classifier:train"}
gate: {metric: roc_auc}
release: {steps: [{weight_pct: 10, bake: 1m}]}
"""


def edited(tmp_path: Path, old: str, new: str, *, count: int = 1) -> Path:
    text = (INCLUDE / "models" / "flight_delay.yaml").read_text()
    assert text.count(old) >= count, f"{old!r} is not in the spec"
    path = tmp_path / "flight_delay.yaml"
    path.write_text(text.replace(old, new, count))
    return path


def message(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(path, include=INCLUDE)
    return str(caught.value)


@pytest.mark.parametrize("path", spec_paths(), ids=lambda path: path.stem)
def test_shipped_specs_are_valid_and_travel_as_json(path: Path) -> None:
    spec = load_spec(path)
    assert PredictionSpec.from_json(spec.to_json()) == spec


def test_second_model_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "on_time.yaml"
    path.write_text(SECOND_MODEL)
    spec = load_spec(path, include=INCLUDE)
    assert spec.release.steps[0].weight_bp == 1000
    assert spec.release.steps[0].bake_s == 60
    assert spec.training.timeout_s == 3600


def test_a_task_that_does_not_work_yet_says_what_does(tmp_path: Path) -> None:
    path = edited(tmp_path, "task: binary", "task: regression")
    assert "task: regression models cannot be trained and released yet; what works: binary" in message(path)


def test_a_gate_names_only_metrics_that_the_task_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = replace(TASKS["binary"], metrics=("roc_auc", "brier"))
    monkeypatch.setattr("operators.core.spec.TASKS", {"binary": without})
    text = message(edited(tmp_path, "name: flight_delay", "name: flight_delay"))
    assert "gate: a binary model has no metric log_loss; it has: roc_auc, brier" in text


def test_an_unknown_kind_of_model_is_refused_with_its_line(tmp_path: Path) -> None:
    path = edited(tmp_path, "\ndata:\n", "\nkind: generation\ndata:\n")
    assert "flight_delay.yaml:7: kind: 'generation' is not a kind of model; known: prediction" in message(path)


def test_a_spec_written_before_there_were_kinds_is_one_of_a_prediction_model() -> None:
    spec = load_spec(spec_paths()[0])
    document = json.loads(spec.to_json())
    del document["kind"], document["task"]
    assert ModelSpec.from_json(json.dumps(document)) == spec


def test_code_for_another_kind_of_model_is_told_so() -> None:
    class Other(ModelSpec):
        kind: Literal["other"] = "other"

    release = load_spec(spec_paths()[0]).release
    with pytest.raises(SpecError, match="is a model of the kind 'other'"):
        prediction_spec(Other(name="other", owner="us", release=release))


def test_unknown_key_names_line_and_suggestion(tmp_path: Path) -> None:
    path = edited(tmp_path, "cpus_per_worker:", "cpu_per_worker:")
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "cpu_per_worker" in text)
    assert f"{path}:{line}: training.scaling.cpu_per_worker: unknown key; did you mean 'cpus_per_worker'?" in message(
        path
    )


def test_unknown_key_at_the_top(tmp_path: Path) -> None:
    assert ": relase: unknown key; did you mean 'release'?" in message(edited(tmp_path, "\nrelease:", "\nrelase:"))


@pytest.mark.parametrize("bad", ["10", "10 s", "ten seconds", "10sec", "-1s", "0s"])
def test_wrong_unit_names_the_place(tmp_path: Path, bad: str) -> None:
    said = message(edited(tmp_path, "bake: 10s", f"bake: {bad}"))
    assert "release.steps.0.bake: " in said
    assert f":{_line_of('bake: 10s')}:" in said


def _line_of(text: str) -> int:
    lines = (INCLUDE / "models" / "flight_delay.yaml").read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if text in line)


def test_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    said = message(edited(tmp_path, "queries/flight_delay.sql", "queries/flight_dely.sql"))
    assert "data.query: 'queries/flight_dely.sql' does not exist" in said
    assert "did you mean 'queries/flight_delay.sql'?" in said


def test_unknown_function_lists_what_there_is(tmp_path: Path) -> None:
    said = message(edited(tmp_path, "xgboost_classifier:train", "xgboost_classifier:fit"))
    assert "training.entrypoint: ray_jobs.trainers.xgboost_classifier has no function 'fit'; it has: train" in said


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = edited(tmp_path, "owner: flight-operations", "ownr: x")
    path.write_text(
        path.read_text().replace("weight_pct: 25", "weight_pct: 250").replace("margin: 0.005", "margin: -1")
    )
    said = message(path)
    assert {line.split(": ")[1] for line in said.splitlines()} == {
        "owner",
        "ownr",
        "release.steps.1.weight_pct",
        "gate.margin",
    }


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("weight_pct: 25", "weight_pct: 3", "weight_pct must rise"),
        ("holdout: 7d", "holdout: 70d", "holdout must be shorter than window"),
        ("    carrier: category", "    label: category", "features must not contain"),
        ("name: flight_delay", "name: other", "make the two the same"),
        ("metric: log_loss", "metric: logloss", "'log_loss'"),
        ("end: 2013-12-31", "end: 2012-12-31", "end must be after start"),
        ("rounds: 60", 'rounds: [1, 2]', "training.parameters.rounds"),
        ("workers: 1", 'workers: "1"', "training.scaling.workers"),
    ],
)  # fmt: skip
def test_wrong_values(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in message(edited(tmp_path, old, new))


def test_duplicate_key(tmp_path: Path) -> None:
    assert "owner: appears twice" in message(edited(tmp_path, "\ndata:", "\nowner: me\ndata:"))


@pytest.mark.parametrize("text", ["", "- a\n- b", "name: [", "just words"])
def test_not_a_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert str(path) in message(path)


def test_spec_is_frozen() -> None:
    spec = load_spec(spec_paths()[0])
    with pytest.raises(ValueError, match="frozen"):
        spec.owner = "me"  # type: ignore[misc]


def test_durations() -> None:
    assert [parse_duration_s(t) for t in ("250ms", "30s", "1.5m", "6h", "7d", "2w")] == [
        0.25,
        30,
        90,
        21600,
        604800,
        1209600,
    ]


def test_every_key_of_the_shipped_spec_is_known_to_yaml_once() -> None:
    document = yaml.safe_load((INCLUDE / "models" / "flight_delay.yaml").read_text())
    assert {*document, "kind"} == set(PredictionSpec.model_fields)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("end: 2013-12-31", "end: 2013-11-31", "not valid YAML"),
        ("xgboost_classifier:train", "xgboost_classifier.gone:train", "is not a Python file"),
        ("ray_jobs.trainers.xgboost_classifier:train", "sys:exit", "is not a Python file"),
        ('"0 6 * * 1"', '"61 25 * * 1"', "is not a cron expression"),
        ('"0 6 * * 1"', '"@fortnightly"', "is not a cron expression"),
        ("owner: flight", "owner: \x07flight", "not valid YAML"),
    ],
)
def test_whatever_is_wrong_is_a_spec_error(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in message(edited(tmp_path, old, new))


def test_wrong_encoding_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"name: x\nowner: caf\xe9\n")
    assert message(path) == f"{path}:2: not UTF-8; save the file as UTF-8"


def test_one_wrong_spec_does_not_hide_the_others(tmp_path: Path) -> None:
    from operators.core.loader import load_specs

    include = tmp_path / "include"
    for folder in ("models", "queries", "expectations"):
        (include / folder).mkdir(parents=True)
    (include / "queries" / "flight_delay.sql").touch()
    (include / "expectations" / "flight_delay.yaml").touch()
    (include / "models" / "on_time.yaml").write_text(SECOND_MODEL)
    (include / "models" / "wrong.yaml").write_text("name: wrong\n")
    specs, problems = load_specs(include / "models")
    assert [spec.name for spec in specs] == ["on_time"]
    assert len(problems) == 1
