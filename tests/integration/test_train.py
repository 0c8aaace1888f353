"""Training on a real Ray: workers and drivers that are killed, both ways to the rows, and a whole job on S3."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray import cloudpickle
from xgboost import RabitTracker
from xgboost.collective import CommunicatorContext

from operators.core.errors import ConfigurationError, RejectedError
from operators.core.storage import Storage
from ray_jobs.trainers import xgboost_classifier
from ray_jobs.trainers.encoding import learn_encoder
from ray_jobs.training.checkpoints import Checkpoints
from ray_jobs.training.contract import TrainingRun
from ray_jobs.training.distributed import Fitted, fit, streaming
from ray_jobs.training.worker import LoneWorker, Task, Worker, streamed
from tests.support.training import END, KEY, spec, table, training_run, write
from tests.support.waiting import until

ROUNDS = 8
PARAMETERS = {"rounds": ROUNDS, "max_depth": 4, "seed": 7}

# The workers do not have this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Four CPUs in name: two workers, and Ray Data beside them. What a worker that is killed leaves is pytest's."""
    context = ray.init(
        address="local", num_cpus=4, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"TMPDIR": str(tmp_path_factory.mktemp("workers"))}},
    )  # fmt: skip
    yield context.address_info["gcs_address"]
    ray.shutdown()


def run_of(tmp_path: Path, *, workers: int, name: str = "run", checkpoint_every: str = "1ms") -> TrainingRun:
    storage = Storage(f"file://{tmp_path}/store")
    if not storage.exists(KEY):
        write(storage, table(20_000), tmp_path)
    model = spec(parameters=PARAMETERS, scaling={"workers": workers}, checkpoint_every=checkpoint_every)
    return training_run(storage, model, tmp_path / f"work-{name}-{secrets.token_hex(3)}", name=name)


def config_of(run: TrainingRun, **more: Any) -> dict[str, Any]:
    return {
        "encoder": learn_encoder(run.data, run.spec.features),
        "label": "late",
        "parameters": dict(run.parameters),
        **more,
    }


def dies_once(worker: Worker, config: Mapping[str, Any]) -> None:
    """Train with XGBoost; the last rank is killed after its third report, the first time."""
    notes, report, reports = Path(config["notes"]), worker.report, 0

    def noted(metrics: Mapping[str, float], folder: Path | None = None) -> None:
        nonlocal reports
        report(metrics, folder)
        reports += 1
        if worker.rank == 0:
            with (notes / "rounds").open("a") as file:
                file.write(f"{os.getpid()} {metrics['rounds']}\n")
        if worker.rank == worker.world_size - 1 and reports == 3 and not (notes / "died").exists():
            (notes / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    worker.report = noted  # type: ignore[method-assign]
    xgboost_classifier.train_on_worker(worker, config)


def rounds_by_process(notes: Path) -> list[list[int]]:
    """The rounds that were reported, one list for each process of rank 0."""
    found: dict[str, list[int]] = {}
    for line in (notes / "rounds").read_text().splitlines():
        process, number = line.split()
        found.setdefault(process, []).append(int(number))
    return list(found.values())


class Ranked(LoneWorker):
    """One of two workers that are threads of this process: what a group does, without Ray."""

    def __init__(self, task: Task, folder: Path, checkpoints: Checkpoints, rank: int) -> None:
        super().__init__(task, folder, checkpoints)
        self.rank, self.world_size = rank, 2

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self.task.data.shard(self.rank, self.world_size)


def undisturbed_pair(run: TrainingRun, config: Mapping[str, Any], folder: Path) -> Fitted:
    checkpoints = Checkpoints(run.storage_filesystem, f"{run.storage_path}/{run.name}")
    task = Task(run.data, streams=False, threads=1, device="cpu", seed=run.seed, checkpoint_every_s=3600)
    tracker = RabitTracker(n_workers=2, host_ip="127.0.0.1", sortby="task")
    tracker.start()

    def work(rank: int) -> None:
        mine = folder / f"rank-{rank}"
        mine.mkdir()
        with CommunicatorContext(**tracker.worker_args(), dmlc_task_id=str(rank)):
            xgboost_classifier.train_on_worker(Ranked(task, mine, checkpoints, rank), config)

    with ThreadPoolExecutor(3) as pool:
        waiting = pool.submit(tracker.wait_for)
        for done in [pool.submit(work, rank) for rank in range(2)]:
            done.result(timeout=60)
        waiting.result(timeout=60)
    latest = checkpoints.latest()
    assert latest is not None
    restored = checkpoints.restore(folder / "restored")
    assert restored is not None
    return Fitted(latest["metrics"], restored)


@pytest.mark.long  # `python -m benchmarks.training proofs` does it with each trainer
def test_two_workers_outlive_a_kill_and_lose_nothing(cluster: str, tmp_path: Path) -> None:
    disturbed = run_of(tmp_path, workers=2, name="disturbed")
    config = config_of(disturbed, notes=str(tmp_path))
    found = fit(disturbed, dies_once, config, backend="xgboost")
    first, second = rounds_by_process(tmp_path)
    assert first[0] == 1
    assert second[0] > 1, "it began anew"
    assert second[-1] == ROUNDS
    expected = undisturbed_pair(run_of(tmp_path, workers=2, name="undisturbed"), config, tmp_path)
    assert found.metrics["train_log_loss"] == pytest.approx(expected.metrics["train_log_loss"], abs=1e-6)
    assert (found.folder / "booster.ubj").read_bytes() == (expected.folder / "booster.ubj").read_bytes()


@pytest.mark.long
def test_ray_data_brings_each_worker_its_rows_in_order(cluster: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, workers=2)
    given = streaming(run)
    node = ray.get_runtime_context().get_node_id()
    shards = given["dataset_config"].configure(
        given["datasets"], world_size=2, worker_handles=None, worker_node_ids=[node] * 2
    )

    def read(rank: int) -> tuple[pa.Table, ...]:
        return tuple(pa.Table.from_batches(streamed(shards[rank]["train"])) for _ in range(2))

    with ThreadPoolExecutor(2) as pool:
        (one, one_again), (two, two_again) = pool.map(read, range(2))
    whole = run.data.table()
    # Ray Data gives every worker as many rows, and drops what is left over.
    assert one.num_rows == two.num_rows == whole.num_rows // 2
    assert pa.concat_tables([one, two]).equals(whole.slice(0, one.num_rows * 2))
    assert one_again.equals(one)
    assert two_again.equals(two)


def test_one_worker_outlives_a_kill_and_loses_nothing(cluster: str, tmp_path: Path) -> None:
    disturbed = run_of(tmp_path, workers=1, name="disturbed")
    config = config_of(disturbed, notes=str(tmp_path))
    found = fit(disturbed, dies_once, config, backend="xgboost")
    assert rounds_by_process(tmp_path) == [[1, 2, 3], [4, 5, 6, 7, 8]]
    undisturbed = run_of(tmp_path, workers=1, name="undisturbed", checkpoint_every="1h")
    expected = fit(undisturbed, xgboost_classifier.train_on_worker, config, backend="xgboost")
    assert found.metrics == expected.metrics


DRIVER = """
import sys
import ray
from ray import cloudpickle
ray.init(address=sys.argv[1], log_to_driver=False)
from ray_jobs.training.distributed import fit
run, loop, config = cloudpickle.loads(open(sys.argv[2], "rb").read())
fit(run, loop, config, backend="xgboost")
"""


def stops_after_three(worker: Worker, config: Mapping[str, Any]) -> None:
    """Train, and after three rounds wait for the end."""
    report, reports = worker.report, 0

    def noted(metrics: Mapping[str, float], folder: Path | None = None) -> None:
        nonlocal reports
        report(metrics, folder)
        reports += 1
        if reports == 3:
            Path(config["notes"], "three").touch()
            time.sleep(600)

    worker.report = noted  # type: ignore[method-assign]
    xgboost_classifier.train_on_worker(worker, config)


def test_a_job_that_is_run_again_goes_on_from_the_last_checkpoint(cluster: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, workers=1)
    config = config_of(run, notes=str(tmp_path))
    (tmp_path / "given").write_bytes(cloudpickle.dumps((run, stops_after_three, config)))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, cluster, str(tmp_path / "given")])
    try:
        until(lambda: driver.poll() is not None or (tmp_path / "three").exists(), "three reports")
        assert driver.poll() is None
    finally:
        driver.kill()
        driver.wait()
    (tmp_path / "died").touch()  # nobody dies this time
    again = run_of(tmp_path, workers=1)
    found = fit(again, dies_once, config, backend="xgboost")
    assert rounds_by_process(tmp_path) == [[4, 5, 6, 7, 8]]
    expected = fit(
        run_of(tmp_path, workers=1, name="undisturbed"), xgboost_classifier.train_on_worker, config, backend="xgboost"
    )
    assert found.metrics == expected.metrics


def test_what_the_loop_refuses_is_not_tried_again(cluster: str, tmp_path: Path) -> None:
    def refuses(worker: Worker, config: Mapping[str, Any]) -> None:
        with Path(config["notes"], "calls").open("a") as file:
            file.write("x")
        raise ConfigurationError("mend this")

    def forgets(worker: Worker, config: Mapping[str, Any]) -> None:
        return None

    config = {"notes": str(tmp_path)}
    with pytest.raises(ConfigurationError, match="mend this"):
        fit(run_of(tmp_path, workers=1), refuses, config, backend="xgboost")
    assert (tmp_path / "calls").read_text() == "x"
    with pytest.raises(ConfigurationError, match=r"must call `worker.report\(metrics, folder\)` once at the end"):
        fit(run_of(tmp_path, workers=1), forgets, config, backend="xgboost")


PLAIN = """
from pathlib import Path
from ray_jobs.training.contract import TrainedModel

def train(run):
    rows = run.data.table()
    share = sum(rows["late"].to_pylist()) / rows.num_rows
    (run.work_dir / "share").write_text(str(share))
    return TrainedModel(Path(__file__).with_name("plain_served.py"), {"share": run.work_dir / "share"}, {"share": share})
"""
PLAIN_SERVED = """
from pathlib import Path
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

class Model(PythonModel):
    def load_context(self, context):
        self.share = float(Path(context.artifacts["share"]).read_text())

    def predict(self, context, model_input, params=None):
        return [self.share] * len(model_input["distance"])

set_model(Model())
"""


def test_a_plain_function_is_training_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    from ray_jobs.training import train

    (tmp_path / "plain_training.py").write_text(PLAIN)
    (tmp_path / "plain_served.py").write_text(PLAIN_SERVED)
    monkeypatch.syspath_prepend(str(tmp_path))
    storage = Storage(f"file://{tmp_path}/store")
    write(storage, table(500), tmp_path)
    monkeypatch.setenv("TAXIWAY_STORAGE_URL", storage.root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it, and leaves it
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    given = {
        "spec": spec("plain_training:train").to_json(),
        "dataset": {"key": KEY, "digest": "d"},
        "end": END.isoformat(),
        "parameters": "{}",
        "tags": {},
    }
    result = train.work(given, "jobs/plain")
    model = mlflow.pyfunc.load_model(result["model_uri"]).unwrap_python_model()
    assert model.predict(None, {"distance": [1, 2]}) == [result["metrics"]["share"]] * 2
    assert mlflow.get_run(result["run_id"]).data.params["seed"] == "0"
    early = {**given, "end": "2013-01-01T00:00:00"}
    with pytest.raises(RejectedError, match="no labelled row of late lies before the holdout"):
        train.work(early, "jobs/early")


def test_a_whole_job_on_s3(cluster: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    import mlflow

    from ray_jobs.training import evaluate, train

    bucket = f"train-{secrets.token_hex(4)}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    storage = Storage(f"s3://{bucket}/some/prefix")
    write(storage, table(5000), tmp_path)
    monkeypatch.setenv("TAXIWAY_STORAGE_URL", storage.root)
    monkeypatch.setenv("TAXIWAY_CODE_COMMIT", "c0ffee")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    given = {
        "spec": spec(parameters=PARAMETERS, checkpoint_every="1ms").to_json(),
        "dataset": {"key": KEY, "digest": "d" * 64},
        "end": END.isoformat(),
        "parameters": json.dumps({"max_depth": 3}),
        "tags": {"taxiway.dag_run": "manual__1"},
    }
    # On the cluster of this module the workers have no credentials: they come with each task.
    with_s3 = {"env_vars": {**s3.environment, "TAXIWAY_STORAGE_URL": storage.root}}
    remote = ray.remote
    monkeypatch.setattr(ray, "remote", lambda **options: remote(**options, runtime_env=with_s3))
    result = train.work(given, "jobs/one")
    assert 0.3 < result["metrics"]["train_log_loss"] < 0.65
    assert (result["rows"], result["holdout_rows"]) == (3484, 1016)
    assert [key for key in storage.list("ray") if "/" in key] == [], "checkpoints of a model that is in MLflow"
    logged = mlflow.get_run(result["run_id"])
    assert {"mlflow.source.git.commit": "c0ffee", "taxiway.data_digest": "d" * 64}.items() <= logged.data.tags.items()
    assert {"seed": "7", "max_depth": "3", "rounds": "8", "training_rows": "3484"}.items() <= logged.data.params.items()
    assert logged.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    info = mlflow.models.get_model_info(result["model_uri"])
    assert info.signature.inputs.input_names() == ["distance", "wind", "carrier"]
    assert info.saved_input_example_info
    again = train.work({**given, "tags": {"taxiway.dag_run": "manual__2"}}, "jobs/two")
    assert again["metrics"] == result["metrics"]
    measured = evaluate.work({**given, "challenger": result["model_uri"], "champion": again["model_uri"]}, "jobs/eval")
    assert measured["rows"] == 1016
    assert measured["challenger"] == measured["champion"]
    assert measured["challenger"]["roc_auc"] > 0.7
