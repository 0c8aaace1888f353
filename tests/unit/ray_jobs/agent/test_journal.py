"""The journal and the state: on disk, in order, bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from operators.core.errors import ConfigurationError
from operators.core.traffic import RouteBody
from ray_jobs.agent.journal import Journal
from ray_jobs.agent.state import HeldRoute, Store


def seqs(journal: Journal, after: int = 0, limit: int = 1000) -> list[int]:
    return [entry["seq"] for entry in journal.after(after, limit)]


def test_entries_are_numbered_also_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, clock=lambda: 7.0)
    assert journal.append("lease_expired", model="m", id="x", weight_bp=5) == 1
    journal = Journal(tmp_path, clock=lambda: 8.0)
    assert journal.append("edge_restarted", at=3.0) == 2
    assert journal.after(0) == [
        {"seq": 1, "at": 7.0, "kind": "lease_expired", "model": "m", "id": "x", "weight_bp": 5},
        {"seq": 2, "at": 3.0, "kind": "edge_restarted", "model": None},
    ]
    assert (seqs(journal, 1), seqs(journal, 2), seqs(journal, 9), seqs(journal, 0, 1)) == ([2], [], [], [1])
    assert journal.has("x")
    assert not journal.has("y")


def test_half_a_line_that_a_kill_has_left_is_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("a")
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"seq": 2, "at": 1.0, "ki')
    journal = Journal(tmp_path)
    assert seqs(journal) == [1]
    assert journal.append("b") == 2
    assert seqs(Journal(tmp_path)) == [1, 2]


def test_it_is_bounded_and_the_numbers_go_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path, file_bytes=1_000)
    for number in range(200):
        assert journal.append("breaker_opened", model="m") == number + 1
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2_500
    found = seqs(journal)
    assert found == list(range(found[0], 201))
    assert len(found) >= 10
    assert Journal(tmp_path, file_bytes=1_000).append("x") == 201


def test_the_state_is_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "agent" / "state.json"

    async def run() -> None:
        store = Store(path)
        store.state.held["m"] = HeldRoute(route=RouteBody(stable="1"), before="0")
        store.state.generation = 4
        await store.save()
        assert Store(path).state == store.state

    asyncio.run(run())
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="Move it away"):
        Store(path)
