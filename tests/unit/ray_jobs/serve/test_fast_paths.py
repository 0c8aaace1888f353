"""What serving does the quick way is what it does the long way: reading, encoding, asking XGBoost, answering over HTTP."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st

from operators.stack import environment
from ray_jobs.serve import fast_path
from ray_jobs.serve.fast_reader import Reader
from ray_jobs.serve.protocol import BadRequestError, read_request, write_request
from ray_jobs.serve.version import application
from ray_jobs.trainers import lightgbm_served, xgboost_served
from tests.support.specs import small_spec

FEATURES: dict[str, Any] = {
    "carrier": "category",
    "origin": "category?",
    "distance": "number",
    "temp": "number?",
    "month": "integer",
    "stops": "integer?",
    "is_new": "boolean",
    "is_full": "boolean?",
}
LIMITS = {"temp": (-3.4028234663852886e38, 3.4028234663852886e38), "month": (-(2**31), 2**31 - 1)}
ROWS = 4
READER = Reader(FEATURES, max_rows=ROWS, limits=LIMITS)

anything = (
    st.none()
    | st.booleans()
    | st.sampled_from(
        [0, -0.0, 2**31, 2**53 + 1, 2**63, 2**64, 10**40, 10**400, 1e39, 1e308, 5e-324, "", "AA", "1", "ü"]
    )
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
)
right = {
    "category": st.text(max_size=3),
    "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
}
datatypes = st.sampled_from(["BYTES", "FP64", "FP32", "FP16", "INT64", "INT32", "UINT8", "BOOL", "FP8", None])


@st.composite
def tensors(draw: st.DrawFn, name: str, rows: int) -> dict[str, Any]:
    """One input, nearly always right."""
    kind = FEATURES[name]
    values = right[kind.rstrip("?")]
    values = st.none() | values if kind.endswith("?") else values
    data = draw(st.lists(values, min_size=rows, max_size=rows))
    if rows and draw(st.integers(0, 15)) == 0:
        data[draw(st.integers(0, rows - 1))] = draw(anything)
    tensor = {"name": name, "shape": [rows], "data": data}
    tensor["datatype"] = {"category": "BYTES", "number": "FP64", "integer": "INT64", "boolean": "BOOL"}[
        kind.rstrip("?")
    ]
    odd = draw(st.integers(0, 40))
    if odd == 0:
        tensor["datatype"] = draw(datatypes)
    elif odd == 1:
        tensor["shape"] = draw(st.sampled_from([[rows, 1], [rows + 1], [float(rows)], [True], [], None, [1, rows]]))
    elif odd == 2:
        tensor["data"] = [[value] for value in data]
    elif odd == 3:
        tensor[draw(st.sampled_from(["parameters", "more"]))] = draw(anything)
    elif odd == 4:
        del tensor[draw(st.sampled_from(["name", "shape", "data", "datatype"]))]
    elif odd == 5:
        tensor["data"] = data[1:]
    return tensor


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, right about every second time."""
    rows = draw(st.integers(1, ROWS) | st.integers(0, ROWS + 1))
    names = draw(st.permutations(list(FEATURES)))
    odd = draw(st.integers(0, 20))
    inputs = [draw(tensors(name, rows)) for name in names]
    if odd == 0:
        inputs.append(draw(tensors(names[0], rows)))
    elif odd == 1:
        inputs.pop()
    elif odd == 2:
        inputs[0] = {**inputs[0], "name": draw(anything)}
    document: dict[str, Any] = {"inputs": inputs}
    if draw(st.booleans()):
        document["parameters"] = draw(
            st.none() | st.dictionaries(st.sampled_from(["unit", "other"]), anything, max_size=2) | st.just([])
        )
    if draw(st.booleans()):
        document["id"] = draw(st.text(max_size=5) | anything)
    if odd == 3:
        document["outputs"] = [{"name": "p"}, draw(anything)]
    return json.dumps(document, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


def outcome(read: Callable[[bytes], Any], body: bytes) -> str:
    try:
        return repr(read(body))  # tells 1 from 1.0 and from True
    except BadRequestError as error:
        return f"400 {error}"


def slow(body: bytes) -> Any:
    return read_request(body, FEATURES, max_rows=ROWS, limits=LIMITS)


@given(requests())
@example(b"")
@example(b'{"inputs": [], "inputs": 3}')
def test_the_quick_reader_says_what_the_other_one_says(body: bytes) -> None:
    assert outcome(READER.read, body) == outcome(slow, body)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"data": [1.5]', '"data": [1.5], "data": [2.5]'),
        ('"data": [1.5]', '"data": [1e999]'),
        ('"data": [1.5]', '"data": [NaN]'),
        ('"data": [1.5]', '"data": [-0]'),
        ('"name": "distance"', '"name": "distance", "name": "temp"'),
        ('"shape": [1]', '"shape": [2], "shape": [1]'),
        ('"AA"', '"\\ud800"'),
        ('"AA"', '"NaN"'),
        ('"id": "a"', '"id": "a", "id": "b"'),
        ('"id": "a"', '"parameters": {"unit": 1, "x": [NaN]}'),
        ('"id": "a"', '"parameters": {"unit": 1, "unit": "b"}'),
        ('"id": "a"', '"parameters": {"unit": 123456789012345678901234567890}'),
        ('"id": "a"', '"parameters": {"unit": "\\ud800"}'),
        ('"id": "a"', '"more": -Infinity'),
        ('"id": "a"', '"more": ' + "[" * 5000 + "]" * 5000),
        ('"id": "a"', '"id": "a"} {'),
    ],
)
def test_json_that_python_does_not_write(before: str, after: str) -> None:
    row = {"carrier": "AA", "origin": None, "distance": 1.5, "temp": None, "month": 1, "stops": 2, "is_new": True}
    body = json.dumps({**write_request([{**row, "is_full": None}], FEATURES), "id": "a"})
    assert before in body
    assert outcome(READER.read, body.replace(before, after, 1).encode()) == outcome(
        slow, body.replace(before, after, 1).encode()
    )


def test_an_ordinary_request_takes_the_quick_way() -> None:
    row = {"carrier": "AA", "origin": None, "distance": 733, "temp": None, "month": 3, "stops": None, "is_new": True}
    request = {**write_request([{**row, "is_full": False}] * 2, FEATURES), "id": "a", "parameters": {"unit": 7}}
    read = READER.read_ordinary(json.dumps(request).encode())
    assert read is not None
    assert (read.id, read.unit, read.rows, list(read.columns)) == ("a", "7", 2, list(FEATURES))


CODES: dict[str, dict[str, int] | None] = {"carrier": {"AA": 0, "UA": 1}, "distance": None, "is_new": None}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["AA", "UA", "unknown", "", None]),
            st.none() | st.floats(-1e30, 1e30) | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.booleans(),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_columns_and_a_data_frame_are_encoded_value_by_value(rows: list[tuple[Any, ...]]) -> None:
    columns = dict(zip(CODES, map(list, zip(*rows, strict=True)), strict=True))
    nan = float("nan")
    wanted = [
        [
            nan if c is None else CODES["carrier"].get(c, nan),
            *(nan if v is None else float(np.float32(v)) for v in more),
        ]  # type: ignore[union-attr]
        for c, *more in rows
    ]
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    for encode in (xgboost_served.encode, lightgbm_served.encode):
        for given_ in (columns, frame):
            matrix = encode(CODES, given_)
            assert matrix.dtype == np.float32
            assert matrix.flags.c_contiguous
            np.testing.assert_array_equal(matrix, np.array(wanted, dtype=np.float32))


@pytest.fixture(scope="module")
def booster() -> Any:
    import xgboost

    rng = np.random.default_rng(3)
    x = rng.normal(size=(2000, 5)).astype(np.float32)
    x[:, 0] = rng.integers(0, 12, 2000)
    x[rng.random(x.shape) < 0.1] = np.nan
    y = (np.nan_to_num(x[:, 1]) + (x[:, 0] == 3) > 0.4).astype(np.float32)
    types = ["c", "q", "q", "q", "q"]
    data = xgboost.DMatrix(x, label=y, feature_types=types, enable_categorical=True)
    return xgboost.train({"objective": "binary:logistic", "max_depth": 5, "nthread": 1}, data, 25)


def test_xgboost_asked_directly_answers_the_same_bits(booster: Any) -> None:
    direct = xgboost_served.Direct(booster, 5)
    rng = np.random.default_rng(4)
    kept = []
    for rows in (1, 2, 3, 64, 65, 1000, 1):
        x = (rng.normal(size=(rows, 5)) * 10.0 ** rng.integers(-3, 20)).astype(np.float32)
        x[:, 0] = rng.integers(0, 14, rows)  # also categories that training did not see
        x[rng.random(x.shape) < 0.2] = np.nan
        kept.append((direct(x), booster.inplace_predict(x, validate_features=False)))
    for mine, theirs in kept:  # later calls have not changed earlier answers
        np.testing.assert_array_equal(mine, theirs)


def test_another_xgboost_is_asked_the_public_way(booster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from xgboost import core

    booster.save_model(tmp_path / "booster.ubj")
    (tmp_path / "encoder.json").write_text(json.dumps({"a": ["x", "y"], **dict.fromkeys("bcde")}))
    context = SimpleNamespace(
        artifacts={"booster": str(tmp_path / "booster.ubj"), "encoder": str(tmp_path / "encoder.json")}
    )
    columns = {"a": ["x", None, "new"], **{name: [0.5, None, 2] for name in "bcde"}}
    answers = []
    for broken in (False, True):
        if broken:
            monkeypatch.delattr(core, "_ProxyDMatrix")
        model = xgboost_served.XGBoostModel()
        model.load_context(context)
        assert isinstance(model.ask, xgboost_served.Direct) is not broken
        answers.append(model.predict(None, columns))
    np.testing.assert_array_equal(*answers)


class Answers:
    def infer(self, body: bytes, headers: Any) -> tuple[int, bytes, str]:
        told = dict(headers)
        return (400 if body == b"bad" else 200), b"<" + body + b">", told.get(b"x-request-id", b"new").decode()


async def serves(scope: Any, receive: Any, send: Any) -> None:
    """Serve's own way."""
    await send({"type": "http.response.start", "status": 418, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def talk(app: Any, *sent: bytes) -> bytes:
    """Serve one connection of the real HTTP server, send, and return all that comes until it closes."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http="httptools", lifespan="off", access_log=False, log_config=None)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
        for part in sent:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()
        server.should_exit = True
        await task


def post(body: bytes, path: bytes = b"/m/1/v2/models/m/infer", more: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s" % (path, len(body), more, body)


CLOSE = b"Connection: close\r\n"


def test_a_prediction_takes_the_fast_path_and_all_else_serves() -> None:
    version = Answers()
    fast_path.answer_by(version.infer)
    (middleware,) = fast_path.middlewares()
    app = middleware.cls(serves, *middleware.args, **middleware.kwargs)

    first, second = asyncio.run(talk(app, post(b"abc", more=b"X-Request-Id: r1\r\n"), post(b"bad", more=CLOSE))).split(
        b"HTTP/1.1 "
    )[1:]
    assert first.startswith(b"200 OK\r\n")
    assert first.endswith(b"\r\n\r\n<abc>")
    assert b"x-request-id: r1\r\n" in first
    assert second.startswith(b"400 ")
    assert second.endswith(b"<bad>")
    # Pipelined, in pieces, large.
    large = b"x" * 3_000_000
    whole = post(b"a") + post(b"b") + post(large, more=CLOSE)
    answers = asyncio.run(talk(app, whole[:20], whole[20:400], whole[400:])).split(b"\r\n\r\n")
    assert [answers[1][:3], answers[2][:3], answers[3]] == [b"<a>", b"<b>", b"<" + large + b">"]
    for other in (
        post(b"x", path=b"/m/1/v2/models/m", more=CLOSE),
        b"GET /m/1/v2/models/m/infer HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n",
    ):
        assert b" 418 " in asyncio.run(talk(app, other))
    del version  # a version that has gone answers nothing
    assert b" 418 " in asyncio.run(talk(app, post(b"abc", more=CLOSE)))


def test_taxiway_up_asks_serve_for_the_fast_path() -> None:
    assert f'"{fast_path.SETTING}": "{fast_path.PATH}"' in inspect.getsource(environment.ray_head)
    brought = application(small_spec(), "1", "models:/m", {"py_modules": ["x"], "env_vars": {"A": "1"}})
    options = brought._bound_deployment.ray_actor_options
    assert options is not None
    assert options["runtime_env"]["env_vars"] == {fast_path.SETTING: fast_path.PATH, "A": "1"}


def test_an_answer_leaves_in_one_piece() -> None:
    version, pieces = Answers(), []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        transport = send.__self__.transport

        class Watched:
            def write(self, data: bytes) -> None:
                pieces.append(data)
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        send.__self__.transport = Watched()
        await fast_path.FastPath(serves, lambda: version.infer)(scope, receive, send)

    asyncio.run(talk(watched, post(b"abc", more=CLOSE)))
    (piece,) = pieces
    assert piece.endswith(b"<abc>")


def test_a_caller_that_has_gone_is_not_answered() -> None:
    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/infer", "headers": []}
    version = Answers()
    asyncio.run(fast_path.FastPath(serves, lambda: version.infer)(scope, gone, send))
