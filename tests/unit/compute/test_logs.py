from __future__ import annotations

import json
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from operators.compute import logs, reports
from operators.compute.logs import LogCopy

# Halves of surrogate pairs are no text that bytes can hold.
characters = st.characters(exclude_characters="\n\r\x1b", exclude_categories=["Cs"])
texts = st.lists(st.text(characters, max_size=30), max_size=30)


def stopped_clock() -> float:
    return 0.0


def fed(copy: LogCopy, data: bytes, size: int = 7) -> list[str]:
    return [line for i in range(0, len(data), size) for line in copy.feed(data[i : i + size])]


@given(texts, st.integers(1, 50))
def test_lines_do_not_depend_on_how_the_bytes_arrive(lines: list[str], size: int) -> None:
    data = "\n".join(lines).encode()
    copy = LogCopy(clock=stopped_clock)
    found = [*fed(copy, data, size), *copy.close()]
    assert found == (data.decode().split("\n") if data and not data.endswith(b"\n") else data.decode().split("\n")[:-1])


@given(texts, st.integers(1, 50), st.data())
def test_a_copy_goes_on_where_another_was(lines: list[str], size: int, data: st.DataObject) -> None:
    log = "".join(f"{line}\n" for line in lines).encode()
    cut = data.draw(st.integers(0, len(log)))
    first = LogCopy(clock=stopped_clock)
    before = fed(first, log[:cut], size)
    second = LogCopy(offset=first.offset, clock=stopped_clock)
    assert before + fed(second, log, size) == lines
    assert second.offset == len(log)
    first.restart()
    assert before + fed(first, log, size) == lines


def test_too_many_lines_are_counted_and_the_last_ones_kept() -> None:
    now = [0.0]
    copy = LogCopy(clock=lambda: now[0])
    found = fed(copy, b"".join(b"line %d\n" % i for i in range(50_000)), 65_536)
    assert found[0] == "line 0"
    assert len(found) == logs.LINES_PER_S * logs.BURST_S
    now[0] = 100.0
    gap, after = list(copy.feed(b"after\n"))
    assert after == "after"
    assert "48,000 lines" in gap
    assert list(copy.last_lines)[-2:] == ["line 49999", "after"]


def test_memory_is_bounded() -> None:
    copy = LogCopy(clock=stopped_clock)
    block = b"x" * 1_000 + b"\n"
    endless = b"y" * 20_000_000  # a line without an end
    tracemalloc.start()
    for _ in range(200):
        fed(copy, block * 100, 65_536)
    fed(copy, endless, 65_536)
    list(copy.close())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_000_000
    assert copy.position == 200 * 100 * 1_001 + 20_000_000


def test_progress_is_shown_in_words_and_the_result_is_not_shown() -> None:
    copy = LogCopy(clock=stopped_clock)
    said = {"progress": 0.25, "message": "epoch 1 of 4", "metrics": {"loss": 0.5}}
    log = (
        f"(worker pid=3) {reports.MARK} {json.dumps(said)}\n{reports.MARK} "
        + '{"result": null}\n'
        + f"{reports.MARK} nonsense\n"
    )
    assert fed(copy, log.encode()) == ["progress: 25% · epoch 1 of 4 · loss=0.5", f"{reports.MARK} nonsense"]
    assert (copy.has_result, copy.result) == (True, None)


def test_a_result_is_found_among_lines_that_are_not_copied() -> None:
    copy = LogCopy(clock=stopped_clock)
    result = {"a": "x" * 40_000}
    fed(
        copy,
        b"noise\n" * 100_000 + f"{reports.MARK} {json.dumps({'result': result})}\n".encode() + b"noise\n" * 9,
        65_536,
    )
    assert copy.result == result
    second = LogCopy(offset=copy.offset)  # a restart: everything was copied, and the result is found again
    assert (
        fed(second, b"noise\n" * 100_000 + f"{reports.MARK} {json.dumps({'result': result})}\n".encode(), 65_536) == []
    )
    assert second.result == result


def test_a_terminal_line_is_what_the_terminal_would_show() -> None:
    copy = LogCopy(clock=stopped_clock)
    assert fed(copy, b"\x1b[36m10%\r50%\r100%\x1b[0m\r\nplain\r\n") == ["100%", "plain"]
