"""The rows of a dataset, scanned from its Parquet file: only the columns and rows that are needed, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from operators.core.errors import RejectedError
from operators.core.spec import PredictionSpec
from operators.core.storage import Storage

_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class TrainingData:
    """Some rows and columns of one Parquet file. It holds no rows, so it can be sent to any worker, which reads them itself.

    The rows are in the order of the file. The file never changes, because its key has the digest of its content.

    :param path: the file's path in ``filesystem``
    :param filesystem: a `pyarrow.fs.FileSystem`
    :param columns: the features and the label
    :param label: the label's column. Rows without a label are left out
    :param time: the time column
    :param border: the time that divides training rows and holdout: a `pyarrow.Scalar` of the time column's type
    :param is_recent: whether these are the rows from the border on; else those before it
    """

    path: str
    filesystem: Any
    columns: tuple[str, ...]
    label: str
    time: str
    border: Any
    is_recent: bool

    @property
    def where(self) -> pc.Expression:
        """The filter for the rows. By the file's statistics, a row group that has no such row is never read."""
        time = pc.field(self.time)
        return pc.field(self.label).is_valid() & (time >= self.border if self.is_recent else time < self.border)

    def batches(self, columns: Sequence[str] | None = None, rows: int = _BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, with one row group in memory: a scanner of the whole file would read far ahead.

        :param columns: default: all
        :param rows: the most rows of a batch
        """
        fragment = next(iter(self._dataset().get_fragments()))
        for group in fragment.split_by_row_group(self.where):
            table = group.to_table(columns=list(columns or self.columns), filter=self.where)
            yield from (batch for batch in table.to_batches(max_chunksize=rows) if batch.num_rows)

    def shard(self, rank: int, world_size: int, rows: int = _BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield every ``world_size``-th row, beginning with row ``rank``. Shards are alike, and the same each time."""
        seen = 0
        for batch in self.batches(rows=rows):
            first = (rank - seen) % world_size
            seen += batch.num_rows
            part = batch if world_size == 1 else batch.take(pa.array(np.arange(first, batch.num_rows, world_size)))
            if part.num_rows:
                yield part

    def table(self) -> pa.Table:
        """Return all rows at once, for data that fits in memory."""
        return self._dataset().to_table(columns=list(self.columns), filter=self.where)

    def head(self, rows: int) -> pa.Table:
        """Return the first rows."""
        return self._dataset().head(rows, columns=list(self.columns), filter=self.where)

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._dataset().count_rows(filter=self.where))

    @property
    def size_bytes(self) -> int:
        """The uncompressed size of the columns over all rows of the file. Only the footer is read."""
        metadata = next(iter(self._dataset().get_fragments())).metadata
        wanted = set(self.columns)
        groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
        return sum(
            column.total_uncompressed_size
            for group in groups
            for column in (group.column(index) for index in range(group.num_columns))
            if column.path_in_schema in wanted
        )

    def _dataset(self) -> pads.Dataset:
        return pads.dataset(self.path, filesystem=self.filesystem, format="parquet")


def split(key: str, storage: Storage, spec: PredictionSpec, end: datetime) -> tuple[TrainingData, TrainingData]:
    """Split a dataset's labelled rows into the training rows and the holdout, which is the last part of the window.

    Only the file's footer is read.

    :param key: key of the dataset's Parquet file in ``storage``
    :param end: end of the window in the clock of the time column, without a zone
    :raises RejectedError: the file lacks a column, or its time column does not hold times
    """
    folder, _, name = key.rpartition("/")
    filesystem, root = storage.arrow(folder)
    path = f"{root}/{name}"
    schema = pads.dataset(path, filesystem=filesystem, format="parquet").schema
    wanted = (*spec.features, spec.data.label)
    if missing := [column for column in (*wanted, spec.data.time) if column not in schema.names]:
        raise RejectedError(
            f"the dataset {storage.url(key)} lacks {', '.join(missing)}; mend `data.query`, or the columns that the spec names"
        )
    training = TrainingData(
        path=path,
        filesystem=filesystem,
        columns=wanted,
        label=spec.data.label,
        time=spec.data.time,
        border=_border(schema.field(spec.data.time).type, spec, end),
        is_recent=False,
    )
    return training, replace(training, is_recent=True)


def _border(kind: pa.DataType, spec: PredictionSpec, end: datetime) -> pa.Scalar:
    """Return the start of the holdout in the time column's own type: with a cast, the file's statistics could not be used."""
    border = end.replace(tzinfo=None) - timedelta(seconds=spec.data.holdout_s)
    if pa.types.is_date(kind):
        # A date counts as its midnight, so the first date in the holdout is the border rounded up.
        border += timedelta(days=1, microseconds=-1)
        return pa.scalar(border.date(), kind)
    if not pa.types.is_timestamp(kind):
        raise RejectedError(f"the time column {spec.data.time} is {kind}; the query must return it as a TIMESTAMP")
    # A column without a zone is compared in its own clock. A column with a zone is stored, and so compared, as UTC.
    moment = border.replace(tzinfo=UTC) if kind.tz else border
    return pa.scalar(moment, pa.timestamp("us", kind.tz)).cast(kind, safe=False)
