"""The registry's client and operators against a real MLflow server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.triggers.base import BaseTrigger

from operators.core.errors import RejectedError, ServiceRefusedError
from operators.registry.assets import model_asset
from operators.registry.change_stream import Interest, Watcher
from operators.registry.client import CHALLENGER, CHAMPION, Registry
from operators.registry.entities import alias_tag
from operators.registry.hook import MlflowHook
from operators.registry.operators import (
    CompareVersionsOperator,
    DeleteAliasOperator,
    RegisterModelOperator,
    RegisterOperator,
    SetAliasOperator,
    TagVersionOperator,
)
from operators.registry.sensors import ModelAliasSensor, ModelVersionSensor, RegistrySensor
from operators.registry.server import Server
from operators.registry.triggers import ModelVersionTrigger
from tests.support.ports import free_port
from tests.support.specs import small_spec
from tests.support.waiting import until, until_async

START_TIMEOUT_S = 90.0
SOURCE = "s3://bucket/model"


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server on SQLite, for the whole session."""
    folder = tmp_path_factory.mktemp("mlflow")
    url = f"http://127.0.0.1:{free_port()}"
    options = [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts"]
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "OMP_NUM_THREADS": "1"}
    host, port = url.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "mlflow", "server", f"--host={host}", f"--port={port}", "--workers=1", *options]
    with (folder / "log").open("w") as log:
        # A group of its own, so that its workers end with it.
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(url, process, folder / "log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    pytest.fail(f"MLflow did not start: {log.read_text()[-2000:]}")


@pytest.fixture
def registry(mlflow_url: str) -> Iterator[Registry]:
    found = Registry(mlflow_url)
    yield found
    found.close()


@pytest.fixture
def model() -> str:
    return f"m_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def connection(mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow_url}))


def call(registry: Registry, path: str, **values: Any) -> Any:
    """What somebody else does in MLflow: no tag of ours."""
    return registry._call("POST", path, values)


def run_of(registry: Registry, metrics: dict[str, Any], tags: dict[str, str] | None = None) -> str:
    body = {"experiment_id": "0", "tags": [{"key": k, "value": v} for k, v in (tags or {}).items()]}
    run_id: str = registry._call("POST", "runs/create", body)["run"]["info"]["run_id"]
    for key, value in metrics.items():
        call(registry, "runs/log-metric", run_id=run_id, key=key, value=value, timestamp=1)
    return run_id


def context() -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="m.train", run_id="manual__2026-01-01T00:00:00+00:00", task_id="t", try_number=1)
    return {"ti": ti, "run_id": ti.run_id, "outlet_events": OutletEventAccessors()}


def test_each_key_is_registered_once(registry: Registry, model: str) -> None:
    first = registry.register(model, SOURCE, "", key="a", tags={"x": "1"})
    assert registry.register(model, SOURCE, "", key="a", tags={}) == first
    assert registry.register(model, SOURCE, "", key="it's", tags={}).version == "2"
    assert registry.register(model, SOURCE, "", key="it's", tags={}).version == "2"
    assert (first.version, first.tags, first.uri) == ("1", {"x": "1", "taxiway.key": "a"}, f"models:/{model}/1")


def test_registrations_at_once_settle_on_one_version(mlflow_url: str, registry: Registry, model: str) -> None:
    def register(_: int) -> str:
        mine = Registry(mlflow_url)
        try:
            return mine.register(model, SOURCE, "", key="a", tags={}).version
        finally:
            mine.close()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(register, range(6))) == {"1"}
    assert [v.version for v in registry.versions(model)] == ["1"]


def test_what_a_killed_registration_left_is_cleared_unless_it_is_in_use(registry: Registry, model: str) -> None:
    registry.register(model, SOURCE, "", key="a", tags={})
    twice = {"name": model, "source": SOURCE, "tags": [{"key": "taxiway.key", "value": "a"}]}
    call(registry, "model-versions/create", **twice)
    call(registry, "model-versions/create", **twice)
    registry.set_alias(model, "mine", "3")
    assert registry.register(model, SOURCE, "", key="a", tags={}).version == "1"
    assert [v.version for v in registry.versions(model)] == ["3", "1"]


def test_more_versions_than_a_page(registry: Registry, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.registry.client._PAGE_ROWS", 3)
    for key in range(8):
        registry.register(model, SOURCE, "", key=str(key), tags={})
    assert [v.version for v in registry.versions(model)] == [str(n) for n in range(8, 0, -1)]
    assert [v.version for v in registry.versions(model, above=6)] == ["8", "7"]
    assert registry.versions("nobody") == []


def test_aliases_leave_a_mark_and_are_found(registry: Registry, model: str) -> None:
    registry.register(model, SOURCE, "", key="a", tags={})
    assert registry.alias(model, CHAMPION) is None
    registry.set_alias(model, CHAMPION, "1")
    known = registry.model(model)
    assert known is not None
    assert (known.aliases, known.tags) == ({CHAMPION: "1"}, {alias_tag(CHAMPION): "1"})
    assert registry.find(model, "@champion").version == registry.find(model, "1").version == "1"
    assert registry.drop_alias(model, CHAMPION) is True
    assert registry.drop_alias(model, CHAMPION) is False
    assert registry.model("nobody") is None
    with pytest.raises(RejectedError, match="no version with the alias `champion`"):
        registry.find(model, "@champion")
    with pytest.raises(RejectedError, match="no version 9"):
        registry.find(model, "9")


def test_logged_models_are_found_by_id_and_by_run(
    mlflow_url: str, registry: Registry, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    code = tmp_path / "model.py"
    code.write_text(
        "from mlflow.models import set_model\nfrom mlflow.pyfunc import PythonModel\n"
        "class M(PythonModel):\n    def predict(self, context, model_input, params=None):\n        return model_input\n"
        "set_model(M())\n"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    with mlflow.start_run() as run:
        info = mlflow.pyfunc.log_model(name="model", python_model=str(code), pip_requirements=[])
    by_id = registry.register(model, info.model_uri, run.info.run_id, key="id", tags={})
    by_run = registry.register(model, f"runs:/{run.info.run_id}/model", run.info.run_id, key="run", tags={})
    assert by_id.source == by_run.source
    registry.set_alias(model, CHAMPION, by_run.version)
    copied = [
        registry.register(f"{model}_prod", uri, run.info.run_id, key=uri, tags={})
        for uri in (by_run.uri, f"models:/{model}@champion")
    ]
    assert {version.source for version in copied} == {by_run.uri}
    for version in (by_run, *copied):
        assert mlflow.pyfunc.load_model(version.uri).metadata.model_id == info.model_id


def test_register_operator_links_points_and_tells(connection: None, registry: Registry, model: str) -> None:
    tags = {"mlflow.source.git.commit": "abc", "taxiway.data_digest": "d1"}
    run_id = run_of(registry, {"auc": 0.9, "odd": "NaN"}, tags)
    task = RegisterModelOperator(
        task_id="register",
        model=model,
        model_uri=SOURCE,
        run_id=run_id,
        aliases=["challenger"],
        tags={"team": "x"},
        validation={"passed": True, "checks": 12, "failures": [{"severity": "warning"}], "docs_url": "s3://docs"},
    )
    said = context()
    result = task.execute(said)
    assert task.execute(context()) == result
    expected = {
        "model": model,
        "version": "1",
        "run_id": run_id,
        "uri": f"models:/{model}/1",
        "aliases": ["challenger"],
    }
    assert result == expected
    extra = said["outlet_events"][model_asset(model)].extra
    assert extra == {**expected, "metrics": {"auc": 0.9}, "data_digest": "d1"}
    assert registry.version(model, "1").tags == {
        "team": "x",
        "taxiway.key": f"{run_id}/{SOURCE}",
        "taxiway.data_digest": "d1",
        "taxiway.code_commit": "abc",
        "taxiway.dag_id": "m.train",
        "taxiway.dag_run": said["run_id"],
        "taxiway.dag_run_url": "unknown",
        "taxiway.validation": "passed",
        "taxiway.validation_checks": "12",
        "taxiway.validation_warnings": "1",
        "taxiway.validation_url": "s3://docs",
    }
    assert task.version_url == f"{registry.server.url}/#/models/{model}/versions/1"


def test_an_older_window_does_not_displace_the_challenger(
    mlflow_url: str, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    spec = small_spec(name=f"m_{uuid.uuid4().hex[:8]}")

    def register(as_of: str) -> dict[str, Any]:
        trained = {"model_uri": SOURCE, "run_id": run_of(registry, {})}
        task = RegisterOperator(task_id="register", spec=spec, trained=trained, tags={"taxiway.as_of": as_of})
        return dict(task.execute(context()))

    assert register("2026-02-01")["aliases"] == ["challenger"]
    assert register("2026-01-01")["aliases"] == []
    assert registry.find(spec.name, "@challenger").version == "1"
    assert register("2026-03-01")["aliases"] == ["challenger"]
    assert registry.find(spec.name, "@challenger").version == "3"
    assert json.loads(registry.version(spec.name, "1").tags["taxiway.spec"])["name"] == spec.name


def test_alias_and_tag_operators(connection: None, registry: Registry, model: str) -> None:
    for key in "ab":
        registry.register(model, SOURCE, "", key=key, tags={"old": "1"})
    challenge = SetAliasOperator(task_id="t", model=model, alias=CHALLENGER, version="2")
    assert challenge.execute(context()) == {"version": "2", "previous": None}
    promote = SetAliasOperator(task_id="t", model=model, alias=CHAMPION, version="@challenger")
    assert promote.execute(context()) == {"version": "2", "previous": None}
    assert promote.execute(context()) == {"version": "2", "previous": "2"}
    tag = TagVersionOperator(task_id="t", model=model, version="@champion", tags={"new": "1", "old": None, "no": None})
    assert tag.execute(context()) == {"version": "2"}
    assert registry.version(model, "2").tags == {"taxiway.key": "b", "new": "1"}
    drop = DeleteAliasOperator(task_id="t", model=model, alias=CHALLENGER)
    assert (drop.execute(context()), drop.execute(context())) == (True, False)
    with pytest.raises(AirflowFailException, match="alias `challenger`"):
        promote.execute(context())
    with pytest.raises(AirflowFailException, match="neither a version"):
        SetAliasOperator(task_id="t", model=model, alias=CHAMPION, version="two").execute(context())


def test_compare_operator(connection: None, registry: Registry, model: str) -> None:
    old, new = run_of(registry, {"auc": 0.8, "loss": 0.30}), run_of(registry, {"auc": 0.85, "loss": 0.31})
    registry.register(model, SOURCE, old, key="a", tags={})
    registry.register(model, SOURCE, new, key="b", tags={})
    registry.set_alias(model, CHALLENGER, "2")
    directions: Any = {"auc": "higher", "loss": "lower"}
    task = CompareVersionsOperator(task_id="t", model=model, metrics=directions, fail_if_worse=True)
    first = task.execute(context())  # there is no champion yet
    assert (first["baseline"], {row["verdict"] for row in first["rows"]}) == (None, {"unknown"})
    registry.set_alias(model, CHAMPION, "1")
    with pytest.raises(AirflowFailException, match="loss is worse"):
        task.execute(context())
    task.tolerances = {"loss": 0.02}
    assert [row["verdict"] for row in task.execute(context())["rows"]] == ["better", "same"]
    task.metrics = {"f1": "higher"}
    with pytest.raises(AirflowFailException, match="f1 is unknown"):
        task.execute(context())


class Kept(dict[str, Any]):
    """A state store in memory."""

    def set(self, key: str, value: Any, **_: Any) -> None:
        self[key] = value

    async def aget(self, key: str) -> Any:
        return self.get(key)

    async def aset(self, key: str, value: Any) -> None:
        self[key] = json.loads(json.dumps(value))


def fired(sensor: RegistrySensor, context: dict[str, Any]) -> tuple[BaseTrigger, Any]:
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    path, kwargs = deferred.value.trigger.serialize()
    assert path == "operators.registry.triggers.ModelVersionTrigger"
    trigger = ModelVersionTrigger(**json.loads(json.dumps(kwargs)))
    return trigger, getattr(sensor, deferred.value.method_name)


async def next_event(trigger: BaseTrigger) -> Any:
    return (await asyncio.wait_for(anext(aiter(trigger.run())), 60)).payload


def test_version_sensor_waits_for_a_newer_one(connection: None, registry: Registry, model: str) -> None:
    registry.register(model, SOURCE, "", key="a", tags={})
    kept = {"task_state_store": Kept()}
    wait: dict[str, Any] = {"task_id": "t", "model": model, "tags": {"gate": "passed"}, "poke_interval": 0.05}
    sensor, deferred = ModelVersionSensor(**wait), ModelVersionSensor(**wait, deferrable=True)
    assert not sensor.poke(kept)
    trigger, resume = fired(deferred, kept)
    registry.register(model, SOURCE, "", key="b", tags={})
    assert not sensor.poke(kept)
    registry.register(model, SOURCE, "", key="c", tags={"gate": "passed"})
    expected = {"model": model, "version": "3", "run_id": "", "uri": f"models:/{model}/3", "aliases": []}
    assert expected.items() <= sensor.execute(kept).items()
    # A retry looks from where the first try began, not from now.
    assert sensor.execute({"task_state_store": Kept(kept["task_state_store"])})["version"] == "3"
    assert resume({}, asyncio.run(next_event(trigger)))["version"] == "3"
    assert (
        ModelVersionSensor(**wait, newer_than="@champion").poke({"task_state_store": Kept()}).xcom_value["version"]
        == "3"
    )
    assert not ModelVersionSensor(**wait, newer_than="3").poke({"task_state_store": Kept()})
    with pytest.raises(AirflowFailException, match="newer_than is 'x'"):
        ModelVersionSensor(**wait, newer_than="x").poke({"task_state_store": Kept()})


def test_alias_sensor(connection: None, registry: Registry, model: str) -> None:
    for key in "ab":
        registry.register(model, SOURCE, "", key=key, tags={})
    wait: dict[str, Any] = {"task_id": "t", "model": model, "alias": CHAMPION, "poke_interval": 0.05}
    assert not ModelAliasSensor(**wait).poke({"task_state_store": Kept()})
    registry.set_alias(model, CHAMPION, "1")
    assert ModelAliasSensor(**wait).execute({"task_state_store": Kept()})["aliases"] == [CHAMPION]
    assert not ModelAliasSensor(**wait, version="2").poke({"task_state_store": Kept()})
    kept = {"task_state_store": Kept()}
    trigger, resume = fired(ModelAliasSensor(**wait, moved=True, deferrable=True), kept)
    call(registry, "registered-models/alias", name=model, alias=CHAMPION, version="2")
    assert resume({}, asyncio.run(next_event(trigger)))["version"] == "2"
    assert ModelAliasSensor(**wait, moved=True).execute(kept)["version"] == "2"
    assert ModelAliasSensor(**wait, version="2").execute({"task_state_store": Kept()})["version"] == "2"


def test_watcher_tells_moves_by_hand_from_ours(mlflow_url: str, registry: Registry, model: str) -> None:
    store = Kept()

    async def scenario() -> list[tuple[Any, ...]]:
        async def server() -> Server:
            return Server(url=mlflow_url)

        kinds = ("version_created", "alias_set", "alias_removed")
        interest = Interest(model=model, kinds=kinds, aliases=None, foreign_only=True, from_start=False)
        watcher = Watcher(server, store, "k", interest, 0.05)
        found: list[dict[str, Any]] = []

        async def collect() -> None:
            async for event in watcher.events():
                found.append(event)

        collecting = asyncio.ensure_future(collect())
        await until_async(lambda: "k" in store)
        await asyncio.to_thread(move)
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        await watcher.close()
        return [(e["kind"], e["alias"], e["previous"], e["version"], e["metrics"]) for e in found]

    def settled() -> None:
        """Wait until the watcher has seen what is there: what happens between two looks is one change."""
        known = registry.model(model)
        until(lambda: known is None or store["k"]["aliases"] == known.aliases)

    def move() -> None:
        registry.register(model, SOURCE, "", key="a", tags={})  # ours
        registry.set_alias(model, CHAMPION, "1")  # ours
        run_id = run_of(registry, {"auc": 0.9})
        call(registry, "model-versions/create", name=model, source=SOURCE, run_id=run_id)
        call(registry, "registered-models/alias", name=model, alias=CHALLENGER, version="2")
        settled()
        call(registry, "registered-models/alias", name=model, alias=CHAMPION, version="2")
        settled()
        registry.set_alias(model, CHAMPION, "1")  # ours
        registry.drop_alias(model, CHALLENGER)  # ours
        settled()
        call(registry, "registered-models/alias", name=model, alias=CHAMPION, version="2")
        settled()
        registry._call("DELETE", "registered-models/alias", {"name": model, "alias": CHAMPION})
        settled()

    auc = {"auc": 0.9}
    assert asyncio.run(scenario()) == [
        ("version_created", None, None, "2", auc),
        ("alias_set", CHALLENGER, None, "2", auc),
        ("alias_set", CHAMPION, "1", "2", auc),
        ("alias_set", CHAMPION, "1", "2", auc),
        ("alias_removed", CHAMPION, "2", "2", auc),
    ]


def test_hook_tests_its_connection(connection: None, mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MlflowHook().test_connection()[0] is True
    monkeypatch.setenv(
        "AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "127.0.0.1", "port": 1})
    )
    ok, said = MlflowHook().test_connection()
    assert (ok, "did not answer" in said) == (False, True)


def test_a_host_name_that_mlflow_does_not_allow_is_explained(mlflow_url: str) -> None:
    refused = Registry(mlflow_url)
    refused._http.headers["Host"] = "elsewhere.example"
    with pytest.raises(ServiceRefusedError, match="--allowed-hosts"):
        refused.health()
