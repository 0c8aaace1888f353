"""`taxiway demo`: five acts on real flights of 2013, and a report of what happened."""

from __future__ import annotations

import argparse
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

    :param rate: requests a second
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
        play.perform("2. March's flights ask, in time order", "flowing", traffic)
        play.perform("3. A challenger of a later window", "promoted", partial(scenes.better_challenger, play))
        versions = play.faulty_versions()
        for fault, title in (("fragile", "4a. A version that raises on some flights"), ("slow", "4b. A slow version")):
            scene = partial(scenes.faulty_version, play, version=versions[fault])
            play.perform(title, "rolled back", scene)
    play.perform("5. A damaged month", "stopped by validation", partial(scenes.damaged_month, play))
    if play.traffic is not None:
        play.traffic.stop()
    return play.report(time.monotonic() - began)


def run(arguments: argparse.Namespace) -> int:
    """Start what is not running, perform, and print the summary; return the exit status."""
    from operators.core.loader import INCLUDE, load_spec
    from operators.core.spec import prediction_spec
    from operators.demo.airflow import Airflow
    from operators.stack import supervisor
    from operators.stack.config import Stack

    # Also where a shell has started us with SIGINT ignored, and for whoever ends us politely.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    status = _Status()
    try:
        with View(status.line) as view:
            env = supervisor.ensure_up(progress=view.event)
            os.environ.update(env)
            stack = Stack.running()
            airflow = Airflow(stack.airflow_url, "admin", stack.secrets.airflow_password)
            spec = prediction_spec(load_spec(INCLUDE / "models" / f"{MODEL}.yaml"))
            play = status.play = Play(spec, airflow, view, os.environ)
            report = perform(play, rate=arguments.rate, edge_url=env["TAXIWAY_EDGE_URL"])
        path = stack.home / "demo" / "report.json"
        play.write(path, report)
        _summary(view, report)
        view.text(f"\n{'Everything went as it should.' if report['ok'] else 'NOT as it should.'} Report: {path}")
        view.text(f"Airflow: {stack.airflow_url} (user and password: taxiway status). Stop everything: make down")
        return 0 if report["ok"] else 1
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C must not leave half of it running
            signal.signal(number, signal.SIG_IGN)
        print("\ninterrupted; stopping everything …", flush=True)
        supervisor.down()
        return 130


class _Status:
    """The living line."""

    def __init__(self) -> None:
        self.play: Play | None = None

    def line(self) -> str:
        """Return who is on stage and what the callers see."""
        if self.play is None:
            return "starting services"
        tally = self.play.tally()
        act = self.play.acts[-1].name if self.play.acts else "setting the stage"
        if not tally.sent:
            return act
        versions = ", ".join(f"v{version} {count}" for version, count in sorted(tally.answered.items()))
        return f"{act} │ {tally.sent} requests: {versions}; {tally.fallbacks} by fallback, {tally.failed} failed"


def _summary(view: View, report: dict[str, Any]) -> None:
    def row(act: dict[str, Any]) -> list[Any]:
        asked = act["requests"]
        versions = " ".join(f"v{v}:{n}" for v, n in asked["answered_by_version"].items())
        weights = " ".join("100" if w["step"] == "promote" else f"{w['weight_bp'] / 100:g}" for w in act["weights"])
        champion = f"{act['champion_before'] or '–'} → {act['champion_after'] or '–'}"
        outcome = act["outcome"] if act["ok"] else f"✗ {act['outcome'][:60]}"
        return [
            act["name"],
            outcome,
            f"{act['seconds']:.0f}",
            weights or "–",
            champion,
            asked["sent"],
            versions,
            asked["failed"],
        ]

    columns = ["act", "outcome", "s", "its %", "champion", "sent", "answered by", "failed"]
    view.table("", columns, [row(act) for act in report["acts"]])
    total = report["requests"]
    view.text(f"{total['sent']} requests, {total['failed']} failed, {total['answered_by_fallback']} rescued by stable.")
