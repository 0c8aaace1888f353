"""Binary classification with a small neural network: embeddings for categories, standardised numbers, a few dense layers.

Needs PyTorch where it trains (the extra ``torch``), but not where it serves.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from operators.core.errors import ConfigurationError
from ray_jobs.trainers.encoding import learn_encoder, matrix
from ray_jobs.training.contract import TrainedModel, TrainingRun
from ray_jobs.training.distributed import fit
from ray_jobs.training.provenance import pinned
from ray_jobs.training.worker import Worker

_STATE, _WEIGHTS = "state.pt", "weights.npz"
_SERVED = Path(__file__).with_name("tabular_network_served.py")
_CHUNK_ROWS = 65_536
_DEFAULTS: Mapping[str, Any] = {
    "epochs": 10,
    "batch_size": 512,
    "learning_rate": 0.002,
    "hidden_units": 64,
    "hidden_layers": 2,
    "weight_decay": 0.0001,
}


def train(run: TrainingRun) -> TrainedModel:
    """Train on as many workers as the spec says, with gloo on CPUs and NCCL on GPUs.

    The parameters are optional: ``epochs``, ``batch_size`` (rows a worker), ``learning_rate``, ``hidden_units``,
    ``hidden_layers``, ``weight_decay`` and ``seed``. A restart does not change the model.

    :raises ConfigurationError: PyTorch is not installed, or a parameter is unknown
    """
    if find_spec("torch") is None:
        raise ConfigurationError("PyTorch is not installed on the Ray cluster; `pip install 'taxiway[torch]'`")
    if unknown := sorted(set(run.parameters) - set(_DEFAULTS) - {"seed"}):
        known = ", ".join([*_DEFAULTS, "seed"])
        raise ConfigurationError(f"training.parameters: unknown {', '.join(unknown)}; tabular_network takes {known}")
    encoder = learn_encoder(run.data, run.spec.features)
    config = {"encoder": encoder, "label": run.spec.data.label, "parameters": {**_DEFAULTS, **run.parameters}}
    fitted = fit(run, train_on_worker, config, backend="torch")
    encoder_path = run.work_dir / "encoder.json"
    encoder_path.write_text(json.dumps(encoder))
    artifacts = {"weights": fitted.folder / _WEIGHTS, "encoder": encoder_path}
    return TrainedModel(_SERVED, artifacts, fitted.metrics, (pinned("numpy"),))


def train_on_worker(worker: Worker, config: Mapping[str, Any]) -> None:
    """Train the epochs that come after the last checkpoint."""
    import torch

    from ray_jobs.trainers.tabular_module import TabularModule

    torch.manual_seed(worker.seed)
    torch.set_num_threads(worker.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    given = config["parameters"]
    features, label = matrix(worker.batches(), config["encoder"], config["label"], worker.folder)
    sizes = [0 if categories is None else len(categories) + 1 for categories in config["encoder"].values()]
    module = TabularModule(sizes, int(given["hidden_units"]), int(given["hidden_layers"]))
    module.standardise(*_moments(worker, features[:, module.number_places]))
    module.to(worker.device)
    optimiser = torch.optim.AdamW(
        module.parameters(), float(given["learning_rate"]), weight_decay=given["weight_decay"]
    )
    first = 0
    if restored := worker.restored():
        state = torch.load(restored / _STATE, map_location=worker.device)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["epochs"])
    replica = module if worker.world_size == 1 else torch.nn.parallel.DistributedDataParallel(module)
    loss_of = torch.nn.BCEWithLogitsLoss()
    epochs = int(given["epochs"])
    for epoch in range(first, epochs):
        for x, y in _batches(worker, features, label, epoch, int(given["batch_size"])):
            optimiser.zero_grad()
            loss_of(replica(x), y).backward()
            optimiser.step()
        if epoch + 1 < epochs and worker.due(epoch + 1):
            _report(worker, module, optimiser, epoch + 1, {"epochs": epoch + 1})
    measured = {"epochs": epochs, "train_log_loss": _log_loss(worker, module, features, label)}
    _report(worker, module, optimiser, epochs, measured)


def _batches(worker: Worker, features: Any, label: Any, epoch: int, batch_rows: int) -> Iterator[tuple[Any, Any]]:
    """Yield this worker's rows, newly shuffled each epoch, in as many batches as every worker: they average gradients."""
    import torch

    count = worker.agree(-(-len(label) // batch_rows))
    order = np.random.default_rng([worker.seed, epoch, worker.rank]).permutation(len(label))
    for places in np.array_split(order, count):
        x, y = torch.from_numpy(features[places]), torch.from_numpy(label[places])
        yield x.to(worker.device), y.to(worker.device)


def _moments(worker: Worker, numbers: Any) -> tuple[Any, Any]:
    """Return the mean and the standard deviation of each number over the rows of all workers, without nulls."""
    sums = np.zeros((3, numbers.shape[1]))
    for start in range(0, len(numbers), _CHUNK_ROWS):
        chunk = numbers[start : start + _CHUNK_ROWS].astype(np.float64)
        known = ~np.isnan(chunk)
        chunk = np.where(known, chunk, 0)
        sums += [known.sum(axis=0), chunk.sum(axis=0), np.square(chunk).sum(axis=0)]
    count, total, squares = _summed(worker, sums)
    mean = total / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    return mean, np.where(deviation > 0, deviation, 1)


def _log_loss(worker: Worker, module: Any, features: Any, label: Any) -> float:
    """Return the mean log loss over the rows of all workers."""
    import torch

    loss_of = torch.nn.BCEWithLogitsLoss(reduction="sum")
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(label), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            x, y = torch.from_numpy(features[part].copy()), torch.from_numpy(label[part])
            total += float(loss_of(module(x.to(worker.device)), y.to(worker.device)))
    summed = _summed(worker, np.array([total, float(len(label))]))
    return float(summed[0] / summed[1])


def _summed(worker: Worker, values: Any) -> Any:
    """Return the sum over all workers."""
    if worker.world_size == 1:
        return values
    import torch

    tensor = torch.from_numpy(np.asarray(values, dtype=np.float64)).to(worker.device)
    torch.distributed.all_reduce(tensor)
    return tensor.cpu().numpy()


def _report(worker: Worker, module: Any, optimiser: Any, epochs: int, metrics: Mapping[str, float]) -> None:
    import torch

    if worker.rank:
        worker.report(metrics)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "epochs": epochs}
        torch.save(state, folder / _STATE)
        np.savez(folder / _WEIGHTS, **module.weights())
        worker.report(metrics, folder)
