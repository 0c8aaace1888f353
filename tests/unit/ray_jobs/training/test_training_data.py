from __future__ import annotations

import pickle
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.core.errors import RejectedError
from operators.core.storage import Storage
from ray_jobs.training.training_data import TrainingData, split
from tests.support.training import END, KEY, spec, table, write

BORDER = END - timedelta(days=7)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path}/store")


def both(storage: Storage, rows: pa.Table, folder: Path, end: datetime = END) -> tuple[TrainingData, TrainingData]:
    write(storage, rows, folder)
    return split(KEY, storage, spec(), end)


def test_labelled_rows_are_training_rows_before_the_border_and_holdout_from_it_on(
    storage: Storage, tmp_path: Path
) -> None:
    rows = table(1000)
    training, holdout = both(storage, rows, tmp_path)
    expected = rows.to_pylist()
    before = [row["distance"] for row in expected if row["late"] is not None and row["at"] < BORDER]
    after = [row["distance"] for row in expected if row["late"] is not None and row["at"] >= BORDER]
    assert training.table()["distance"].to_pylist() == before
    assert holdout.table()["distance"].to_pylist() == after
    assert (training.count(), holdout.count()) == (len(before), len(after))
    assert training.head(3)["distance"].to_pylist() == before[:3]
    assert training.table().column_names == ["distance", "wind", "carrier", "late"]


@pytest.mark.parametrize(
    "kind",
    [*(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")), pa.timestamp("us", "America/New_York"), pa.date32()],
    ids=str,
)
def test_the_border_itself_is_holdout_whatever_the_type_of_the_times(
    storage: Storage, tmp_path: Path, kind: pa.DataType
) -> None:
    day = timedelta(days=1)
    rows = table(3).set_column(1, "at", pa.array([BORDER - day, BORDER, BORDER + day], pa.timestamp("us")).cast(kind))
    training, holdout = both(storage, rows, tmp_path)
    assert training.table()["distance"].to_pylist() == rows["distance"].to_pylist()[:1]
    assert holdout.table()["distance"].to_pylist() == rows["distance"].to_pylist()[1:]


def test_a_date_counts_as_its_midnight(storage: Storage, tmp_path: Path) -> None:
    rows = table(3).set_column(1, "at", pa.array([BORDER, BORDER, BORDER + timedelta(days=1)]).cast(pa.date32()))
    training, holdout = both(storage, rows, tmp_path, END + timedelta(hours=1))
    assert (training.count(), holdout.count()) == (2, 1)


def test_a_row_group_without_training_rows_is_not_read(storage: Storage, tmp_path: Path) -> None:
    training, _ = both(storage, table(800), tmp_path)
    path = Path(training.path)
    whole, last = path.read_bytes(), pq.read_metadata(path).row_group(7).column(2)
    start = last.dictionary_page_offset or last.data_page_offset
    # Damage the last row group, which is holdout: who reads it fails.
    path.write_bytes(whole[:start] + b"\xff" * last.total_compressed_size + whole[start + last.total_compressed_size :])
    assert sum(batch.num_rows for batch in training.batches()) == training.table().num_rows > 500


@given(rows=st.integers(1, 300), workers=st.integers(1, 7), batch=st.integers(1, 50))
@settings(max_examples=25)
def test_the_shards_are_every_nth_row_and_together_all(rows: int, workers: int, batch: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        training, _ = both(Storage(f"file://{folder}/store"), table(rows), Path(folder))
        whole = training.table()["distance"].to_pylist()
        shards = [
            [value for part in training.shard(rank, workers, batch) for value in part["distance"].to_pylist()]
            for rank in range(workers)
        ]
    assert shards == [whole[rank::workers] for rank in range(workers)]


def test_it_travels_to_a_worker(storage: Storage, tmp_path: Path) -> None:
    training, _ = both(storage, table(100), tmp_path)
    assert pickle.loads(pickle.dumps(training)).table() == training.table()


def test_the_size_is_that_of_the_columns_that_are_used(storage: Storage, tmp_path: Path) -> None:
    rows = table(100_000)
    training, _ = both(
        storage, rows.append_column("unused", pa.array(np.random.default_rng(0).random(100_000))), tmp_path
    )
    assert 16 * 100_000 < training.size_bytes < 20 * 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop_columns(["wind", "late"]), "lacks wind, late; mend `data.query`"),
        (lambda rows: rows.set_column(1, "at", rows["id"]), "the time column at is string; the query must return"),
    ],
)
def test_a_dataset_that_does_not_fit_the_spec_says_so(
    storage: Storage, tmp_path: Path, change: object, message: str
) -> None:
    with pytest.raises(RejectedError, match=message):
        both(storage, change(table(10)), tmp_path)  # type: ignore[operator]
