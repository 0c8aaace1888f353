"""Where the seconds of a training go: 100,000 rows x 10 columns, 20 rounds of XGBoost, on a Ray of this machine.

``python -m benchmarks.training``: the usual set-up from Ray's documentation (Ray Data, a report for each round), the same
with a quicker poll, Ray Train with one report, and ours with one worker and two. One run on one warm cluster; every library
is imported in the driver before the clock starts, and Ray Data has run once. About four minutes on two cores.

``python -m benchmarks.training paths``: from which size Ray Data pays, against each worker scanning the whole file.

``python -m benchmarks.training proofs``: a worker is killed, for each trainer, and the metric is that of a quiet run.
The network needs PyTorch on ``PYTHONPATH``. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import ray.train
import xgboost
from ray.train.xgboost import RayTrainReportCallback, XGBoostTrainer

from operators.core.spec import PredictionSpec
from operators.core.storage import Storage
from ray_jobs.trainers import xgboost_classifier
from ray_jobs.trainers.encoding import learn_encoder
from ray_jobs.training.contract import TrainingRun
from ray_jobs.training.distributed import fit, streaming
from ray_jobs.training.training_data import split
from ray_jobs.training.worker import Worker, streamed

ROWS, COLUMNS, ROUNDS = 100_000, 10, 20
KEY = "datasets/1/dataset.parquet"
POLL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
PARAMETERS = {"objective": "binary:logistic", "tree_method": "hist", "max_depth": 6, "nthread": 1, "seed": 7}
TRAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    "xgboost_classifier": ("xgboost", {"rounds": 12, "seed": 7}),
    "lightgbm_classifier": ("lightgbm", {"rounds": 12, "seed": 7}),
    "tabular_network": (
        "torch",
        {"epochs": 6, "seed": 7, "batch_size": 512, "learning_rate": 0.002, "hidden_units": 64, "hidden_layers": 2}
        | {"weight_decay": 0.0001},
    ),
}
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def table(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    numbers = {f"x{i}": rng.normal(size=rows) for i in range(COLUMNS)}
    label = numbers["x0"] + numbers["x1"] * numbers["x2"] + rng.normal(size=rows) > 0
    start = np.datetime64("2013-01-01", "us")
    times = start + (np.arange(rows) * (86_400_000_000 * 30 // rows)).astype("timedelta64[us]")
    return pa.table({"id": np.arange(rows), "at": times, **numbers, "label": label})


def spec(trainer: str, workers: int, parameters: Mapping[str, Any], checkpoint_every: str = "30s") -> PredictionSpec:
    return PredictionSpec.model_validate(
        {
            "name": "benchmark",
            "owner": "benchmarks",
            "data": {
                "tables": {"t": {"source": "raw/t", "time_column": "at"}},
                "query": "q.sql",
                "window": "60d",
                "holdout": "1s",
                "id": "id",
                "time": "at",
                "label": "label",
                "features": {f"x{i}": "number" for i in range(COLUMNS)},
            },
            "validation": {"suite": "s.yaml"},
            "training": {
                "entrypoint": f"ray_jobs.trainers.{trainer}:train",
                "parameters": parameters,
                "scaling": {"workers": workers},
                "checkpoint_every": checkpoint_every,
            },
            "gate": {"metric": "log_loss"},
            "release": {"steps": [{"weight_pct": 5, "bake": "1s"}]},
        },
        strict=False,
    )


def write(folder: Path, rows: int) -> Storage:
    storage = Storage(f"file://{folder}/store-{rows}")
    # Row groups as large as DuckDB makes them, which writes the datasets.
    pq.write_table(table(rows), folder / "dataset.parquet", compression="zstd", row_group_size=122_880)
    storage.upload(folder / "dataset.parquet", KEY)
    return storage


def run_of(storage: Storage, model: PredictionSpec, folder: Path, name: str) -> TrainingRun:
    filesystem, root = storage.arrow("ray")
    work_dir = folder / f"work-{name}"
    work_dir.mkdir()
    data = split(KEY, storage, model, datetime(2013, 2, 1))[0]
    return TrainingRun(model, model.training.parameters, data, name, root, filesystem, work_dir)


def usual_loop(config: Mapping[str, Any]) -> None:
    began = time.time()
    frame = ray.train.get_dataset_shard("train").materialize().to_pandas()
    label = frame.pop("label").to_numpy(dtype="float32")
    data = xgboost.DMatrix(frame.to_numpy(dtype="float32"), label=label)
    read = time.time()
    evals = [(data, "train")]
    callbacks = [RayTrainReportCallback()]
    xgboost.train(PARAMETERS, data, ROUNDS, evals=evals, callbacks=callbacks, verbose_eval=False)
    Path(config["notes"]).write_text(json.dumps([began, read, time.time()]))


def one_report_loop(config: Mapping[str, Any]) -> None:
    began = time.time()
    rows = pq.read_table(pa.BufferReader(config["data"]))
    matrix = np.column_stack([rows[f"x{i}"].to_numpy() for i in range(COLUMNS)]).astype("float32")
    data = xgboost.DMatrix(matrix, label=rows["label"].to_numpy().astype("float32"))
    read = time.time()
    booster = xgboost.train(PARAMETERS, data, ROUNDS, evals=[(data, "train")], verbose_eval=False)
    with tempfile.TemporaryDirectory() as folder:
        booster.save_model(Path(folder) / "booster.ubj")
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))
    Path(config["notes"]).write_text(json.dumps([began, read, time.time()]))


def our_loop(worker: Worker, config: Mapping[str, Any]) -> None:
    began = time.time()
    xgboost_classifier.train_on_worker(worker, config)
    if worker.rank == 0:
        Path(config["notes"]).write_text(json.dumps([began, began, time.time()]))


def timed(notes: Path, work: Callable[[], Any]) -> dict[str, float]:
    """Call and say how long it took to reach the worker, to read there, to train there, and to come back."""
    start = time.time()
    work()
    end = time.time()
    began, read, trained = json.loads(notes.read_text())
    parts = {"to_worker_s": began - start, "read_s": read - began, "train_s": trained - read, "back_s": end - trained}
    return {"total_s": round(end - start, 2), **{name: round(value, 2) for name, value in parts.items()}}


def race(folder: Path) -> dict[str, Any]:
    """Time each set-up."""
    storage, notes = write(folder, ROWS), folder / "notes.json"
    path = str(folder / f"store-{ROWS}" / KEY)
    columns = [*(f"x{i}" for i in range(COLUMNS)), "label"]

    def rival(name: str, loop: Any, **more: Any) -> dict[str, float]:
        trainer = XGBoostTrainer(
            loop,
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(name=name, storage_path=str(folder / "rival")),
            **more,
        )
        return timed(notes, trainer.fit)

    def usual(name: str) -> dict[str, float]:
        rows = ray.data.read_parquet(path).select_columns(columns)
        return rival(name, usual_loop, train_loop_config={"notes": str(notes)}, datasets={"train": rows})

    def ours(name: str, workers: int) -> dict[str, float]:
        run = run_of(storage, spec("xgboost_classifier", workers, {"rounds": ROUNDS, "seed": 7}), folder, name)

        def work() -> None:
            encoder = learn_encoder(run.data, run.spec.features)
            config = {"encoder": encoder, "label": "label", "parameters": run.parameters, "notes": str(notes)}
            fit(run, our_loop, config, backend="xgboost")

        return timed(notes, work)

    ray.data.read_parquet(path).count()  # its first run starts processes
    found: dict[str, Any] = {"ours_1_worker": ours("one", 1), "ours_1_worker_again": ours("one-again", 1)}
    os.environ.pop(POLL, None)
    given = {"notes": str(notes), "data": Path(path).read_bytes()}
    found["ray_train_one_report"] = rival("one-report", one_report_loop, train_loop_config=given)
    found["ray_data_usual"] = usual("usual")
    os.environ[POLL] = "0.1"
    found["ray_data_usual_poll_100_ms"] = usual("usual-quick")
    del os.environ[POLL]
    found["ours_2_workers"] = ours("two", 2)
    found["ours_whole_job"] = whole_job(storage, folder)
    slow = found["ours_1_worker"]["total_s"]
    rivals = [name for name in found if name.startswith("ray_")]
    found["times_faster_with_1_worker"] = {name: round(found[name]["total_s"] / slow, 1) for name in rivals}
    return found


def whole_job(storage: Storage, folder: Path) -> dict[str, float]:
    """Time ``python -m ray_jobs.training.train``: from the start of its process to its result, with MLflow and every import."""
    given = {
        "spec": spec("xgboost_classifier", 1, {"rounds": ROUNDS, "seed": 7}).to_json(),
        "dataset": {"key": KEY, "digest": "1"},
        "end": "2013-01-29T00:00:00",
        "parameters": "{}",
        "tags": {},
    }
    storage.put_bytes("jobs/1/input.json", json.dumps(given).encode())
    address = ray.get_runtime_context().gcs_address
    env = {"RAY_ADDRESS": address, "TAXIWAY_STORAGE_URL": storage.root}
    env["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    command = [sys.executable, "-m", "ray_jobs.training.train", "jobs/1"]
    root = str(Path(__file__).resolve().parents[1])
    took_s, metrics = [], []
    for _ in range(2):  # the first makes MLflow's database
        start = time.time()
        subprocess.run(
            command, env=os.environ | env | {"PYTHONPATH": root}, cwd=folder, check=True, stdout=sys.stderr, timeout=120
        )
        took_s.append(time.time() - start)
        metrics.append(json.loads(storage.get_bytes("jobs/1/result.json"))["metrics"]["train_log_loss"])
    return {"total_s": round(took_s[-1], 2), "train_log_loss": metrics[0], "difference_of_two": metrics[1] - metrics[0]}


def paths(folder: Path) -> dict[str, Any]:
    """Time both ways to the rows, for two workers: each scans the file, or Ray Data brings the shards."""
    found: dict[str, Any] = {}
    for rows in (ROWS, 2_000_000, 6_000_000):
        storage = write(folder, rows)
        run = run_of(storage, spec("xgboost_classifier", 2, {}), folder, f"paths-{rows}")
        node = ray.get_runtime_context().get_node_id()

        def scan(rank: int, run: TrainingRun = run) -> int:
            return sum(batch.num_rows for batch in run.data.shard(rank, 2))

        def stream(shard: Any) -> int:
            return sum(batch.num_rows for batch in streamed(shard["train"]))

        with ThreadPoolExecutor(2) as pool:
            start = time.time()
            scanned = sum(pool.map(scan, range(2)))
            scan_s, start = time.time() - start, time.time()
            given = streaming(run)
            shards = given["dataset_config"].configure(
                given["datasets"], world_size=2, worker_handles=None, worker_node_ids=[node] * 2
            )
            came = sum(pool.map(stream, shards))
            stream_s = time.time() - start
        assert scanned == run.data.count()
        assert scanned - came < 2
        found[f"{run.data.size_bytes / 2**20:.0f}_mib"] = {"scan_s": round(scan_s, 2), "ray_data_s": round(stream_s, 2)}
    return found


def dying_loop(worker: Worker, config: Mapping[str, Any]) -> None:
    """The trainer's loop; the last rank is killed once, after its third report."""
    died, report, reports = Path(config["died"]), worker.report, 0

    def noted(metrics: Mapping[str, float], folder: Path | None = None) -> None:
        nonlocal reports
        report(metrics, folder)
        reports += 1
        if worker.rank == 0:
            with died.with_name("steps").open("a") as file:
                file.write(f"{os.getpid()} {metrics.get('rounds', metrics.get('epochs'))}\n")
        if worker.rank == worker.world_size - 1 and reports == 3 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    worker.report = noted  # type: ignore[method-assign]
    import_module(config["trainer"]).train_on_worker(worker, config)


def proofs(folder: Path, workers: int, trainers: list[str]) -> dict[str, Any]:
    """Kill a worker of each trainer, and compare with a run in which nobody died."""
    storage, found = write(folder, ROWS), {}
    for trainer in trainers:
        backend, parameters = TRAINERS[trainer]
        if backend == "torch" and find_spec("torch") is None:
            found[trainer] = "PyTorch is not on PYTHONPATH"
            continue
        results = {}
        for name, every in (("quiet", "1h"), ("killed", "1ms")):
            run = run_of(storage, spec(trainer, workers, parameters, every), folder, f"{trainer}-{name}")
            notes = folder / f"{trainer}-{name}"
            notes.mkdir()
            if name == "quiet":
                (notes / "died").touch()
            config = {
                "encoder": learn_encoder(run.data, run.spec.features),
                "label": "label",
                "parameters": parameters,
                "trainer": f"ray_jobs.trainers.{trainer}",
                "died": str(notes / "died"),
            }
            start = time.time()
            metrics = fit(run, dying_loop, config, backend=backend).metrics  # type: ignore[arg-type]
            results[name] = {"train_log_loss": metrics["train_log_loss"], "total_s": round(time.time() - start, 1)}
        steps: dict[str, list[int]] = {}
        for line in (folder / f"{trainer}-killed" / "steps").read_text().splitlines():
            steps.setdefault(line.split()[0], []).append(int(line.split()[1]))
        results["steps_before_and_after_the_kill"] = list(steps.values())
        difference = results["killed"]["train_log_loss"] - results["quiet"]["train_log_loss"]
        found[trainer] = {**results, "difference": difference}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=["race", "paths", "proofs"], default="race")
    parser.add_argument("--workers", type=int, default=2, help="of the proofs")
    parser.add_argument("--trainers", nargs="*", choices=list(TRAINERS), default=list(TRAINERS), help="of the proofs")
    given = parser.parse_args()
    start = time.time()
    # CPUs in name: two workers, and Ray Data beside them.
    ray.init(address="local", num_cpus=4, object_store_memory=500_000_000, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    found: dict[str, Any] = {"cores": os.cpu_count(), "ray": ray.__version__, "start_s": round(time.time() - start, 1)}
    try:
        with tempfile.TemporaryDirectory(prefix="taxiway-benchmark-") as name:
            folder = Path(name)
            if given.part == "proofs":
                found["proofs"] = proofs(folder, given.workers, given.trainers)
            else:
                found[given.part] = {"race": race, "paths": paths}[given.part](folder)
    finally:
        ray.shutdown()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
