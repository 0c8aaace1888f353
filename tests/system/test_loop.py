"""The train → release loop through real services, on a slice. The tests run in order and build on one another."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from operators.core.errors import ServiceRefusedError
from operators.core.settings import storage_url
from operators.core.storage import Storage
from operators.demo.callers import Traffic
from operators.demo.seed import damage
from tests.support.specs import change_yaml
from tests.support.waiting import until

pytestmark = pytest.mark.system
MODEL = "flight_delay"


@pytest.fixture(scope="module")
def requests(system: Any) -> list[tuple[str, dict[str, Any]]]:
    """Real flights of the last week of January, as callers send them."""
    import pyarrow.parquet as pq

    from operators.core.dataset import Window, build, snapshot
    from ray_jobs.serve.protocol import write_request

    spec, storage = system.play.spec, Storage(storage_url())
    window = Window(start=datetime(2013, 1, 28), end=datetime(2013, 1, 31))
    frozen = snapshot(spec.data.tables, window, storage, "test/snapshots")
    query = (system.include / spec.data.query).read_text()
    dataset = build(frozen, query, {"as_of": window.start}, storage=storage, prefix="test/replay")
    rows = pq.read_table(storage.download(dataset.key, system.stack.home / "replay.parquet")).to_pylist()
    return [(row["flight_id"], write_request([row], spec.features)) for row in rows]


@pytest.fixture(scope="module")
def edge(system: Any) -> httpx.Client:
    return httpx.Client(base_url=system.stack.url("edge"), timeout=10)


def infer(edge: httpx.Client, request: Any) -> httpx.Response:
    return edge.post(f"/v2/models/{MODEL}/infer", json=request)


def rows_of(play: Any, kind: str) -> list[dict[str, Any]]:
    return [entry.payload for entry in play.model_traffic.ledger.entries(MODEL, kind=kind)]


def train_and_release(play: Any, as_of: str) -> tuple[str, str]:
    since = datetime.now(UTC)
    trained, tasks, _ = play.follow(f"{MODEL}.train", conf={"as_of": as_of})
    assert trained == "success", tasks
    released, tasks, run_id = play.follow(f"{MODEL}.release", since=since)
    print_lost_tries(play, f"{MODEL}.release", run_id)
    return released, run_id


def print_lost_tries(play: Any, dag_id: str, run_id: str) -> None:
    """Show why a task needed more than one try: that is no failure, and yet nobody should have to guess."""
    tasks = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances"
    for task in play.airflow.call("GET", tasks)["task_instances"]:
        for number in range(1, task["try_number"]):
            print(task["task_id"], "try", number)
            try:
                log = play.airflow.call("GET", f"{tasks}/{task['task_id']}/logs/{number}?full_content=true")
            except ServiceRefusedError as error:  # a try that Airflow lost before it began may have no log
                print("   ", error)
                continue
            for line in log["content"][-40:]:
                print("   ", json.dumps(line)[:1500])


def test_nothing_is_released_yet(edge: httpx.Client) -> None:
    assert edge.get("/v2/health/live").status_code == 200
    assert infer(edge, {}).status_code == 404


def test_everything_listens_on_loopback(system: Any) -> None:
    from operators.stack import supervisor

    pids = {str(pid) for pid in supervisor.leftovers(system.stack)}
    mine = {str(p): p for p in pids}
    open_to_others = []
    for table in ("tcp", "tcp6"):
        inodes = {
            fields[9]: fields[1]
            for fields in (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:])
            if fields[3] == "0A"
            and not fields[1].startswith(
                ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
            )
        }
        for pid in mine:
            for fd in Path(f"/proc/{pid}/fd").glob("*"):
                try:
                    target = str(fd.readlink())
                except OSError:
                    continue  # the process, or its file, has just gone
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    open_to_others.append((pid, inodes[target[8:-1]]))
    assert open_to_others == []


def test_first_version_gets_all_traffic(system: Any) -> None:
    state, _ = train_and_release(system.play, "2013-01-20T00:00:00")
    assert state == "success"
    assert system.play.champion() == "1"
    moves = [(row["step"], row["stable"], row["weight_bp"]) for row in rows_of(system.play, "weight_set")]
    assert moves == [("begin", None, 0), ("promote", "1", 0)]
    assert rows_of(system.play, "gate")[0]["champion"] is None


def test_data_docs_open_in_a_browser(system: Any) -> None:
    airflow = system.play.airflow
    (run,) = airflow.call("GET", f"/api/v2/dags/{MODEL}.train/dagRuns")["dag_runs"]
    path = f"/api/v2/dags/{MODEL}.train/dagRuns/{run['dag_run_id']}/taskInstances/validate/links"
    link = airflow.call("GET", path)["extra_links"]["Data Docs"]
    page = httpx.get(link, timeout=10)
    assert page.status_code == 200, link
    assert "Data Docs" in page.text


def test_endpoint_speaks_open_inference(edge: httpx.Client, requests: Any) -> None:
    found = edge.get(f"/v2/models/{MODEL}").json()
    assert found["versions"] == ["1"]
    assert edge.get(f"/v2/models/{MODEL}/ready").status_code == 200
    assert edge.get("/v2/health/ready").status_code == 200
    answered = infer(edge, {**requests[0][1], "id": "mine"})
    assert answered.status_code == 200, answered.text
    body = answered.json()
    assert (body["model_name"], body["model_version"], body["id"]) == (MODEL, "1", "mine")
    assert answered.headers["X-Taxiway-Version"] == "1"
    assert 0 < body["outputs"][0]["data"][0] < 1


def test_batch_is_the_same_as_single_rows(edge: httpx.Client, requests: Any) -> None:
    chosen = [request for _, request in requests[:200]]
    batch = {
        "inputs": [
            {**tensor, "shape": [200], "data": [r["inputs"][i]["data"][0] for r in chosen]}
            for i, tensor in enumerate(chosen[0]["inputs"])
        ]
    }
    values = infer(edge, batch).json()["outputs"][0]["data"]
    assert len(values) == 200
    for index in (0, 99, 199):
        assert infer(edge, chosen[index]).json()["outputs"][0]["data"][0] == pytest.approx(values[index], abs=1e-6)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b'{"inputs": [{"name": "distance", "data": [NaN]}]}'])
def test_nonsense_is_a_400_with_a_reason(edge: httpx.Client, raw: bytes) -> None:
    answered = edge.post(f"/v2/models/{MODEL}/infer", content=raw)
    assert answered.status_code == 400, answered.text
    assert answered.json()["error"]


def test_missing_extra_and_mistyped_inputs_are_400(edge: httpx.Client, requests: Any) -> None:
    inputs = requests[0][1]["inputs"]
    for wrong in (inputs[1:], [*inputs, {"name": "dep_delay", "shape": [1], "datatype": "FP64", "data": [1]}]):
        assert infer(edge, {"inputs": wrong}).status_code == 400
    for tensor in inputs:
        others = [t for t in inputs if t is not tensor]
        for value in ({"a": 1}, True, 10**400):
            answered = infer(edge, {"inputs": [*others, {**tensor, "data": [value]}]})
            assert answered.status_code == 400, (tensor["name"], value, answered.text)


def test_challenger_is_promoted_under_traffic_without_a_failed_request(system: Any, requests: Any) -> None:
    traffic = Traffic(f"{system.stack.url('edge')}/v2/models/{MODEL}/infer", requests, rate=40)
    traffic.start()
    state, run_id = train_and_release(system.play, "2013-01-27T00:00:00")
    tally = traffic.stop()
    assert state == "success"
    assert tally.failed == 0, tally.failures
    assert set(tally.answered) == {"1", "2"}
    assert system.play.champion() == "2"
    moves = [(row["step"], row["weight_bp"]) for row in rows_of(system.play, "weight_set")]
    steps = [("canary_5_pct", 500), ("canary_25_pct", 2500), ("canary_50_pct", 5000)]
    assert moves[2:] == [("begin", 0), *steps, ("promote", 0)]
    verdicts = rows_of(system.play, "verdict")
    # By step: a try that Airflow lost between verdict and success is made again, and has another.
    assert {v["step"]: v["judgement"]["outcome"] for v in verdicts} == {step: "Successful" for step, _ in steps}
    assert all(v["evidence"]["periods"][-1]["canary"]["requests"] >= 15 for v in verdicts)
    assert system.play.model_traffic.ledger.broken_links(MODEL) == []
    assert run_id in system.play.model_traffic.ledger.entries(MODEL, kind="promoted")[-1].key


def test_faulty_version_is_rolled_back_and_no_caller_notices(system: Any, requests: Any) -> None:
    versions = system.play.faulty_versions()
    traffic = Traffic(f"{system.stack.url('edge')}/v2/models/{MODEL}/infer", requests, rate=40)
    traffic.start()
    state, tasks, _ = system.play.follow(f"{MODEL}.release", conf={"version": versions["fragile"]})
    tally = traffic.stop()
    assert state == "failed"
    assert tasks["roll_back"] == "success"
    assert tally.failed == 0, tally.failures
    assert tally.fallbacks > 0
    assert system.play.champion() == "2"
    assert rows_of(system.play, "verdict")[-1]["judgement"]["outcome"] == "Failed"
    assert rows_of(system.play, "rolled_back")[-1]["version"] == versions["fragile"]


def test_person_rolls_back_to_a_version_that_was_retired(system: Any, edge: httpx.Client, requests: Any) -> None:
    agent = system.play.model_traffic.agent
    until(lambda: f"{MODEL}-1" not in agent.apps(), "the second for which version 1 is kept is over")
    state, tasks, _ = system.play.follow("rollback", conf={"model": MODEL, "reason": "the owner prefers it"})
    assert state == "success", tasks
    assert system.play.champion() == "1"
    assert infer(edge, requests[0][1]).json()["model_version"] == "1"
    said = rows_of(system.play, "manual_rollback")[-1]
    assert (said["version"], said["left"], said["reason"], said["actor"]) == ("1", "2", "the owner prefers it", "admin")


def test_a_person_decides_where_the_judge_could_not(system: Any) -> None:
    path = system.include / "models" / f"{MODEL}.yaml"
    text = path.read_text()
    asked = {"mode": "ask", "approvers": ["anyone"]}
    change_yaml(path, {"release.approval": asked, "release.judge.max_wait": "4s"})
    airflow, dag = system.play.airflow, f"/api/v2/dags/{MODEL}.release"
    try:
        until(lambda: "ask_at_5_pct" in json.dumps(airflow.call("GET", f"{dag}/tasks")), "the DAG asks")
        version = system.play.faulty_versions()["slow"]
        run_id = airflow.trigger(f"{MODEL}.release", {"version": version})
        form = f"{dag}/dagRuns/{quote(run_id)}/taskInstances/ask_at_5_pct/-1/hitlDetails"

        def shown() -> Any:
            response = airflow._http.get(form)
            return response.json() if response.status_code == 200 else None

        detail = until(shown, "there is a form")
        assert (
            "too little evidence after" in detail["subject"]
        )  # nobody called: there is no evidence, and that is no success
        assert "| canary_5_pct | Inconclusive |" in detail["body"]
        assert system.play.model_traffic.agent.route(MODEL).weight_now_bp == 500
        until(lambda: airflow.tasks(f"{MODEL}.release", run_id)["ask_at_5_pct"] == "deferred", "the task waits")
        time.sleep(5)  # nobody answers within the moment that Airflow needs to take note of the deferral
        airflow.call("PATCH", form, {"chosen_options": ["Roll back"], "params_input": {}})
        try:
            state, tasks = airflow.follow(f"{MODEL}.release", run_id, timeout_s=60, on_change=print)
        finally:
            print_lost_tries(system.play, f"{MODEL}.release", run_id)
        assert (state, tasks["ask_at_5_pct"], tasks["roll_back"]) == ("failed", "failed", "success")
        said = rows_of(system.play, "approval")[-1]
        assert (said["answer"], said["by"]) == ("roll_back", "admin")
        assert rows_of(system.play, "rolled_back")[-1]["version"] == version
        assert version not in [row["version"] for row in rows_of(system.play, "quarantined")]  # it was not found bad
    finally:
        path.write_text(text)


def test_the_record_holds(system: Any) -> None:
    """Every verdict of this stack's releases follows from its evidence, and the chain is whole."""
    from operators.cli.main import main

    assert main(["verify"]) == 0


def test_damaged_data_stops_before_training(system: Any) -> None:
    storage = Storage(storage_url())
    address = damage(storage, 1, ["renamed_column", "temp_in_kelvin"])
    conf = {"as_of": "2013-01-27T00:00:00", "sources": {"weather": f"{address}/weather"}}
    state, tasks, run_id = system.play.follow(f"{MODEL}.train", conf=conf)
    assert state == "failed"
    assert (tasks["validate"], tasks["train"]) == ("failed", "upstream_failed")
    report = system.play.airflow.xcom(f"{MODEL}.train", run_id, "validate", "report")
    assert "column wind_speed is missing from weather" in report["text"]
    assert "temperature is in °F" in report["text"]


def test_predictions_are_kept(system: Any) -> None:
    import pyarrow.parquet as pq

    storage = Storage(storage_url())
    keys = storage.list(f"predictions/{MODEL}")
    table = pq.read_table(storage.download(keys[0], system.stack.home / "predictions.parquet"))
    assert {"request_id", "unit", "version", "prediction", "feature_carrier", "predicted_at"} <= set(table.column_names)
    assert table.num_rows > 0


def test_broken_spec_is_an_import_error_in_airflow(system: Any) -> None:
    path = system.include / "models" / "broken.yaml"
    known = system.include / "models" / "flight_delay.yaml"
    change_yaml(known, {"name": "broken", "release.steps.0.bake": 3}, to=path)
    try:

        def shown() -> str:
            return json.dumps(system.play.airflow.call("GET", "/api/v2/importErrors"))

        until(lambda: "is not a duration" in shown(), "Airflow shows the error")
        errors = shown()
        assert f"{path}:" in errors
        assert "release.steps.0.bake: 3 is not a duration" in errors
        for name in ("train", "release"):  # the good model lives on
            assert system.play.airflow.call("GET", f"/api/v2/dags/{MODEL}.{name}")["is_stale"] is False
    finally:
        path.unlink()


def test_champion_answers_again_after_down_and_up(system: Any, edge: httpx.Client, requests: Any) -> None:
    from operators.stack import supervisor

    before = system.play.champion()
    supervisor.down(system.stack)
    assert not supervisor.leftovers(system.stack)
    supervisor.ensure_up(system.stack)
    until(lambda: infer(edge, requests[0][1]).status_code == 200, "the champion answers")
    assert infer(edge, requests[0][1]).json()["model_version"] == before
    assert system.play.champion() == before
