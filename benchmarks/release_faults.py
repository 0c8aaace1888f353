"""What callers notice of a canary that fails, for every way in which it can. Real Ray Serve behind the real edge and agent.

For each fault: callers on stable alone; then a release at half of the traffic, where the canary fails every request and the
release's own trigger decides; then the canary fails a share of its requests and nobody decides. Last, the reference in the
same run: the same fault where half of the requests are sent straight to the canary and nothing falls back.

Callers are an open loop in a process of its own (aiohttp on uvloop), and content only with a right answer. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults.load import Answer, Load
from benchmarks.faults.plane import data_plane
from operators.core.errors import ServiceRefusedError
from operators.core.ledger import Ledger
from operators.core.loader import load_spec
from operators.core.rows import ReleaseStartedRow, RolledBackRow
from operators.core.settings import PROJECT_ROOT, Settings
from operators.core.spec import PredictionSpec
from operators.judge.phases import Phase
from operators.registry.client import Registry
from operators.rollout.model_traffic import ModelTraffic, Move
from operators.rollout.reconcile.policy import ROLL_BACK
from operators.rollout.release_moves import ReleaseMoves
from operators.rollout.steps.live_phase import LivePhase
from operators.rollout.steps.looker import Look
from operators.traffic.limits import limits_from
from ray_jobs.edge import Edge, EdgeConfig

MODEL, STABLE, CANARY, NEVER = "faulty", "1", "2", "3"
_BEFORE_S, _DECIDE_S, _AFTER_S, _REFERENCE_S = 6.0, 30.0, 1.5, 4.0
_READY_WITHIN_S = 90.0


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    :param weight_bp: the canary's share
    :param delay_s: for those that wait
    :param delay_deadlines: the same, in canary time-outs
    :param share: of the canary's requests that fail where nobody decides; a breaker that opens would spare the fallback
    :param goal_s: where nothing that the canary does is right, it must be out within a second of the first failure that
        can be known: for one that hangs, and has no fault but that, after its deadline. None: no such goal
    """

    name: str
    weight_bp: int = 5_000
    delay_s: float = 0.0
    delay_deadlines: float = 0.0
    share: float = 0.3
    goal_s: float | None = 1.0


FAULTS = (
    Fault("raises"),
    # Serve holds the requests of a version whose replica died until there is another one.
    Fault("killed", share=0.05),
    Fault("out_of_memory", share=0.05),
    Fault("hangs", delay_deadlines=1.5, share=0.05),
    Fault("wrong_schema"),
    Fault("not_finite"),
    Fault("slow", weight_bp=500, delay_s=0.06, share=1.0, goal_s=None),
    Fault("stalls", delay_deadlines=0.75, share=1.0, goal_s=None),
    Fault("never_ready", share=1.0),
)


class Proof:
    """Plays the faults, one after another, to one model.

    :param folder: has the models, and the file that tells the canary how to fail
    """

    def __init__(self, spec: PredictionSpec, folder: Path, edge: Edge, *, rate: float, endure_s: float) -> None:
        settings = Settings.load()
        ledger, registry = Ledger(settings.ledger_url), Registry(settings.mlflow_url)
        self._controller = ReleaseMoves(ModelTraffic(spec.name, ledger=ledger, registry=registry))
        self._spec, self._folder, self._edge = spec, folder, edge
        self._rate, self._endure_s = rate, endure_s
        self._serve_url, self._edge_url = settings.serve_url, settings.edge_url
        self._count = 0
        self._deadline_s = 0.0

    # ------------------------------------------------------------------ the canary

    def tell(self, fault: Fault | None, share: float = 1.0) -> None:
        """Say how the canary fails from now on; None: it does not."""
        said = {"fault": fault.name if fault else "", "share": share if fault else 0.0}
        said["delay_s"] = fault.delay_s + fault.delay_deadlines * self._deadline_s if fault else 0.0
        fresh = self._folder / "control.new"
        fresh.write_text(json.dumps(said))
        fresh.replace(self._folder / "control.json")

    def deploy(self, version: str) -> None:
        """Start deploying a version."""
        self._controller.agent.deploy(self._spec, version, f"{self._folder}/models/{version}")

    def back(self, fault: Fault) -> None:
        """Let the canary recover; one that would never do so by itself is deployed anew."""
        self.tell(None)
        if fault.name == "never_ready":
            self.anew(CANARY)
        self.ready(CANARY)

    def ready(self, version: str) -> None:
        """Wait until a version answers, three times in a row."""
        end, answered, agent = time.monotonic() + _READY_WITHIN_S, 0, self._controller.agent
        while answered < 3:
            answered = answered + 1 if agent.app(MODEL, version).status == "RUNNING" else 0
            if time.monotonic() > end:
                raise SystemExit(f"version {version} did not come back: {agent.app(MODEL, version)}")
            time.sleep(0.1)

    def anew(self, version: str) -> None:
        """Delete a version and deploy it again."""
        agent = self._controller.agent
        agent.retire(MODEL, version, drain_s=1)
        while agent.app(MODEL, version).status != "NOT_STARTED":
            time.sleep(0.2)
        self.deploy(version)

    # ------------------------------------------------------------------ a release

    def begin(self) -> str:
        """Hold the model and its route for another release; return its id."""
        self._count += 1
        release_id = f"{MODEL}/proof#{self._count}"
        controller = self._controller
        controller.ledger.claim(MODEL, release_id, ReleaseStartedRow(kind="release", version=CANARY, run="proof"))
        controller.traffic.move(release_id, "begin", controller.traffic.alone(STABLE, release_id), force=True)
        return release_id

    def give(self, release_id: str, fault: Fault) -> tuple[Move, LivePhase]:
        """Give the canary its weight, as the task of a step does."""
        controller = self._controller
        counters = controller.agent.counters(MODEL)
        move = controller.set_route(
            release_id,
            "canary_50_pct",
            self._spec.release,
            stable=STABLE,
            version=CANARY,
            weight_bp=fault.weight_bp,
            limits=limits_from(self._spec.release, counters, STABLE),
        )
        judge = self._spec.release.judge
        phase = Phase(
            kind="canary",
            weights_bp=(fault.weight_bp,),
            bake_s=_DECIDE_S,
            max_wait_s=_DECIDE_S,
            min_requests=judge.min_requests,
            harm_weight=1.0,
        )
        live = LivePhase(
            phase=phase,
            model=MODEL,
            release_id=release_id,
            step="canary_50_pct",
            canary=CANARY,
            stable=STABLE,
            lease_s=self._spec.release.lease_s,
            deadline_s=move.route.canary_timeout_ms / 1000,
            released_at=move.at.timestamp(),
            began_at=move.at.timestamp(),
            before=counters.of(CANARY, STABLE),
        )
        return move, live

    def take(self, release_id: str) -> None:
        """Take the canary out, as the rollback does, and let the model go."""
        controller = self._controller
        controller.traffic.move(release_id, ROLL_BACK, controller.traffic.alone(STABLE, release_id), force=True)
        controller.ledger.finish(MODEL, release_id, RolledBackRow(version=CANARY, stable=STABLE, reason="proof"))

    def decide(self, release_id: str, live: LivePhase) -> dict[str, Any]:
        """Wait for the verdict of the release's own trigger, obey it, and say what it was."""
        event = asyncio.run(_verdict(self._spec, live))
        look = Look.of_event(event)
        self.take(release_id)
        return {"verdict": str(look.outcome), "reason": look.judgement.reason}

    # ------------------------------------------------------------------ one fault

    def play(self, fault: Fault) -> dict[str, Any]:
        """Play one fault and say what callers and canary met."""
        load = Load([f"{self._edge_url}/v2/models/{MODEL}/infer"], **self._loaded(fault.name))
        time.sleep(1.0)  # the callers' own start
        began = time.time()
        time.sleep(_BEFORE_S)
        refused = self._refused() if fault.name == "never_ready" else None
        found = limits_from(self._spec.release, self._controller.agent.counters(MODEL), STABLE)
        self._deadline_s = found.canary_timeout_ms / 1000
        self.tell(fault)
        counted = self._canary_requests()
        given = time.time()
        release_id = self.begin()
        _, live = self.give(release_id, fault)
        with self._watching_the_edge() as seen:
            said = self.decide(release_id, live)
        time.sleep(_AFTER_S)
        decided = time.time()
        got = self._canary_requests() - counted
        self.back(fault)
        self.tell(fault, fault.share)
        counted = self._canary_requests()  # those of a version that was deleted and deployed again begin anew
        release_id = self.begin()
        self.give(release_id, fault)
        time.sleep(self._endure_s)
        self.take(release_id)
        time.sleep(_AFTER_S)
        answers = [answer for answer in load.stop() if answer.sent >= began]
        endured = self._canary_requests() - counted
        in_decision = [a for a in answers if given <= a.sent < decided]
        met = [a.sent for a in in_decision if a.arm in ("canary", "fallback")]
        first = min(met, default=given)
        failed = [a for a in answers if a.problem]
        result = {
            "requests": len(answers),
            "deadline_s": live.deadline_s,
            "failed": len(failed),
            "failures": Counter(a.problem for a in failed).most_common(5),
            "decided": {
                "verdict": said["verdict"],
                "reason": said["reason"],
                "canary_requests": got,
                "breaker_s": round(seen["breaker"] - first, 3) if "breaker" in seen else None,
                "weight_zero_s": round(seen["zero"] - first, 3),
                "last_request_of_the_canary_s": round(max(met, default=first) - first, 3),
                "goal_s": fault.goal_s,
            },
            "endured": {"seconds": self._endure_s, "share": fault.share, "canary_requests": endured},
            "stable_ms": {
                "before": _latency(a for a in answers if a.sent < given - 0.1 and a.arm == "stable"),
                "during": _latency(a for a in answers if a.sent >= given and a.arm == "stable"),
            },
            "fallback_ms": _latency(a for a in answers if a.arm == "fallback"),
            "arms": Counter(a.arm for a in answers),
            "without_fallback": self._reference(fault),
        }
        if refused is not None:
            result["refused_before_it_ran"] = refused
        self.back(fault)
        return result

    def _loaded(self, name: str, rate: float | None = None) -> dict[str, Any]:
        return {"rate": rate or self._rate, "spec": self._spec, "folder": self._folder, "name": name}

    def _refused(self) -> str:
        """Ask for traffic for a version that never becomes ready; return the refusal."""
        self.deploy(NEVER)
        time.sleep(3)
        release_id = self.begin()
        try:
            self._controller.set_route(
                release_id, "canary_50_pct", self._spec.release, stable=STABLE, version=NEVER, weight_bp=5_000
            )
        except ServiceRefusedError as error:
            return str(error)
        finally:
            self.take(release_id)
            self._controller.agent.retire(MODEL, NEVER, drain_s=0)
        raise SystemExit("a version that does not run was given traffic")

    def _canary_requests(self) -> int:
        rows = self._controller.agent.counters(MODEL).rows
        return sum(row.requests for row in rows if (row.version, row.arm) == (CANARY, "canary"))

    def _reference(self, fault: Fault) -> dict[str, Any]:
        """Send half of the requests straight to the canary, as a split without a fallback does."""
        self.back(fault)
        self.tell(fault)
        urls = [f"{self._serve_url}/{MODEL}/{version}/v2/models/{MODEL}/infer" for version in (STABLE, CANARY)]
        load = Load(urls, **self._loaded(f"{fault.name}-reference", 100), timeout_s=2 * self._deadline_s)
        time.sleep(_REFERENCE_S)
        answers = load.stop()
        failed = sum(bool(a.problem) or a.seconds > self._deadline_s for a in answers)
        return {"requests": len(answers), "failed": failed, "failed_pct": round(100 * failed / max(1, len(answers)), 1)}

    @contextmanager
    def _watching_the_edge(self) -> Iterator[dict[str, float]]:
        """Note when HAProxy's breaker opens first, and when its route no longer has a weight."""
        seen: dict[str, float] = {}
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.01):
                if "breaker" not in seen and self._edge.breaker(MODEL) == "open":
                    seen["breaker"] = time.time()
                if "zero" not in seen and not self._edge.routes()[MODEL].weight_bp:
                    seen["zero"] = time.time()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            time.sleep(0.05)
            over.set()
            thread.join()


async def _verdict(spec: PredictionSpec, live: LivePhase) -> dict[str, Any]:
    from operators.rollout.steps.triggers import JudgeTrigger

    trigger = JudgeTrigger(spec=spec.to_json(), watched=live.model_dump(mode="json"))
    async for event in trigger.run():
        return dict(event.payload)
    raise SystemExit("the trigger ended without a verdict")


def _latency(answers: Iterator[Answer]) -> dict[str, float]:
    found = sorted(1000 * answer.seconds for answer in answers)
    if len(found) < 100:
        return {"requests": len(found)}
    cuts = statistics.quantiles(found, n=100)
    return {"requests": len(found), "p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "max": round(found[-1], 1)}


def make_models(folder: Path, deadline_s: float | None) -> PredictionSpec:
    """Write the spec and the three versions; in a process of its own, because MLflow takes seconds to import."""
    include = folder / "include"
    subprocess.run(["cp", "-r", f"{PROJECT_ROOT}/include", str(include)], check=True)
    document = yaml.safe_load((include / "models" / "flight_delay.yaml").read_text())
    if deadline_s is not None:
        document["release"]["canary_timeout"] = f"{deadline_s}s"
    path = include / "models" / f"{MODEL}.yaml"
    path.write_text(yaml.safe_dump({**document, "name": MODEL}))
    subprocess.run([sys.executable, "-m", "benchmarks.faults.save_models", str(path), str(folder)], check=True)
    return load_spec(path)


def main(
    folder: Path,
    chosen: Sequence[Fault],
    *,
    deadline_s: float | None,
    rate: float,
    endure_s: float,
    say: Callable[[str], None],
) -> Any:
    """Start the data plane and play the faults."""
    import operators.rollout.steps.triggers  # noqa: F401 - as the triggerer has: Airflow takes a second to import

    spec = make_models(folder, deadline_s)
    with data_plane(folder) as stack:
        bind = f"127.0.0.1:{stack.ports['edge']}"
        edge = Edge(EdgeConfig(bind, f"127.0.0.1:{stack.ports['serve']}", stack.home / "edge"))
        proof = Proof(spec, folder, edge, rate=rate, endure_s=endure_s)
        proof.tell(None)
        for version in (STABLE, CANARY):
            proof.deploy(version)
        for version in (STABLE, CANARY):
            proof.ready(version)
        release_id = proof.begin()
        proof.take(release_id)  # stable has everything
        played = {}
        for fault in chosen:
            played[fault.name] = proof.play(fault)
            say(f"{fault.name}: {json.dumps(played[fault.name])}")
    out_s = {fault.name: played[fault.name]["decided"]["weight_zero_s"] for fault in chosen}
    late = {fault.name: out_s[fault.name] for fault in chosen if fault.goal_s and out_s[fault.name] > fault.goal_s}
    return {
        "load_generator": "aiohttp on uvloop, open loop, a process of its own",
        "rate_per_s": rate,
        "cores": os.cpu_count(),
        "requests": sum(one["requests"] for one in played.values()),
        "failed": sum(one["failed"] for one in played.values()),
        "failed_without_fallback_pct": {name: one["without_fallback"]["failed_pct"] for name, one in played.items()},
        "weight_zero_s": out_s,
        "later_than_the_goal_s": late,
        "goals": {"requests": 100_000, "failed": 0, "weight_zero_s": {fault.name: fault.goal_s for fault in chosen}},
        "faults": played,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[fault.name for fault in FAULTS])
    parser.add_argument("--deadline", type=float, help="canary_timeout of the spec, in seconds; default: the spec's")
    parser.add_argument("--rate", type=float, default=400.0, help="requests a second")
    parser.add_argument("--endure", type=float, default=20.0, help="seconds in which nobody decides")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # either ends the services, too
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="tw-faults-") as name, suppress(KeyboardInterrupt):
        found = main(
            Path(name),
            [fault for fault in FAULTS if not given.only or fault.name in given.only],
            deadline_s=given.deadline,
            rate=given.rate,
            endure_s=given.endure,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        print(json.dumps(found, indent=2))
