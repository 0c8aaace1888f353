from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from operators.core.errors import BusyError, RejectedError, ServiceError
from operators.core.ledger import Ledger
from operators.core.rows import EdgeRow, GateRow, PromotedRow, ReleaseStartedRow, Row, WeightSetRow

EDGE = EdgeRow(at=1.0, kind="edge_joined")


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    found = Ledger(ledger_url)
    yield found
    found.close()


def test_an_entry_is_written_once(ledger: Ledger) -> None:
    first = ledger.append("a", GateRow(passed=True), key="a/1")
    assert ledger.append("a", GateRow(passed=False), key="a/1") == first
    assert [e.payload for e in ledger.entries("a")] == [{"passed": True}]


def test_chain_shows_a_changed_and_a_deleted_row(ledger: Ledger, ledger_url: str) -> None:
    for i in range(5):
        ledger.append("b", GateRow.model_validate({"n": i}), key=f"b/{i}")
    assert ledger.broken_links("b") == []
    engine = sa.create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(sa.text("update ledger set payload = '{\"n\": 9}' where key = 'b/1'"))
    assert ledger.broken_links("b") == [2]
    with engine.begin() as connection:
        connection.execute(sa.text("delete from ledger where key = 'b/3'"))
    assert ledger.broken_links("b") == [2, 5]
    engine.dispose()


def test_newest_claim_fences_off_the_older(ledger: Ledger) -> None:
    ledger.claim("c", "c/1", ReleaseStartedRow())
    ledger.claim("c", "c/1", ReleaseStartedRow())  # the same task again
    ledger.append("c", WeightSetRow(weight_bp=500), key="c/1/w", release_id="c/1")
    ledger.claim("c", "c/2", ReleaseStartedRow())
    with pytest.raises(RejectedError, match="c/1 no longer holds c"):
        ledger.append("c", WeightSetRow(weight_bp=900), key="c/1/w2", release_id="c/1")
    with pytest.raises(RejectedError, match="no longer holds"):
        ledger.finish("c", "c/1", PromotedRow(version="1"))
    assert ledger.finish("c", "c/2", PromotedRow(version="2")).kind == "promoted"
    assert ledger.finish("c", "c/2", PromotedRow(version="2")).kind == "promoted"
    assert ledger.holder("c") is None
    for ended in ("c/1", "c/2"):
        with pytest.raises(RejectedError, match="it cannot begin again"):
            ledger.claim("c", ended, ReleaseStartedRow())
    assert [e.kind for e in ledger.entries("c")] == [
        "release_started", "weight_set", "abandoned", "release_started", "promoted",
    ]  # fmt: skip


def test_writers_at_once_make_one_chain(ledger_url: str) -> None:
    def write(name: str) -> None:
        mine = Ledger(ledger_url)
        for i in range(10):
            mine.append("d", GateRow(), key=f"d/{name}/{i}")
        mine.close()

    threads = [threading.Thread(target=write, args=(str(n),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = Ledger(ledger_url)
    assert [e.seq for e in ledger.entries("d")] == list(range(1, 61))
    assert ledger.broken_links("d") == []
    ledger.close()


def test_what_json_cannot_hold_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        ledger.append("e", GateRow(measured={"metric": float("nan")}), key="e/1")
    assert ledger.entries("e") == []


def test_a_database_that_is_not_there_is_a_service_error() -> None:
    ledger = Ledger("postgresql+psycopg://nobody:secret@127.0.0.1:1/none", timeout_s=2)
    with pytest.raises(ServiceError, match=r"the ledger on 127\.0\.0\.1 did not answer") as caught:
        ledger.entries()
    assert "secret" not in str(caught.value)


def test_nobody_claims_while_a_release_moves_something(ledger: Ledger, ledger_url: str) -> None:
    ledger.claim("f", "f/1", ReleaseStartedRow())
    other = Ledger(ledger_url, timeout_s=1)
    with ledger.holding("f", "f/1"), pytest.raises(ServiceError, match="timeout"):
        other.claim("f", "f/2", ReleaseStartedRow())
    other.claim("f", "f/2", ReleaseStartedRow())
    with pytest.raises(RejectedError), ledger.holding("f", "f/1"):
        pytest.fail("the release was put aside")
    other.close()


def test_the_second_waits_where_it_may_not_supersede(ledger: Ledger) -> None:
    ledger.claim("g", "g/1", ReleaseStartedRow())
    with pytest.raises(BusyError, match="release g/1 of g is under way") as caught:
        ledger.claim("g", "g/2", ReleaseStartedRow(), supersede=False)
    assert (caught.value.model, caught.value.holder) == ("g", "g/1")
    ledger.claim("g", "g/1", ReleaseStartedRow(), supersede=False)  # its own
    ledger.finish("g", "g/1", PromotedRow(version="1"))
    ledger.claim("g", "g/2", ReleaseStartedRow(), supersede=False)
    assert ledger.end("g/2") is None


@pytest.mark.parametrize("number", [1e300, 1e22, -0.0, 5e-324, 0.1 + 0.2, 1e-7, 2**70, 12345678901234567890.0])
def test_numbers_come_back_as_they_were_hashed(ledger: Ledger, number: float) -> None:
    model = f"h{number!r}"
    ledger.append(model, GateRow(measured={"e": number}), key=f"{model}/1")
    assert repr(ledger.entries(model)[0].payload["measured"]["e"]) == repr(number)
    assert ledger.broken_links(model) == []


def test_looks_are_numbered_also_by_two_at_once(ledger_url: str, ledger: Ledger) -> None:
    def write() -> None:
        mine = Ledger(ledger_url)
        for _ in range(10):
            mine.record_look("i", "i/1", "canary", {"e": 1.5})
        mine.close()

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(look.n for look in ledger.looks("i/1", "canary")) == list(range(1, 31))
    assert ledger.record_look("i", "i/1", "canary", {"e": 2}) == 31
    assert ledger.looks("i/1", last=1)[0].n == 31
    assert ledger.look_numbers("i/1", "canary", {"e": 1.5})[:2] == [1, 2]
    assert ledger.look_numbers("i/1", "canary", {"e": 1.25}) == []


def test_rows_by_key_and_kind(ledger: Ledger) -> None:
    rows: tuple[tuple[str, Row], ...] = (("j/a_b#1/x", GateRow()), ("j/aXb#1/y", EDGE), ("j/a_b#1/z", EDGE))
    for key, row in rows:
        ledger.append("j", row, key=key)
    assert [e.key for e in ledger.entries("j", key_prefix="j/a_b#1/")] == ["j/a_b#1/x", "j/a_b#1/z"]  # _ is no wildcard
    assert [e.key for e in ledger.entries("j", kind=("edge", "gate"), last=2)] == ["j/aXb#1/y", "j/a_b#1/z"]
    assert "j" in ledger.models()
    assert ledger.entry("j/none") is None
