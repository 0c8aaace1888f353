from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from operators.core.dataset import TableSource, Window, build, fetch, snapshot
from operators.core.errors import ConfigurationError, ServiceError
from operators.core.loader import INCLUDE
from operators.core.storage import ObjectNotFoundError, Storage
from operators.demo.seed import damage, seed_flights


def new_bucket() -> str:
    import boto3

    name = f"test-{secrets.token_hex(6)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["s3", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "file":
        return Storage(f"file://{tmp_path}/with space/store")
    request.getfixturevalue("s3")
    return Storage(f"s3://{new_bucket()}/some/prefix/")


def test_an_object_lives(storage: Storage) -> None:
    assert not storage.exists("a/b.bin")
    assert storage.put_bytes("a/b.bin", b"one")
    assert storage.get_bytes("a/b.bin") == b"one"
    assert storage.exists("a/b.bin")
    assert not storage.exists("a")
    assert storage.put_bytes("a/b.bin", b"two")
    assert storage.put_bytes("a/c+d=1:2.bin", b"")
    assert storage.put_bytes("ab/c.bin", b"x")
    assert storage.list("a") == ["a/b.bin", "a/c+d=1:2.bin"]
    assert storage.list() == ["a/b.bin", "a/c+d=1:2.bin", "ab/c.bin"]
    assert storage.at("a").list() == ["b.bin", "c+d=1:2.bin"]
    assert storage.list("nothing") == []
    assert storage.tail("a/b.bin", 2) == b"wo"
    assert storage.url("a/b.bin") == f"{storage.root}/a/b.bin"
    storage.delete("a/b.bin")
    storage.delete("a/b.bin")
    with pytest.raises(ObjectNotFoundError, match=r"a/b\.bin: there is no such object"):
        storage.get_bytes("a/b.bin")


def test_if_absent_has_exactly_one_winner(storage: Storage) -> None:
    start, won = threading.Barrier(4), []

    def write(number: int) -> None:
        start.wait()
        if storage.put_bytes("one", str(number).encode(), if_absent=True):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.get_bytes("one") == str(won[0]).encode()


def test_files_travel_whole(storage: Storage, tmp_path: Path) -> None:
    big = secrets.token_bytes(20_000_000)  # several ranges, and a multipart upload
    (tmp_path / "up").mkdir()
    (tmp_path / "up/big").write_bytes(big)
    (tmp_path / "up/empty").write_bytes(b"")
    assert storage.upload_all(tmp_path / "up", "files") == 2
    down = storage.download_all(storage.list("files"), tmp_path / "down")
    assert [path.read_bytes() for path in down] == [big, b""]
    assert not storage.upload(tmp_path / "up/big", "files/big", if_absent=True)
    with pytest.raises(ObjectNotFoundError):
        storage.download("files/none", tmp_path / "none")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\nb"])
def test_a_key_is_a_relative_path(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a storage key"):
        Storage(f"file://{tmp_path}").put_bytes(key, b"")


@pytest.mark.parametrize("url", ["", "bucket", "s3://", "file://relative/path", "http://host/bucket"])
def test_an_address_is_s3_or_a_file(url: str) -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix or file:///path"):
        Storage(url)


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_and_a_wrong_secret_are_for_a_person_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Storage("s3://no-such-bucket")
    for call in (lambda: missing.get_bytes("a"), missing.list, lambda: missing.delete("a")):
        with pytest.raises(ConfigurationError, match="the bucket does not exist"):
            call()
    bucket = new_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ConfigurationError, match="AWS_SECRET_ACCESS_KEY"):
        Storage(f"s3://{bucket}").put_bytes("a", b"")


@pytest.mark.usefixtures("s3")
def test_a_server_that_is_away_may_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(ServiceError, match="cannot read s3://bucket/a"):
        Storage("s3://bucket").get_bytes("a")
    assert time.monotonic() - began < 60


def test_a_forked_child_is_told_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")
    storage.put_bytes("a", b"1")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            storage.get_bytes("a")
        except ConfigurationError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_raw_tables_become_a_dataset(storage: Storage, tmp_path: Path) -> None:
    seed_flights(storage, months=[1])
    before = storage.list("raw")
    seed_flights(storage, months=[1])
    assert storage.list("raw") == before == ["raw/flights/2013-01.parquet", "raw/weather/2013-01.parquet"]
    tables = {
        "flights": TableSource(source=storage.url("raw/flights"), time_column="sched_dep_at"),
        "weather": TableSource(source="raw/weather/2013-01.parquet", time_column="observed_at"),
    }
    window = Window(start=datetime(2013, 1, 8), end=datetime(2013, 1, 15))
    frozen = snapshot(tables, window, storage, "snapshots")
    assert snapshot(tables, window, storage, "snapshots") == frozen
    assert all(path.is_file() for path in fetch(frozen, storage, tmp_path / "tables").values())
    sql = (INCLUDE / "queries/flight_delay.sql").read_text()
    dataset = build(frozen, sql, {"as_of": window.end}, storage=storage, prefix="datasets")
    assert dataset.rows == frozen.tables["flights"].rows
    assert storage.exists(dataset.key)
    assert damage(storage, 1, ["half_weather"]) == storage.url("raw_damaged/2013-01-half_weather")
