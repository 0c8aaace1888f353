"""Is a change in MLflow's registry lost, or fired twice, when Airflow's triggerer is killed? Real MLflow, real Airflow, SIGKILL.

Somebody registers versions and moves an alias by hand while the triggerer is killed, and started again, at random moments.
Then the asset events in Airflow's database, and what a DAG that they start has made of them, are held against what was done.
Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from operators.core.settings import PROJECT_ROOT
from operators.registry.client import Registry

_DAG = """
import json
import os
from airflow.sdk import Asset, AssetWatcher, dag, get_current_context, task
from operators.registry.triggers import ModelEventTrigger, new_changes

watched = Asset("watched", watchers=[AssetWatcher(name="w", trigger=ModelEventTrigger(model="m", asset="watched", poll_s=0.5))])

@dag(schedule=[watched], is_paused_upon_creation=False, max_active_runs=1, catchup=False)
def consumer():
    @task
    def take():
        with open(os.environ["TAKEN"], "a") as file:
            for change in new_changes(get_current_context(), watched):
                file.write(json.dumps(change) + chr(10))
    take()

consumer()
"""


def start(command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        # A group of its own: the triggerer's child must die with it.
        return subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)


def kill(process: subprocess.Popen[bytes], how: int = signal.SIGKILL) -> None:
    os.killpg(process.pid, how)
    process.wait(timeout=30)


def wait(check: Any, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if check():
                return
        except (httpx.HTTPError, sqlite3.Error):
            pass
        time.sleep(0.2)
    raise SystemExit(f"{what} did not happen within {timeout_s} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """MLflow and an Airflow home, both on SQLite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "airflow.db"
        port, api = free_port(), free_port()
        self.mlflow_url = f"http://127.0.0.1:{port}"
        (folder / "dags").mkdir()
        (folder / "dags" / "consumer.py").write_text(_DAG)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW__", "MLFLOW_"))} | {
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.database}",
            # A killed triggerer's triggers are taken over once its heart has been still for this long.
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "2",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": self.mlflow_url}),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "1",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "PYTHONPATH": str(PROJECT_ROOT),
            "TAKEN": str(folder / "taken"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        backend = f"--backend-store-uri=sqlite:///{folder}/mlflow.db"
        command = ["-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", backend]
        self.running = [start([sys.executable, *command], self.env, folder / "mlflow.log")]
        self.api = ["api-server", "--apps=execution", "--host=127.0.0.1", f"--port={api}", "--workers=1"]

    def airflow(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "airflow", *arguments], env=self.env, check=True, capture_output=True)

    def service(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"{arguments[0]}.log"
        return start([sys.executable, "-m", "airflow", *arguments], self.env, log)

    def triggerer(self) -> subprocess.Popen[bytes]:
        return self.service("triggerer", "--skip-serve-logs")

    def taken(self) -> list[dict[str, Any]]:
        """Return what the DAG's runs took, each line one change."""
        file = self.folder / "taken"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def rows(self, query: str) -> list[Any]:
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10) as connection:
            return [json.loads(value) for (value,) in connection.execute(query)]

    def events(self) -> list[dict[str, Any]]:
        return [extra["payload"] for extra in self.rows("SELECT extra FROM asset_event ORDER BY id")]

    def mark(self) -> dict[str, Any]:
        found = self.rows("SELECT value FROM asset_state_store WHERE key LIKE 'taxiway.registry%'")
        return found[0] if found else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="taxiway-kills-") as folder:
        stack = Stack(Path(folder))
        try:
            print(json.dumps(run(stack, chance, given.kills), indent=2))
        finally:
            for process in stack.running:
                kill(process, signal.SIGTERM)


def run(stack: Stack, chance: random.Random, kills: int) -> dict[str, Any]:
    stack.airflow("db", "migrate")
    for _ in range(2):  # the asset must be active before its watcher is taken up
        stack.airflow("dags", "reserialize")
    wait(lambda: httpx.get(f"{stack.mlflow_url}/health").status_code == 200, 90, "MLflow's start")
    registry = Registry(stack.mlflow_url)

    def by_hand(path: str, **values: Any) -> None:
        registry._call("POST", path, values)

    by_hand("registered-models/create", name="m")
    by_hand("model-versions/create", name="m", source="s3://bucket/0")
    stack.running += [stack.service(*stack.api), stack.service("scheduler", "--skip-serve-logs")]
    triggerer = stack.triggerer()
    wait(stack.mark, 60, "the first look")
    done: list[tuple[str, str]] = []
    for number in range(2, kills + 2):
        by_hand("model-versions/create", name="m", source=f"s3://bucket/{number}")
        done.append(("version_created", str(number)))
        time.sleep(chance.uniform(0.0, 0.6))
        by_hand("registered-models/alias", name="m", alias="champion", version=str(number))
        done.append(("alias_set", str(number)))
        time.sleep(chance.uniform(0.0, 3.0))
        kill(triggerer)
        triggerer = stack.triggerer()
        # Sometimes it is killed before it has come up, sometimes after it has caught up.
        time.sleep(chance.choice([0.5, 5.0, 9.0, 13.0]))
    wait(lambda: stack.mark()["aliases"] == {"champion": str(kills + 1)}, 60, "the last look")
    wait(lambda: not stack.mark()["outbox"], 60, "the last confirmation")
    kill(triggerer)
    events = stack.events()
    keys = {event["key"] for event in events}
    wait(lambda: {change["key"] for change in stack.taken()} == keys, 90, "the last run of the DAG")
    time.sleep(5)  # a change that is taken twice would be so by now
    seen = [(change["kind"], change["version"]) for change in stack.taken()]
    created = [version for kind, version in seen if kind == "version_created"]
    registered = [version for kind, version in done if kind == "version_created"]
    return {
        "kills": kills,
        "changes": len(done),
        "asset_events": len(events),
        "of_which_repeated_with_a_known_key": len(events) - len(keys),
        "changes_taken_by_the_dag": len(seen),
        "versions_missed": sorted(set(registered) - set(created)),
        "changes_taken_twice": len(seen) - len(set(seen)),
        "versions_in_order": created == registered,
        # Moves between two looks are one: only the last is there to be seen.
        "alias_moves_seen": [version for kind, version in seen if kind == "alias_set"],
        "last_alias_seen": seen[-1] == done[-1],
    }


if __name__ == "__main__":
    main()
