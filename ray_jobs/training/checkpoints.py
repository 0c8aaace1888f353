"""Checkpoints of a single worker, in object storage. A group of workers uses Ray Train's checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

_LATEST = "latest.json"
_CHUNK_BYTES = 64 * 1024 * 1024


class Checkpoints:
    """The last checkpoint of one run.

    A checkpoint is complete or not there: its files are written first, and then the one small file that names it.

    :param filesystem: a `pyarrow.fs.FileSystem`
    :param folder: the run's folder in ``filesystem``
    """

    def __init__(self, filesystem: Any, folder: str) -> None:
        self._filesystem = filesystem
        self._folder = folder

    def latest(self) -> dict[str, Any] | None:
        """Return ``number`` and ``metrics`` of the last checkpoint, or None if there is none."""
        try:
            with self._filesystem.open_input_stream(f"{self._folder}/{_LATEST}") as file:
                return dict(json.loads(file.read()))
        except FileNotFoundError:
            return None

    def restore(self, folder: Path) -> Path | None:
        """Copy the last checkpoint's files into a local folder and return the folder, or None if there is no checkpoint."""
        latest = self.latest()
        if latest is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        fs.copy_files(
            self._path(latest["number"]), str(folder), source_filesystem=self._filesystem, chunk_size=_CHUNK_BYTES
        )
        return folder

    def save(self, folder: Path, metrics: Mapping[str, float]) -> None:
        """Write the files of a local folder as the last checkpoint, and delete the one before."""
        latest = self.latest()
        number = latest["number"] + 1 if latest else 0
        self._filesystem.create_dir(self._path(number), recursive=True)
        fs.copy_files(
            str(folder),
            self._path(number),
            destination_filesystem=self._filesystem,
            chunk_size=_CHUNK_BYTES,
            use_threads=False,  # parallel uploads to S3 can deadlock: apache/arrow#32372
        )
        written = f"{self._folder}/{_LATEST}"
        with self._filesystem.open_output_stream(f"{written}.new") as file:
            file.write(json.dumps({"number": number, "metrics": dict(metrics)}).encode())
        self._filesystem.move(f"{written}.new", written)
        if latest:
            self._filesystem.delete_dir(self._path(latest["number"]))

    def _path(self, number: int) -> str:
        return f"{self._folder}/checkpoint_{number:06d}"
