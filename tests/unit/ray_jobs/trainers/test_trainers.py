"""The worker loops of the trainers, in this process: killed, taken up again, and what they make served."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from operators.core.storage import Storage
from ray_jobs.trainers.encoding import learn_encoder
from ray_jobs.training.checkpoints import Checkpoints
from ray_jobs.training.worker import LoneWorker, Task
from tests.support.training import spec, table, training_run, write

STEPS = 8
PARAMETERS: dict[str, dict[str, Any]] = {
    "xgboost_classifier": {"rounds": STEPS, "max_depth": 4, "learning_rate": 0.3},
    "lightgbm_classifier": {"rounds": STEPS, "num_leaves": 7},
    "tabular_network": {
        "epochs": STEPS,
        "batch_size": 64,
        "learning_rate": 0.01,
        "hidden_units": 8,
        "hidden_layers": 2,
        "weight_decay": 0.0,
    },
}
ARTIFACTS = {
    "xgboost_classifier": {"booster": "booster.ubj"},
    "lightgbm_classifier": {"booster": "booster.txt"},
    "tabular_network": {"weights": "weights.npz"},
}


class Killed(BaseException):
    """What a process that is killed looks like from within."""


class Trial:
    """One trainer on one dataset, as often as wanted."""

    def __init__(self, trainer: str, folder: Path) -> None:
        if trainer == "tabular_network":
            pytest.importorskip("torch")
        self.module = importlib.import_module(f"ray_jobs.trainers.{trainer}")
        self.trainer, self.folder = trainer, folder
        self.storage = Storage(f"file://{folder}/store")
        write(self.storage, table(2000), folder)
        self.run = training_run(self.storage, spec(), folder)
        self.encoder = learn_encoder(self.run.data, self.run.spec.features)
        self.reports: list[Mapping[str, float]] = []

    def train(self, name: str, *, threads: int = 1, seed: int = 7, die_after: int | None = None) -> Mapping[str, float]:
        task = Task(
            data=self.run.data, streams=False, threads=threads, device="cpu", seed=seed, checkpoint_every_s=1e-9
        )
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        worker = LoneWorker(task, folder, self.checkpoints(name))
        kept = worker.report
        self.reports = []

        def report(metrics: Mapping[str, float], files: Path | None = None) -> None:
            kept(metrics, files)
            self.reports.append(metrics)
            if die_after == len(self.reports):
                raise Killed

        worker.report = report  # type: ignore[method-assign]
        config = {"encoder": self.encoder, "label": "late", "parameters": PARAMETERS[self.trainer]}
        self.module.train_on_worker(worker, config)
        return self.reports[-1]

    def checkpoints(self, name: str) -> Checkpoints:
        return Checkpoints(self.run.storage_filesystem, f"{self.run.storage_path}/{name}")

    def served(self, name: str) -> Any:
        files = self.checkpoints(name).restore(self.folder / f"served-{name}")
        assert files is not None
        (files / "encoder.json").write_text(json.dumps(self.encoder))
        artifacts = {key: str(files / file) for key, file in ARTIFACTS[self.trainer].items()}
        module = importlib.import_module(f"ray_jobs.trainers.{self.trainer.replace('_classifier', '')}_served")
        kind = next(
            v
            for name, v in vars(module).items()
            if name.endswith(("Model", "Network")) and v.__module__ == module.__name__
        )
        model = kind()
        model.load_context(SimpleNamespace(artifacts={**artifacts, "encoder": str(files / "encoder.json")}))
        return model


@pytest.fixture(params=list(PARAMETERS))
def trial(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    monkeypatch.setattr("ray_jobs.training.worker.os.nice", lambda _: 0)
    return Trial(request.param, tmp_path)


def log_loss(label: Any, probability: Any) -> float:
    return float(-np.mean(np.where(label, np.log(probability), np.log1p(-probability))))


def test_it_learns_and_serves_what_it_measured(trial: Trial) -> None:
    measured = trial.train("run")["train_log_loss"]
    rows = trial.run.data.table()
    columns = {name: rows[name].to_pylist() for name in trial.encoder}
    label = rows["late"].to_numpy()
    model = trial.served("run")
    assert measured == pytest.approx(log_loss(label, np.asarray(model.predict(None, columns), dtype=float)), abs=1e-5)
    assert measured < log_loss(label, np.full(len(label), label.mean())) - 0.05
    # A data frame, as MLflow hands it over, gives the same.
    frame = rows.select(list(trial.encoder)).to_pandas()
    np.testing.assert_allclose(model.predict(None, frame), model.predict(None, columns), rtol=0, atol=1e-7)


def test_null_and_unknown_are_answered(trial: Trial) -> None:
    trial.train("run")
    columns = {"distance": [0.1, None, 0.1, 1], "wind": [None, None, 0.2, 0], "carrier": ["AA", None, "new", "new"]}
    probabilities = np.asarray(trial.served("run").predict(None, columns))
    assert probabilities.shape == (4,)
    assert all(math.isfinite(value) and 0 < value < 1 for value in probabilities)


@pytest.mark.parametrize("die_after", [1, 4, STEPS])
def test_a_killed_worker_goes_on_from_its_last_checkpoint(trial: Trial, die_after: int) -> None:
    undisturbed = trial.train("undisturbed")["train_log_loss"]
    done_at_once = len(trial.reports)
    with pytest.raises(Killed):
        trial.train("killed", die_after=die_after)
    resumed = trial.train("killed")
    assert len(trial.reports) == max(1, done_at_once - die_after), "it did rounds again that were done"
    assert resumed["train_log_loss"] == pytest.approx(undisturbed, abs=1e-9)


def test_the_same_seed_gives_the_same_model_on_any_number_of_threads(trial: Trial) -> None:
    one = trial.train("one")
    assert trial.train("again") == one
    assert trial.train("threads", threads=3) == pytest.approx(one, abs=1e-6)


def test_the_network_in_numpy_is_the_network_in_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from ray_jobs.trainers.encoding import encode
    from ray_jobs.trainers.tabular_module import TabularModule

    monkeypatch.setattr("ray_jobs.training.worker.os.nice", lambda _: 0)
    trial = Trial("tabular_network", tmp_path)
    trial.train("run")
    model = trial.served("run")
    module = TabularModule([0, 0, 4], 8, 2)
    state = torch.load(tmp_path / "served-run" / "state.pt")
    module.load_state_dict(state["module"])
    batch = trial.run.data.table().to_batches()[0]
    with torch.no_grad():
        expected = torch.sigmoid(module(torch.from_numpy(encode(trial.encoder, batch)))).numpy()
    columns = {name: batch[name].to_pylist() for name in trial.encoder}
    np.testing.assert_allclose(model.predict(None, columns), expected, rtol=0, atol=1e-6)
