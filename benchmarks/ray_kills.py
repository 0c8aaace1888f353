"""Kill a Ray task's process with SIGKILL, at every point and at random times, again and again, and count the jobs that ran.

Each trial is one task: some tries that are killed, then one that is left alone. It is good if the job's command ran exactly
once and the last try returned its result. Prints JSON. Run as ``python -m benchmarks.ray_kills [random trials]``.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from operators.compute.cluster import local
from tests.support.killed_task import POINTS

SEED = 20260101
AT_ONCE = 2


def main(trials: int) -> dict[str, Any]:
    folder = local.folder_for("bench-kills")
    dice = random.Random(SEED)
    plans: list[tuple[str, list[str | float]]] = [(mode, [point]) for mode in ("0", "1") for point in POINTS]
    plans += [(dice.choice("01"), [dice.uniform(0.5, 8) for _ in range(dice.randint(1, 3))]) for _ in range(trials)]
    try:
        cluster = local.start(folder, num_cpus=4)
        env = {**os.environ, "TAXIWAY_RAY_URL": cluster.address, "RAY_AUTH_TOKEN_PATH": cluster.token_path}
        with tempfile.TemporaryDirectory() as where, ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(lambda plan: trial(Path(tempfile.mkdtemp(dir=where)), env, *plan), plans))
    finally:
        local.stop(folder)
    return {
        "trials": len(found),
        "kills": sum(kills for kills, *_ in found),
        "ran_once": sum(ran == 1 for _, ran, _ in found),
        "ran_more_than_once": sum(ran > 1 for _, ran, _ in found),
        "never_ran": sum(ran == 0 for _, ran, _ in found),
        "result_returned": sum(returned for *_, returned in found),
    }


def trial(place: Path, env: dict[str, str], mode: str, kills: list[str | float]) -> tuple[int, int, bool]:
    """Return how many tries were killed, how often the job ran, and whether the last try returned its result."""
    command = [sys.executable, "-m", "tests.support.killed_task", str(place / "state"), str(place / "ran"), mode]
    killed = 0
    for kill in kills:
        at = kill if isinstance(kill, str) else ""
        process = subprocess.Popen([*command, at, "4"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not at:
            time.sleep(float(kill))
            process.kill()
        killed += process.wait(timeout=120) == -9
    last = subprocess.run([*command, "", "4"], env=env, capture_output=True, text=True, timeout=120, check=False)
    ran = (place / "ran").read_text().count("job\n") if (place / "ran").exists() else 0
    return killed, ran, "\nresult 42\n" in f"\n{last.stdout}"


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40), indent=1))
