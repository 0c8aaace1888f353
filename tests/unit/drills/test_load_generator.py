"""The callers of a drill."""

from __future__ import annotations

import asyncio
import json

from operators.drills.load_generator import Load, single_rows
from tests.support.waiting import until_async


def test_rows_are_sent_one_by_one() -> None:
    body = {
        "inputs": [
            {"name": "a", "shape": [2], "datatype": "FP64", "data": [1, 2]},
            {"name": "b", "shape": [2], "datatype": "BYTES", "data": ["x", None]},
        ]
    }
    first, second = (json.loads(one) for one in single_rows(json.dumps(body).encode()))
    assert [tensor["data"] for tensor in first["inputs"]] == [[1], ["x"]]
    assert [tensor["data"] for tensor in second["inputs"]] == [[2], [None]]
    assert second["inputs"][1]["shape"] == [1]


def test_callers_count_what_they_see() -> None:
    """Against a server that answers in turn: stable, canary, in the canary's place, and not at all."""
    kinds = [("200 OK", "stable"), ("200 OK", "canary"), ("200 OK", "fallback"), ("503 Away", "")]
    units: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(2)
            units.extend(
                line.split(": ")[1] for line in head.decode().split("\r\n") if line.startswith("X-Taxiway-Unit")
            )
            status, arm = kinds[(len(units) - 1) % 4]
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\nX-Taxiway-Arm: {arm}\r\n\r\n{{}}".encode())
            await writer.drain()

    async def play() -> Load:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        load = Load(f"http://127.0.0.1:{port}/infer", [b"{}"], rate_per_s=500)
        async with load:
            await until_async(lambda: len(units) >= 40)
        server.close()
        return load

    tally = asyncio.run(play()).tally
    assert tally.sent == len(units) == len(set(units))
    quarter, rest = divmod(tally.sent, 4)
    assert tally.failed == quarter
    assert tally.failures[0] == "503: {}"
    assert (len(tally.stable), tally.fallbacks) == (quarter + (rest > 0), quarter + (rest > 2))
    assert len(tally.canary) == tally.fallbacks + quarter + (rest > 1)
