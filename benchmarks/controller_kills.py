"""Does a release end, whoever is killed? SIGKILL at random moments of releases under load, on a whole stack of its own.

Two models are released again and again, a good version after another and now and then one that must be rolled back, while
scheduler, triggerer, task processes, the edge's agent and keeper, its HAProxy and Serve's controller are killed in turns.
After each release the DAG `reconcile` runs; then ledger, traffic and alias must name one version, and nothing may be open.
Callers ask all the time (aiohttp, open loop, a process of its own). Failures while HAProxy itself is dead are counted apart:
nobody can answer then. Prints a line for each kill on standard error, and JSON at the end. A run that breaks off goes on
with the same ``--home``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults.load import Answer, Load
from benchmarks.faults.plane import load_free
from benchmarks.faults.victims import VICTIMS, Kill, Killer
from operators.audit.verify import verify
from operators.core.errors import TaxiwayError
from operators.core.loader import load_spec
from operators.core.settings import PROJECT_ROOT, Settings
from operators.core.spec import PredictionSpec
from operators.demo.airflow import Airflow
from operators.registry.client import CHAMPION
from operators.rollout.model_traffic import ModelTraffic
from operators.rollout.reconcile.client import recorded
from operators.rollout.release_moves import ReleaseMoves
from operators.stack import supervisor
from operators.stack.config import Stack

_RELEASE_WITHIN_S = 600.0
_SETTLE_WITHIN_S = 180.0
_FRAGILE_EVERY = 4
_OVER = {"success", "failed", "skipped", "upstream_failed", "removed", None}


@dataclass
class Outcome:
    """How one release ended.

    :param ended: the last row that the ledger has of it
    :param wrong: what contradicts; empty: ledger, traffic and alias agree, and the release is over
    :param to_zero_s: fragile versions: from the first step's weight to none
    """

    model: str
    kind: str
    version: str
    began: float
    over: float = 0.0
    settled: float = 0.0
    state: str = ""
    ended: str = ""
    reconciled: list[str] = field(default_factory=list)
    wrong: str = ""
    to_zero_s: float | None = None
    is_over: bool = False


_Row = tuple[Kill, dict[str, str], list[Outcome]]
"""A kill, the tasks that were at work, and the releases that were under way."""


class Releases:
    """Releases one model again and again, in a thread.

    :param logged: of `log_models`: where the good and the fragile model are
    """

    def __init__(self, spec: PredictionSpec, logged: dict[str, str], stack: Stack) -> None:
        self.spec = spec
        self._logged = logged
        self._airflow = Airflow(stack.airflow_url, "admin", stack.secrets.airflow_password)
        self._controller = ReleaseMoves(ModelTraffic(spec.name, Settings.load()))
        self.outcomes: list[Outcome] = []
        self.now: tuple[Outcome, str] | None = None  # the release under way, and its run
        self.problem = ""

    def release(self, kind: str) -> Outcome:
        """Release a fresh version, and wait until all agrees again."""
        key = uuid.uuid4().hex
        tags = {"taxiway.smoke_key": self._logged["smoke_key"]}
        version = self._controller.registry.register(self.spec.name, self._logged[kind], "", key=key, tags=tags).version
        dag_id = f"{self.spec.name}.release"
        done = Outcome(self.spec.name, kind, version, time.time())
        run_id = self._airflow.trigger(dag_id, {"version": version})
        self.now = (done, run_id)
        done.state, _ = self._airflow.follow(dag_id, run_id, timeout_s=_RELEASE_WITHIN_S, on_change=_nobody_hears)
        done.over = time.time()
        self.now = None
        self._settle(done, run_id)
        self.outcomes.append(done)
        return done

    def _settle(self, done: Outcome, run_id: str) -> None:
        end = time.time() + _SETTLE_WITHIN_S
        while True:
            done.reconciled += self._reconcile()
            done.wrong = self._wrong(done, run_id)
            done.settled = time.time()
            if not done.wrong or time.time() > end:
                done.is_over = True
                return
            time.sleep(1)

    def _reconcile(self) -> list[str]:
        run_id = self._airflow.trigger("reconcile", {"model": self.spec.name})
        self._airflow.follow("reconcile", run_id, timeout_s=_SETTLE_WITHIN_S, on_change=_nobody_hears)
        found = self._airflow.xcom("reconcile", run_id, "reconcile") or {}
        return list(found.get(self.spec.name, []))

    def _wrong(self, done: Outcome, run_id: str) -> str:
        """Return the first thing that contradicts another."""
        controller, model = self._controller, self.spec.name
        rows = controller.ledger.entries(model)
        mine = [row for row in rows if row.release_id and row.release_id.startswith(f"{model}/{run_id}#")]
        ends = [row.kind for row in mine if row.kind in ("promoted", "rolled_back", "abandoned", "reconciled")]
        done.ended = ends[-1] if ends else ("no end" if mine else "not begun")
        weights = [row for row in mine if row.kind == "weight_set"]
        first = next((row.at for row in weights if row.payload["weight_bp"]), None)
        back = next((row.at for row in weights if first and row.at > first and not row.payload["weight_bp"]), None)
        if done.kind == "fragile" and first and back:
            done.to_zero_s = round((back - first).total_seconds(), 3)
        route = controller.agent.route(model)
        alias = controller.registry.alias(model, CHAMPION)
        named = {
            "ledger": recorded(rows),
            "traffic": route.stable if route else None,
            "alias": alias.version if alias else None,
        }
        promoted = named["traffic"] == done.version
        checks = {
            f"the release still holds the model: {controller.ledger.holder(model)}": controller.ledger.holder(model),
            f"{named}": len(set(named.values())) != 1,
            f"a canary or shadow is left: {route}": route is None or route.canary or route.shadow,
            f"the release ended {done.ended}, and the traffic has {named['traffic']}": promoted
            != (done.ended == "promoted"),
            # Who cannot reach the agent when it would begin has moved nothing.
            f"the release has {done.ended}": done.ended not in ("promoted", "rolled_back", "not begun"),
            "a fragile version was promoted": promoted and done.kind == "fragile",
            "the ledger's chain is broken": controller.ledger.broken_links(model),
        }
        return next((text for text, is_wrong in checks.items() if is_wrong), "")

    def under_way(self) -> str:
        """Return the tasks that are at work now; empty between two releases."""
        now = self.now
        if now is None:
            return ""
        tasks = self._airflow.tasks(f"{self.spec.name}.release", now[1])
        active = sorted(f"{name} {state}" for name, state in tasks.items() if state not in _OVER)
        return ", ".join(active) or "between two tasks"

    def run(self, stopping: threading.Event) -> None:
        """Release until told to stop; the release under way is finished."""
        count = random.randrange(_FRAGILE_EVERY)
        while not stopping.is_set():
            count += 1
            try:
                self.release("fragile" if count % _FRAGILE_EVERY == 0 else "good")
            except (TaxiwayError, OSError) as error:
                self.problem = f"{self.spec.name}: {type(error).__name__}: {error}"
                say(self.problem)
                return

    def verified(self) -> dict[str, Any]:
        """Make all verdicts again."""
        report = verify(self._controller.ledger, self.spec.name)
        wrong = [remark.text for remark in report.remarks if remark.wrong]
        return {"rows": report.rows, "verdicts": report.verdicts, "wrong": wrong}


def _nobody_hears(task: str, state: str) -> None:
    """Follow a run in silence."""


def say(text: str) -> None:
    """Print a line on standard error: standard output is the JSON's."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def write_specs(include: Path, names: list[str]) -> list[Path]:
    """Write small specs: three quick steps, and limits that a busy machine does not reach."""
    models = include / "models"
    document = yaml.safe_load((models / "flight_delay.yaml").read_text())
    (models / "flight_delay.yaml").unlink()
    document["retraining"] = {}
    document["release"] |= {
        "steps": [{"weight_pct": w, "bake": "3s"} for w in (10, 30, 50)],
        "keep_warm": "1s",
    }
    document["release"]["judge"] |= {
        "min_requests": 15,
        "max_wait": "2m",
        "failures": {"margin_pct": 5},
        "slow": {"margin_pct": 20, "quantile": 0.95, "ratio": 2.0, "increase": "500ms"},
    }
    paths = []
    for name in names:
        paths.append(models / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump({**document, "name": name}))
    return paths


@contextmanager
def stack_in(home: Path, models: list[str]) -> Iterator[tuple[Stack, list[Path]]]:
    """Run a whole stack in a folder; one that runs there already is used."""
    include = home / "include"
    if not include.exists():
        include.mkdir(parents=True)
        subprocess.run(["cp", "-r", f"{PROJECT_ROOT}/include/.", str(include)], check=True)
        write_specs(include, models)
    os.environ.update(TAXIWAY_HOME=str(home / "stack"), TAXIWAY_INCLUDE=str(include))
    os.environ.pop("AIRFLOW_HOME", None)
    running = (home / "stack" / "run" / "stack.json").exists()
    stack = Stack.running() if running else load_free()
    try:
        os.environ.update(supervisor.ensure_up(stack, progress=say))
        yield stack, [include / "models" / f"{name}.yaml" for name in models]
    finally:
        supervisor.down(stack)


def kills_of(killer: Killer, releases: list[Releases], *, kills: int, pause_s: tuple[float, float]) -> Iterator[_Row]:
    """Kill one component after another while something is being released; yield each, and which releases it met."""
    deck: list[str] = []
    done = 0
    while done < kills and not any(one.problem for one in releases):
        time.sleep(random.uniform(*pause_s))
        if not deck:
            deck = random.sample(VICTIMS, len(VICTIMS))
        met = [one.now[0] for one in releases if one.now]
        steps = {one.spec.name: step for one in releases if (step := one.under_way())}
        if not met or not steps:
            continue
        found = killer.kill(deck[-1])
        if found is None:
            continue
        deck.pop()
        done += 1
        yield found, steps, met


def main(*, kills: int, home: Path, models: int, rate: float) -> dict[str, Any]:
    """Start, kill, and add up."""
    names = [f"killed_{letter}" for letter in "abcd"[:models]]
    known = home / "kills.jsonl"
    with stack_in(home, names) as (stack, paths):
        command = [sys.executable, "-m", "benchmarks.faults.log_models", *map(str, paths)]
        logged = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        releases = [Releases(load_spec(path), logged[path.stem], stack) for path in paths]
        airflow = Airflow(stack.airflow_url, "admin", stack.secrets.airflow_password)
        for dag_id in (*(f"{name}.release" for name in names), "retire", "reconcile"):
            airflow.wait_for_dag(dag_id)
        for one in releases:
            first = one.release("good")
            say(
                f"{first.model}: version {first.version} {first.ended} in {first.over - first.began:.0f} s {first.wrong}"
            )
            one.outcomes.clear()
        targets = [f"{stack.url('edge')}/v2/models/{name}/infer" for name in names]
        load = Load(targets, rate=rate * models, spec=releases[0].spec, folder=home, name=f"load-{time.time_ns()}")
        stopping = threading.Event()
        threads = [threading.Thread(target=one.run, args=(stopping,), daemon=True) for one in releases]
        for thread in threads:
            thread.start()
        dead: list[Kill] = []
        waiting: list[_Row] = []
        had = len(known.read_text().splitlines()) if known.exists() else 0
        try:
            for row in kills_of(Killer(stack), releases, kills=kills - had, pause_s=(8.0, 30.0)):
                dead += [row[0]] if row[0].victim == "haproxy" else []
                had += 1
                say(f"{had} of {kills}: {row[0].victim} at {row[1]}, back after {row[0].back_s} s")
                waiting = _keep([*waiting, row], known)
        finally:
            stopping.set()
            for thread in threads:
                thread.join(_RELEASE_WITHIN_S + _SETTLE_WITHIN_S)
            answers = load.stop()
            _keep(waiting, known, all_of_them=True)
        lines = [json.loads(line) for line in known.read_text().splitlines()]
        return {
            **_sums(lines),
            "callers": _callers(answers, dead),
            "releases": [asdict(outcome) for one in releases for outcome in one.outcomes],
            "problems": [one.problem for one in releases if one.problem],
            "verify": {one.spec.name: one.verified() for one in releases},
            "cores": os.cpu_count(),
        }


def _keep(rows: list[_Row], path: Path, *, all_of_them: bool = False) -> list[_Row]:
    """Write down the kills whose releases are all over; return the others."""
    over = [row for row in rows if all_of_them or all(one.is_over for one in row[2])]
    with path.open("a") as file:
        for row in over:
            line = json.dumps(_line(*row))
            say(line)
            file.write(line + "\n")
    return [row for row in rows if row not in over]


def _line(kill: Kill, steps: dict[str, str], met: list[Outcome]) -> dict[str, Any]:
    return {
        "victim": kill.victim,
        "steps": steps,
        "back_s": kill.back_s,
        "outcomes": {one.model: one.ended or "no end" for one in met},
        "wrong": [one.wrong or "it did not end" for one in met if one.wrong or not one.is_over],
        "settled_s": round(max(one.settled or time.time() for one in met) - kill.at, 1),
    }


def _sums(lines: list[dict[str, Any]]) -> dict[str, Any]:
    by_victim = {}
    for victim in VICTIMS:
        mine = [line for line in lines if line["victim"] == victim]
        back = [line["back_s"] for line in mine if line["back_s"] is not None]
        settled = [line["settled_s"] for line in mine]
        if mine:
            by_victim[victim] = {
                "kills": len(mine),
                "back_s": {"median": statistics.median(back), "max": max(back)} if back else None,
                "settled_s": {"median": statistics.median(settled), "max": max(settled)},
                "outcomes": Counter(end for line in mine for end in line["outcomes"].values()),
                "wrong": sum(bool(line["wrong"]) for line in mine),
            }
    agreed = sum(not line["wrong"] for line in lines)
    return {"kills": len(lines), "ended_and_agreed": agreed, "goal": "all", "by_victim": by_victim}


def _callers(answers: list[Answer], dead: list[Kill]) -> dict[str, Any]:
    """Count failures, and apart from them those of requests that met a dead HAProxy."""
    failed = [answer for answer in answers if answer.problem]
    gaps = [(kill.at - 0.01, kill.at + (kill.back_s or 0) + 0.05) for kill in dead]
    met = [a for a in failed if any(a.sent <= end and a.ended >= begin for begin, end in gaps)]
    others = [answer for answer in failed if answer not in met]
    return {
        "load_generator": "aiohttp on uvloop, open loop",
        "requests": len(answers),
        "failed_while_haproxy_was_dead": len(met),
        "failed_otherwise": len(others),
        "failures": Counter(answer.problem for answer in others).most_common(10),
        "failed_at": [round(answer.ended, 2) for answer in others[:20]],
        "by_arm": Counter(answer.arm for answer in answers),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second for each model")
    parser.add_argument("--home", type=Path, help="folder of the stack; default: a new one")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # either ends the stack, too
        signal.signal(number, signal.default_int_handler)
    folder = given.home or Path(tempfile.mkdtemp(prefix="tw-kills-"))
    found = main(kills=given.kills, home=folder.resolve(), models=given.models, rate=given.rate)
    print(json.dumps(found, indent=2))
