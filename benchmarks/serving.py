"""The model's own serving app through the edge, against MLflow's scoring server with the same model, on the same machine.

``python -m benchmarks.serving``: trains a small ``flight_delay`` (its spec, 16 features, 60 rounds of XGBoost), serves it both
ways and asks both in turns with ``wrk`` (Debian's package; one thread, connections kept, a body from a Lua script). It starts
its own Ray, Serve, agent and edge on ports of their own, and ends them. About four minutes on two cores. Prints JSON.

The rival is flattered: it is asked directly, with no edge, no split, no fallback, no counters and no prediction log; its best
number of workers counts (1, 2 and 4), against one replica of ours; it gets the input that it reads fastest (``dataframe_split``).
Both check every request against the model's signature.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.cli import services
from operators.cli.config import Stack
from operators.core import processes
from operators.core.loader import INCLUDE, load_spec
from operators.core.spec import ModelSpec
from operators.core.storage import Storage
from ray_jobs.contract import TrainedModel, TrainingRun
from ray_jobs.inference import write_request
from ray_jobs.training_data import split

KEY = "datasets/1/dataset.parquet"
END = datetime(2013, 3, 1)
BATCH = 100
WORKERS = (1, 2, 4)
WRK = """
wrk.method = "POST"
wrk.body = io.open(os.getenv("BODY")):read("*a")
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format('RESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "failed": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def table(spec: ModelSpec, rows: int) -> pa.Table:
    """Rows of the spec's features, of which some say something about the label."""
    rng = np.random.default_rng(7)
    columns: dict[str, Any] = {}
    for name, kind in spec.features.items():
        if kind.startswith("category"):
            columns[name] = rng.choice(np.array([f"{name}{i}" for i in range(16)]), rows)
        elif kind.startswith("integer"):
            columns[name] = rng.integers(0, 1440, rows)
        else:
            columns[name] = pa.array(
                rng.normal(50, 20, rows), mask=rng.random(rows) < 0.05 if kind.endswith("?") else None
            )
    signal_ = (
        np.asarray(columns["dep_minute"]) / 1440
        + (np.asarray(columns["carrier"]) == "carrier3")
        + rng.normal(size=rows)
    )
    times = np.datetime64(END) - (np.arange(rows) * (50 * 86_400_000_000 // rows)).astype("timedelta64[us]")
    data = spec.data
    named = {
        data.id: [str(i) for i in range(rows)],
        data.time: pa.array(times, pa.timestamp("us")),
        data.label: signal_ > 1,
    }
    return pa.table({**columns, **named})


def train(spec: ModelSpec, folder: Path) -> tuple[Path, pa.Table]:
    """Train as the training job does and save what it logs."""
    import mlflow.pyfunc

    from ray_jobs.signature import input_example, signature_of
    from ray_jobs.trainers.xgboost_classifier import train as train_xgboost

    rows = table(spec, 20_000)
    storage = Storage.from_url((folder / "storage").as_uri())
    pq.write_table(rows, folder / "dataset.parquet")
    storage.upload(folder / "dataset.parquet", KEY)
    filesystem, root = storage.arrow("ray")
    (folder / "work").mkdir()
    data = split(KEY, storage, spec, END + timedelta(days=7))[0]
    run = TrainingRun(
        spec=spec, parameters=spec.training.parameters, data=data, name="bench", storage_path=root,
        storage_filesystem=filesystem, work_dir=folder / "work",
    )  # fmt: skip
    trained: TrainedModel = train_xgboost(run)
    path = folder / "model"
    mlflow.pyfunc.save_model(
        path,
        python_model=str(trained.python_model),
        artifacts={name: str(file) for name, file in trained.artifacts.items()},
        signature=signature_of(spec),
        input_example=input_example(spec, rows),
        pip_requirements=[],
    )
    return path, rows


def bodies(spec: ModelSpec, rows: pa.Table, count: int) -> tuple[bytes, bytes]:
    """The same rows for ours and for MLflow."""
    features = list(spec.features)
    records = rows.select(features).slice(0, count).to_pylist()
    frame = {"columns": features, "data": [[record[name] for name in features] for record in records]}
    return json.dumps(write_request(records, spec.features)).encode(), json.dumps({"dataframe_split": frame}).encode()


# ---------------------------------------------------------------------- servers


@contextmanager
def process(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, that is ended with all that it started."""
    with log.open("w") as file:
        started = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait(15)


def wait(ready: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(httpx.HTTPError):
            if ready():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} is not ready after {timeout_s:g} s")
        time.sleep(0.2)


@contextmanager
def ours(spec: ModelSpec, model: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Ray, Serve, the agent and an edge, with one replica of the model. Yields the addresses."""
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("TAXIWAY_", "RAY_", "MLFLOW_"))},
        "TAXIWAY_HOME": str(folder / "home"),
        "TAXIWAY_PORT_OFFSET": os.environ.get("BENCH_PORT_OFFSET", "1700"),
        "TAXIWAY_STORAGE_URL": (folder / "storage").as_uri(),
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
    }
    os.environ |= {k: v for k, v in environ.items() if k.startswith("TAXIWAY_")}
    stack = Stack.load(environ)
    stack.make_folders()
    known = services.of(stack)
    ray, serving = known["ray"], known["serving"]
    env = dict(serving.env)
    try:
        assert ray.prepare is not None
        ray.prepare()
        with process(list(ray.command), dict(ray.env), folder / "ray.log"):
            wait(ray.ready, "Ray")
            began = time.monotonic()
            subprocess.run(list(serving.command), env=env, check=True, timeout=120)
            took = {"agent_up_s": time.monotonic() - began}
            token = {"Authorization": f"Bearer {env['TAXIWAY_AGENT_TOKEN']}"}
            with httpx.Client(base_url=env["TAXIWAY_AGENT_URL"], headers=token, timeout=60) as agent:
                app = f"/v1/apps/{spec.name}/1"
                agent.put(app, json={"spec": spec.to_json(), "model_uri": str(model)}).raise_for_status()
                wait(lambda: agent.get(app).json()["status"] == "RUNNING", "the model")
                agent.put(f"/v1/routes/{spec.name}", json={"stable": "1"}).raise_for_status()
            yield {"edge": env["TAXIWAY_EDGE_URL"], "agent_up_s": f"{took['agent_up_s']:.1f}"}
    finally:
        end_marked(env["TAXIWAY_STACK_ID"])
        shutil.rmtree(stack.short_dir, ignore_errors=True)


def end_marked(stack_id: str) -> None:
    """End what is left of our stack: by its mark, and HAProxy by its folder."""
    table_ = processes.table()
    left = processes.marked(f"TAXIWAY_STACK_ID={stack_id}", table_)
    left |= processes.inside((Path(os.environ["TAXIWAY_HOME"]) / "edge",), ("haproxy",), table_)
    for pid in left - {os.getpid()}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def mlflow_server(model: Path, workers: int, folder: Path) -> Iterator[str]:
    """MLflow's scoring server. Yields its address."""
    port = 5600 + workers
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local", "-h", "127.0.0.1",
        "-p", str(port), "-w", str(workers),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    url = f"http://127.0.0.1:{port}"
    with process(command, env, folder / f"mlflow-{workers}.log"):
        wait(lambda: httpx.get(f"{url}/ping").status_code == 200, "MLflow")
        yield url


# ---------------------------------------------------------------------- measuring


def wrk(url: str, body: bytes, rows: int, *, clients: int, seconds: float, folder: Path) -> dict[str, float]:
    (folder / "body").write_bytes(body)
    (folder / "wrk.lua").write_text(WRK)
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "10s", "-s", str(folder / "wrk.lua"), url]
    env = {**os.environ, "BODY": str(folder / "body")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds + 30, check=True)
    found = json.loads(done.stdout.partition("RESULT ")[2])
    assert found["failed"] == 0, done.stdout
    per_s = found["requests"] / (found["duration_us"] / 1e6)
    return {
        "rows_per_s": per_s * rows, "requests_per_s": per_s, "p50_ms": found["p50_us"] / 1e3, "p99_ms": found["p99_us"] / 1e3,
    }  # fmt: skip


def measure(rounds: int, seconds: float, folder: Path) -> dict[str, Any]:
    spec = load_spec(INCLUDE / "models" / "flight_delay.yaml")
    model, rows = train(spec, folder)
    result: dict[str, Any] = {"model": f"{len(spec.features)} features, {spec.training.parameters['rounds']} rounds"}
    with ExitStack() as stack:
        places = stack.enter_context(ours(spec, model, folder))
        urls = {"taxiway": f"{places['edge']}/v2/models/{spec.name}/infer"}
        for workers in WORKERS:
            urls[f"mlflow_{workers}"] = stack.enter_context(mlflow_server(model, workers, folder)) + "/invocations"
        result["agent_up_s"] = float(places["agent_up_s"])
        result["same_answers"] = same_answers(urls, *bodies(spec, rows, 5))
        for count in (1, BATCH):
            mine, theirs = bodies(spec, rows, count)
            for clients in (1, 16):
                ask = {n: (u, mine if n == "taxiway" else theirs) for n, u in urls.items()}
                seen: dict[str, list[dict[str, float]]] = {name: [] for name in ask}
                for number in range(rounds + 1):
                    for name, (url, body) in ask.items():
                        found = wrk(url, body, count, clients=clients, seconds=seconds if number else 1, folder=folder)
                        if number:  # the first round warms up
                            seen[name].append(found)
                result[f"rows_{count}_clients_{clients}"] = summary(seen)
    return result


def same_answers(urls: dict[str, str], mine: bytes, theirs: bytes) -> bool:
    answers = [
        httpx.post(
            url, content=mine if name == "taxiway" else theirs, headers={"Content-Type": "application/json"}
        ).json()
        for name, url in urls.items()
    ]
    found = [a["outputs"][0]["data"] if "outputs" in a else a["predictions"] for a in answers]
    return all(np.allclose(found[0], np.ravel(other), rtol=1e-6) for other in found[1:])


def summary(seen: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds, the machine's noise, and ours against the best of MLflow's."""
    middle = {n: {k: round(statistics.median(f[k] for f in found), 3) for k in found[0]} for n, found in seen.items()}
    for name, found in seen.items():
        rates = [f["rows_per_s"] for f in found]
        middle[name]["spread_pct"] = round((max(rates) - min(rates)) / statistics.median(rates) * 100, 1)
    best = max((name for name in middle if name != "taxiway"), key=lambda name: middle[name]["rows_per_s"])
    quickest = min(middle[name]["p50_ms"] for name in middle if name != "taxiway")
    return {
        **middle,
        "best_mlflow": best,
        "rows_per_s_over_best_mlflow": round(middle["taxiway"]["rows_per_s"] / middle[best]["rows_per_s"], 2),
        "p50_under_quickest_mlflow": round(quickest / middle["taxiway"]["p50_ms"], 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taxiway-serving-") as temporary:
        print(json.dumps(measure(given.rounds, given.seconds, Path(temporary)), indent=2))
