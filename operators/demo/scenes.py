"""What happens in each act, and how one knows that it did. Every function returns the act's outcome in words."""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from operators.core.dataset import Window, build, snapshot
from operators.core.errors import ServiceError
from operators.core.loader import INCLUDE
from operators.core.rows import ReleaseStartedRow, RolledBackRow, VerdictRow
from operators.core.settings import storage_url
from operators.core.storage import Storage
from operators.demo.acts import Act, Play
from operators.demo.callers import Traffic
from operators.demo.seed import damage, seed_flights
from operators.judge.evidence import Outcome
from operators.registry.client import CHALLENGER, CHAMPION
from operators.rollout.manual_moves import ManualMoves
from ray_jobs.serve.protocol import write_request

DAMAGES = ("renamed_column", "distance_in_metres", "half_weather")
_FIRST_AS_OF, _LATER_AS_OF, _DAMAGED_AS_OF = "2013-03-01T00:00:00", "2013-03-15T00:00:00", "2013-05-01T00:00:00"
_DAMAGED_MONTH = 4


def set_the_stage(play: Play) -> None:
    """Bring in the flights of January to April, end what an earlier demo left half done, and clear its traffic."""
    for dag_id in (f"{play.spec.name}.train", f"{play.spec.name}.release"):
        if count := play.airflow.end_runs(dag_id):
            play.view.event(f"ended {count} unfinished runs of {dag_id}")
    seed_flights(Storage(storage_url()), months=range(1, 5))
    if ManualMoves(play.model_traffic).withdraw("demo", "a new demo begins"):
        play.view.event("took the champion of an earlier run out of the traffic; its versions stay in the registry")


def first_champion(play: Play, act: Act) -> str:
    """Train on January and February; nothing is there to compare with, so the first version gets all traffic."""
    outcome = _train_and_release(play, act, _FIRST_AS_OF)
    return "released to 100 %" if outcome == "promoted" else outcome


def traffic_begins(play: Play, act: Act, *, rate: float, edge_url: str) -> str:
    """Replay March in the order of the departures, from now to the end of the demo."""
    requests = march(play)
    url = f"{edge_url}/v2/models/{play.spec.name}/infer"
    play.traffic = Traffic(url, requests, rate=rate)
    play.traffic.start()
    end = time.monotonic() + 30
    while (tally := play.tally()).answered.total() < 2 * rate and time.monotonic() < end:
        time.sleep(0.1)
    act.details = {"flights": len(requests), "requests_per_s": rate}
    return "flowing" if tally.answered.total() >= 2 * rate and not tally.failed else f"not flowing: {tally.failures}"


def march(play: Play) -> list[tuple[str, dict[str, Any]]]:
    """Return (unit, request) of each flight of March, made by the same query that makes the training data."""
    import pyarrow.parquet as pq

    storage = Storage(storage_url())
    window = Window(start=datetime(2013, 3, 1), end=datetime(2013, 4, 1))
    frozen = snapshot(play.spec.data.tables, window, storage, "demo/snapshots")
    query = (INCLUDE / play.spec.data.query).read_text(encoding="utf-8")
    dataset = build(frozen, query, {"as_of": window.start}, storage=storage, prefix="demo/march")
    with tempfile.TemporaryDirectory() as folder:
        table = pq.read_table(storage.download(dataset.key, Path(folder) / "march.parquet"))
    rows = table.sort_by(play.spec.data.time).to_pylist()
    return [(row[play.spec.data.id], write_request([row], play.spec.features)) for row in rows]


def better_challenger(play: Play, act: Act) -> str:
    """Train on a later window; gate; canary under traffic; promote."""
    return _train_and_release(play, act, _LATER_AS_OF)


def faulty_version(play: Play, act: Act, version: str) -> str:
    """Release a version that passes its smoke test and breaks under traffic."""
    state, tasks, run_id = play.follow(f"{play.spec.name}.release", conf={"version": version})
    act.details = {"release": run_id, "version": version, "tasks": tasks}
    ends = [e.kind for e in play.model_traffic.ledger.entries(play.spec.name, release_id=_release_id(play, run_id))]
    route = play.model_traffic.agent.route(play.spec.name)
    judged = any(verdict.outcome == Outcome.FAILED for verdict in _verdicts(play, run_id))
    if state == "failed" and judged and ends[-1] == RolledBackRow.KIND and route is not None and route.canary is None:
        return "rolled back"
    return f"the release ended {state}, the ledger's last row is {ends[-1:]}, tasks: {tasks}"


def damaged_month(play: Play, act: Act) -> str:
    """Train on a month with a renamed column, an impossible unit and half of the weather gone."""
    registry = play.model_traffic.registry
    before = [v.version for v in registry.versions(play.spec.name)]
    address = damage(Storage(storage_url()), _DAMAGED_MONTH, DAMAGES)
    sources = {name: f"{address}/{name}" for name in play.spec.data.tables}
    dag_id = f"{play.spec.name}.train"
    state, tasks, run_id = play.follow(dag_id, conf={"as_of": _DAMAGED_AS_OF, "sources": sources})
    report = play.airflow.xcom(dag_id, run_id, "validate", "report")
    act.details = {"run": run_id, "tasks": tasks, "validation": report}
    for line in str((report or {}).get("text", "")).splitlines():
        play.view.text(line)
    trained = (
        tasks.get("train") not in (None, "upstream_failed")
        or [v.version for v in registry.versions(play.spec.name)] != before
    )
    if state == "failed" and tasks["validate"] == "failed" and report and not trained:
        return "stopped by validation"
    return f"the run ended {state}, tasks: {tasks}"


def _train_and_release(play: Play, act: Act, as_of: str) -> str:
    since = datetime.now(UTC)
    state, tasks, run_id = play.follow(f"{play.spec.name}.train", conf={"as_of": as_of})
    act.details = {"train": run_id, "tasks": tasks}
    if state != "success":
        return f"training ended {state}, tasks: {tasks}"
    challenger = play.model_traffic.registry.alias(play.spec.name, CHALLENGER)
    state, tasks, run_id = play.follow(f"{play.spec.name}.release", since=since)
    act.details |= {"release": run_id, "release_tasks": tasks}
    champion = play.model_traffic.registry.alias(play.spec.name, CHAMPION)
    if state == "success" and champion is not None and (challenger is None or challenger.version == champion.version):
        return "promoted"
    return f"the release ended {state}, tasks: {tasks}"


def _release_id(play: Play, run_id: str) -> str:
    mine = [
        e.release_id
        for e in play.model_traffic.ledger.entries(play.spec.name, kind=ReleaseStartedRow.KIND)
        if e.release_id and e.release_id.startswith(f"{play.spec.name}/{run_id}#")
    ]
    if not mine:
        raise ServiceError(f"the ledger has no release of run {run_id}")
    return mine[-1]


def _verdicts(play: Play, run_id: str) -> list[VerdictRow]:
    return play.model_traffic.ledger.rows(VerdictRow, play.spec.name, release_id=_release_id(play, run_id))
