"""`taxiway demo`: five acts on real flights of 2013, and a report of what happened."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from functools import partial
from typing import Any

from operators.demo.acts import Play
from operators.demo.view import View

MODEL = "flight_delay"


def perform(play: Play, *, rate: float, edge_url: str) -> dict[str, Any]:
    """Perform the acts and return the report.

    :param rate: requests per second
    """
    from operators.demo import scenes

    began = time.monotonic()
    for dag_id in (f"{play.spec.name}.train", f"{play.spec.name}.release", "retire", "rollback"):
        play.airflow.wait_for_dag(dag_id)
    scenes.set_the_stage(play)
    play.perform(
        "1. January and February: the first champion", "released to 100 %", partial(scenes.first_champion, play)
    )
    if play.acts[-1].ok:
        traffic = partial(scenes.traffic_begins, play, rate=rate, edge_url=edge_url)
        play.perform("2. Requests about the flights of March", "flowing", traffic)
        play.perform("3. A challenger from newer data", "promoted", partial(scenes.better_challenger, play))
        versions = play.faulty_versions()
        for fault, title in (
            ("fragile", "4a. A version that raises on some flights"),
            ("slow", "4b. A version that is slow"),
        ):
            scene = partial(scenes.faulty_version, play, version=versions[fault])
            play.perform(title, "rolled back", scene)
    play.perform("5. A month of damaged data", "stopped by validation", partial(scenes.damaged_month, play))
    if play.traffic is not None:
        play.traffic.stop()
    return play.report(time.monotonic() - began)


def run(arguments: argparse.Namespace) -> int:
    """Start the services, perform the acts, and print the summary; return the exit status."""
    from operators.core.loader import INCLUDE, load_spec
    from operators.core.spec import prediction_spec
    from operators.demo.airflow import Airflow
    from operators.stack import supervisor
    from operators.stack.config import Stack
    from ray_jobs.edge.files import write

    # A shell may have started this with SIGINT ignored; and SIGTERM shall stop the services, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    play: Play | None = None
    try:
        with View(lambda: _status(play)) as view:
            env = supervisor.ensure_up(progress=view.event)
            os.environ.update(env)
            stack = Stack.running()
            airflow = Airflow(stack.airflow_url, "admin", stack.secrets.airflow_password)
            spec = prediction_spec(load_spec(INCLUDE / "models" / f"{MODEL}.yaml"))
            play = Play(spec, airflow, view, os.environ)
            report = perform(play, rate=arguments.rate, edge_url=env["TAXIWAY_EDGE_URL"])
        path = stack.home / "demo" / "report.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(report, indent=2, ensure_ascii=False))
        _summary(view, report)
        view.text(f"\n{'Every act ended as expected.' if report['ok'] else 'NOT as expected.'} Report: {path}")
        view.text(f"Airflow: {stack.airflow_url} (user and password: taxiway status). Stop everything: make down")
        return 0 if report["ok"] else 1
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not leave some services running
            signal.signal(number, signal.SIG_IGN)
        print("\ninterrupted; stopping all services …", flush=True)
        supervisor.down()
        return 130


def _status(play: Play | None) -> str:
    """Return the act that is going on, and what the callers got so far."""
    if play is None:
        return "starting services"
    tally = play.tally()
    act = play.acts[-1].name if play.acts else "preparing the demo"
    if not tally.sent:
        return act
    versions = ", ".join(f"v{version} {count}" for version, count in sorted(tally.answered.items()))
    return f"{act} │ {tally.sent} requests: {versions}; {tally.fallbacks} by fallback, {tally.failed} failed"


def _summary(view: View, report: dict[str, Any]) -> None:
    def row(act: dict[str, Any]) -> list[Any]:
        requests = act["requests"]
        versions = " ".join(f"v{v}:{n}" for v, n in requests["answered_by_version"].items())
        weights = " ".join("100" if w["step"] == "promote" else f"{w['weight_bp'] / 100:g}" for w in act["weights"])
        champion = f"{act['champion_before'] or '–'} → {act['champion_after'] or '–'}"
        outcome = act["outcome"] if act["ok"] else f"✗ {act['outcome'][:60]}"
        return [
            act["name"],
            outcome,
            f"{act['seconds']:.0f}",
            weights or "–",
            champion,
            requests["sent"],
            versions,
            requests["failed"],
        ]

    columns = ["act", "outcome", "s", "canary %", "champion", "sent", "answered by", "failed"]
    view.table("", columns, [row(act) for act in report["acts"]])
    total = report["requests"]
    view.text(
        f"{total['sent']} requests, {total['failed']} failed. "
        f"Stable answered {total['answered_by_fallback']} of them after the canary had failed."
    )
