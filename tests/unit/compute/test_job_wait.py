from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from operators.compute import job_wait
from operators.compute.address import RayAddress
from operators.compute.client import RayJobs
from operators.compute.client_pool import SharedRayJobs, shared
from operators.compute.job_wait import Ending, Watch
from operators.compute.logs import LogCopy
from tests.support.ray_dashboard import Dashboard


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    server = Dashboard()
    yield server
    server.close()


def watched(
    jobs: SharedRayJobs, job_id: str, said: list[str], *, offset: int = 0, follow: bool = True, **more: Any
) -> Watch:
    given = {"deadline": None, "poll_s": 0.01, "unreachable_s": 5.0, "follow": follow, "say": said.append, **more}
    return Watch(jobs, job_id, copy=LogCopy(offset=offset), **given)


def wait(dashboard: Dashboard, *waits: tuple[str, list[str], dict[str, Any]]) -> list[Ending]:
    async def all_of_them() -> list[Ending]:
        async with shared(RayAddress(dashboard.url)) as jobs:
            runs = [watched(jobs, job_id, said, **more).run() for job_id, said, more in waits]
            return await asyncio.wait_for(asyncio.gather(*runs), 30)

    return asyncio.run(all_of_them())


def test_of_a_very_large_log_the_end_follows(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_wait, "_MOST_CAUGHT_UP_BYTES", 500_000)
    RayJobs(RayAddress(dashboard.url)).submit("large", "x")
    dashboard.logs["large"] = b"".join(b"line %d\n" % n for n in range(100_000)) + b'::taxiway:: {"result": 7}\n'
    dashboard.end("large")
    said: list[str] = []
    (ending,) = wait(dashboard, ("large", said, {"follow": False}))
    assert (ending.status, ending.result) == ("SUCCEEDED", 7)
    assert ending.last_lines[-1] == "line 99999"
    assert said[0] == "line 0"
    assert said[-1] == "line 99999"
    assert any("the log is long" in line for line in said)
    assert len(said) < 3_000


def test_what_a_trigger_keeps_of_long_lines_is_small(dashboard: Dashboard) -> None:
    RayJobs(RayAddress(dashboard.url)).submit("wide", "x")
    dashboard.logs["wide"] = (b"x" * 100_000 + b"\n") * 50
    dashboard.end("wide", "FAILED")
    (ending,) = wait(dashboard, ("wide", [], {"follow": False}))
    assert len(ending.model_dump_json()) < 15_000


def test_logs_are_followed_in_turns(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_wait, "FOLLOWED_AT_ONCE", 1)
    monkeypatch.setattr(job_wait, "_TURN_S", 0.05)
    jobs = RayJobs(RayAddress(dashboard.url))
    said: dict[str, list[str]] = {f"job-{n}": [] for n in range(3)}
    for job_id in said:
        jobs.submit(job_id, "x")

    class Growing(list[str]):
        """Let every job write one more line whenever a line of one was copied, and end once all were seen."""

        def __init__(self, lines: list[str]) -> None:
            super().__init__()
            self.lines = lines

        def append(self, line: str) -> None:
            self.lines.append(line)
            if all(said.values()):
                for job_id in said:
                    dashboard.end(job_id)
            for job_id in said:
                dashboard.logs[job_id] += b"more\n"

    for job_id in said:
        dashboard.logs[job_id] = b"first\n"
    endings = wait(dashboard, *((job_id, Growing(lines), {}) for job_id, lines in said.items()))
    assert [ending.status for ending in endings] == ["SUCCEEDED"] * 3
    assert all(lines.count("first") == 1 for lines in said.values())


def test_the_place_in_the_log_is_given_away_and_taken_up(dashboard: Dashboard) -> None:
    RayJobs(RayAddress(dashboard.url)).submit("job", "x")
    dashboard.logs["job"] = b"one\ntwo\n"
    places: list[int] = []

    async def save(offset: int) -> None:
        places.append(offset)
        dashboard.end("job")

    said: list[str] = []
    wait(dashboard, ("job", said, {"save": save}))
    assert (said, places[-1]) == (["one", "two"], 8)
    dashboard.logs["job"] += b"three\n"
    again: list[str] = []
    wait(dashboard, ("job", again, {"offset": places[-1]}))
    assert again == ["three"]
