"""The model's own serving app through the edge, against MLflow's scoring server with the same model, on the same machine.

``python -m benchmarks.serving``: trains a small ``flight_delay`` (its spec, 16 features, 60 rounds of XGBoost), serves it both
ways and asks both in turns with ``wrk`` (Debian's package; one thread, connections kept, a body from a Lua script). It starts
its own Ray, Serve, agent and edge on ports of their own, and ends them. About five minutes on two cores. Prints JSON.

The rival is flattered: it is asked directly, with no edge, no split, no fallback, no counters and no prediction log; it is
shown as it comes (one worker) and with 2 and 4 workers, and gets the input that it reads fastest (``dataframe_split``). Both
check every request against the model's signature, and both run the same model file. On the way, agent, keeper and HAProxy are
killed, to see what callers notice.
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
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from operators.core import processes
from operators.core.loader import INCLUDE, load_spec
from operators.core.spec import PredictionSpec
from operators.core.storage import Storage
from operators.stack import catalog
from operators.stack.config import Stack
from ray_jobs.serve.protocol import write_request
from ray_jobs.training.checkpoints import Checkpoints
from ray_jobs.training.training_data import split
from ray_jobs.training.worker import LoneWorker, Task

KEY = "datasets/1/dataset.parquet"
END = datetime(2013, 3, 1)
BATCHES = (1, 100, 1000)
REPLICAS = (1, 2)
WORKERS = (1, 2, 4)  # MLflow comes with 1
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


def table(spec: PredictionSpec, rows: int) -> pa.Table:
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


def train(spec: PredictionSpec, folder: Path) -> tuple[Path, pa.Table]:
    """Train as the training job does and save what it logs."""
    import mlflow.pyfunc

    from ray_jobs.trainers import xgboost_classifier
    from ray_jobs.trainers.encoding import learn_encoder
    from ray_jobs.training.signature import input_example, signature_of

    rows = table(spec, 20_000)
    storage = Storage((folder / "storage").as_uri())
    pq.write_table(rows, folder / "dataset.parquet")
    storage.upload(folder / "dataset.parquet", KEY)
    filesystem, root = storage.arrow("ray")
    data = split(KEY, storage, spec, END + timedelta(days=7))[0]
    encoder = learn_encoder(data, spec.features)
    task = Task(data, streams=False, threads=1, device="cpu", seed=7, checkpoint_every_s=3600)
    (folder / "work").mkdir()
    worker = LoneWorker(task, folder / "work", Checkpoints(filesystem, f"{root}/bench"))  # without a Ray
    config = {"encoder": encoder, "label": spec.data.label, "parameters": dict(spec.training.parameters)}
    xgboost_classifier.train_on_worker(worker, config)
    (folder / "encoder.json").write_text(json.dumps(encoder))
    booster = worker.restored() / "booster.ubj"
    path = folder / "model"
    mlflow.pyfunc.save_model(
        path,
        python_model=str(Path(xgboost_classifier.__file__).with_name("xgboost_served.py")),
        artifacts={"booster": str(booster), "encoder": str(folder / "encoder.json")},
        signature=signature_of(spec),
        input_example=input_example(spec, rows),
        pip_requirements=[],
    )
    return path, rows


def bodies(spec: PredictionSpec, rows: pa.Table, count: int) -> tuple[bytes, bytes]:
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
def ours(spec: PredictionSpec, model: Path, folder: Path) -> Iterator[tuple[httpx.Client, str, dict[str, Any]]]:
    """Ray, Serve, the agent and an edge; version n of the model has n replicas. Yields the agent, the address, and facts."""
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
    known = catalog.of(stack)
    ray, serving = known["ray"], known["serving"]
    env = dict(serving.env)
    try:
        assert ray.prepare is not None
        ray.prepare()
        with process(list(ray.command), dict(ray.env), folder / "ray.log"):
            wait(ray.ready, "Ray")
            began = time.monotonic()
            subprocess.run(list(serving.command), env=env, check=True, timeout=120)
            up_s = time.monotonic() - began
            token = {"Authorization": f"Bearer {env['TAXIWAY_AGENT_TOKEN']}"}
            with httpx.Client(base_url=env["TAXIWAY_AGENT_URL"], headers=token, timeout=60) as agent:
                for replicas in REPLICAS:
                    more = spec.model_copy(update={"serving": spec.serving.model_copy(update={"replicas": replicas})})
                    order = {"spec": more.to_json(), "model_uri": str(model)}
                    agent.put(f"/v1/apps/{spec.name}/{replicas}", json=order).raise_for_status()
                for replicas in REPLICAS:
                    app = f"/v1/apps/{spec.name}/{replicas}"
                    wait(lambda app=app: agent.get(app).json()["status"] == "RUNNING", "the model")
                give_all(agent, spec, REPLICAS[0])
                url = f"{env['TAXIWAY_EDGE_URL']}/v2/models/{spec.name}/infer"
                yield (
                    agent,
                    url,
                    {"agent_up_s": round(up_s, 1), **kills(agent, url, folder / "home" / "edge" / "haproxy.pid")},
                )
    finally:
        end_marked(env["TAXIWAY_STACK_ID"])
        shutil.rmtree(stack.short_dir, ignore_errors=True)


def give_all(agent: httpx.Client, spec: PredictionSpec, version: int) -> None:
    answer = agent.put(f"/v1/routes/{spec.name}", json={"stable": str(version)}).raise_for_status().json()
    assert not answer["behind"], answer


def kills(agent: httpx.Client, url: str, pid_file: Path) -> dict[str, float]:
    """SIGKILL the agent, the keeper and HAProxy. Callers must notice the last one only, and for less than a second."""

    def answers(address: str) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(address, timeout=1).status_code == 200
        return False

    ready = url.replace("/infer", "/ready")
    before, found = pid_file.read_text(), {}
    for actor in ("AgentActor", "KeeperActor"):
        (old,) = pids_of(actor)
        began = time.monotonic()
        os.kill(old, signal.SIGKILL)
        failed = 0
        while not (pids_of(actor) - {old} and answers(f"{agent.base_url}/v1/health/live")):
            failed += not answers(ready)
            time.sleep(0.01)
        found |= {f"{actor}_killed_back_s": round(time.monotonic() - began, 2), f"{actor}_killed_failed_calls": failed}
        wait(lambda: agent.get("/v1/health").json()["edge"], "the agent")
    assert pid_file.read_text() == before, "HAProxy was started anew"
    began = time.monotonic()
    os.kill(int(before), signal.SIGKILL)
    time.sleep(0.001)
    while not answers(ready):
        time.sleep(0.005)
    return {**found, "haproxy_killed_back_s": round(time.monotonic() - began, 3)}


def pids_of(actor: str) -> set[int]:
    found = Path("/proc").glob("[0-9]*")
    return {int(entry.name) for entry in found if name_of(entry).startswith(f"ray::{actor}") and own(entry)}


def name_of(entry: Path) -> str:
    with suppress(OSError):
        return (entry / "cmdline").read_text()
    return ""


def own(entry: Path) -> bool:
    """Tell whether a process is of this stack: somebody else's may have actors of the same name."""
    with suppress(OSError):
        return f"TAXIWAY_HOME={os.environ['TAXIWAY_HOME']}\0".encode() in (entry / "environ").read_bytes()
    return False


def end_marked(stack_id: str) -> None:
    """End what is left of our stack: by its mark, and HAProxy by its folder."""
    left = set(processes.marked("TAXIWAY_STACK_ID", stack_id))
    left |= set(processes.inside((Path(os.environ["TAXIWAY_HOME"]) / "edge",), ("haproxy",)))
    processes.signal_all(left - {psutil.Process()}, signal.SIGKILL)


@contextmanager
def mlflow_servers(model: Path, folder: Path) -> Iterator[dict[str, str]]:
    """MLflow's scoring servers. Yields their addresses."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    urls = {f"mlflow_{workers}": f"http://127.0.0.1:{5600 + workers}" for workers in WORKERS}
    with ExitStack() as stack:
        for workers in WORKERS:
            command = [
                sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local",
                "-h", "127.0.0.1", "-p", str(5600 + workers), "-w", str(workers),
            ]  # fmt: skip
            stack.enter_context(process(command, env, folder / f"mlflow-{workers}.log"))
        for url in urls.values():
            wait(lambda url=url: httpx.get(f"{url}/ping").status_code == 200, "MLflow")
        yield {name: f"{url}/invocations" for name, url in urls.items()}


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
    with ours(spec, model, folder) as (agent, edge, facts), mlflow_servers(model, folder) as theirs:
        result |= facts
        result["same_answers"] = same_answers(edge, theirs, *bodies(spec, rows, 5))
        for count in BATCHES:
            v2, split_frame = bodies(spec, rows, count)
            for clients in (1, 16):
                seen: dict[str, list[dict[str, float]]] = {}
                for number in range(rounds + 1):
                    ask = {
                        **{f"taxiway_{n}": (edge, v2) for n in REPLICAS},
                        **{n: (u, split_frame) for n, u in theirs.items()},
                    }
                    for name, (url, body) in ask.items():
                        if url == edge:
                            give_all(agent, spec, int(name.rpartition("_")[2]))
                        found = wrk(url, body, count, clients=clients, seconds=seconds if number else 1, folder=folder)
                        if number:  # the first round warms up
                            seen.setdefault(name, []).append(found)
                result[f"rows_{count}_clients_{clients}"] = summary(seen)
    return result


def same_answers(edge: str, theirs: dict[str, str], v2: bytes, frame: bytes) -> bool:
    headers = {"Content-Type": "application/json"}
    mine = httpx.post(edge, content=v2, headers=headers).json()["outputs"][0]["data"]
    others = [httpx.post(url, content=frame, headers=headers).json()["predictions"] for url in theirs.values()]
    return all(np.allclose(mine, np.ravel(other), rtol=1e-6) for other in others)


def summary(seen: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds, the machine's noise, and one replica of ours against MLflow as it comes and at its best."""
    middle = {n: {k: round(statistics.median(f[k] for f in found), 3) for k in found[0]} for n, found in seen.items()}
    for name, found in seen.items():
        rates = [f["rows_per_s"] for f in found]
        middle[name]["spread_pct"] = round((max(rates) - min(rates)) / statistics.median(rates) * 100, 1)
    rate = {name: facts["rows_per_s"] for name, facts in middle.items()}
    best = {kind: max(r for n, r in rate.items() if n.startswith(kind)) for kind in ("taxiway", "mlflow")}
    return {
        **middle,
        "rows_per_s_over_mlflow_as_it_comes": round(rate["taxiway_1"] / rate["mlflow_1"], 2),
        "best_rows_per_s_over_best_mlflow": round(best["taxiway"] / best["mlflow"], 2),
        "p50_mlflow_as_it_comes_over_ours": round(middle["mlflow_1"]["p50_ms"] / middle["taxiway_1"]["p50_ms"], 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taxiway-serving-") as temporary:
        print(json.dumps(measure(given.rounds, given.seconds, Path(temporary)), indent=2))
