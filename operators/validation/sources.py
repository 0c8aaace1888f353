"""The files of a dataset: Parquet or CSV; one file, a folder or a pattern; on this machine or in S3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from operators.core.errors import ConfigurationError
from operators.core.storage import Storage

FileFormat = Literal["parquet", "csv"]
_ENDINGS: dict[str, FileFormat] = {".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv"}


@dataclass(frozen=True)
class Files:
    """Local files of one format."""

    paths: Sequence[Path]
    file_format: FileFormat


def local_files(source: str, file_format: FileFormat | None, folder: Path) -> Files:
    """Return the files of a dataset as local files. What is in S3 is downloaded; what is local stays where it is.

    :param source: ``s3://bucket/key``, ``file:///path`` or an absolute path: of a file, of a folder, or with ``*`` and
        ``?`` in its last part
    :param file_format: default: by the ending of the names
    :param folder: for downloads
    :raises ConfigurationError: there are no such files, or they are of several formats
    """
    if not ("://" in source or source.startswith("/")):
        raise ConfigurationError(f"source is {source!r}; write s3://bucket/key, file:///path or an absolute path")
    base, _, last = source.rstrip("/").rpartition("/")
    if source.startswith("/"):
        base = Path(base or "/").as_uri()
    elif source.startswith("file://"):
        last = unquote(last)
    if has_magic(last) or _format(last):
        storage, names = Storage(base), _matching(base, last)
    else:
        storage = Storage(Path(source).as_uri() if source.startswith("/") else source.rstrip("/"))
        names = [name for name in storage.list() if file_format or _format(name)]
    if not names:
        raise ConfigurationError(
            f"there are no Parquet or CSV files at {source}; names must end in .parquet, .csv or .csv.gz, or set file_format"
        )
    formats = {file_format or _format(name) for name in names}
    if len(formats) > 1 or None in formats:
        raise ConfigurationError(
            f"{source} has files of several or unknown formats; set file_format, or write a pattern such as *.parquet"
        )
    paths = _local(storage, names, folder)
    return Files(paths, next(f for f in formats if f))


def _matching(base: str, last: str) -> list[str]:
    """Return the names in a folder that a pattern stands for."""
    if not has_magic(last):
        return [last]
    return [name for name in Storage(base).list() if "/" not in name and fnmatchcase(name, last)]


def _local(storage: Storage, names: Sequence[str], folder: Path) -> list[Path]:
    if not storage.root.startswith("file://"):
        return storage.download_all(names, folder)
    root = Path(unquote(urlsplit(storage.root).path))
    if missing := [name for name in names if not (root / name).is_file()]:
        raise ConfigurationError(f"there is no file {root / missing[0]}")
    return [root / name for name in names]


def _format(name: str) -> FileFormat | None:
    return next((kind for ending, kind in _ENDINGS.items() if name.lower().endswith(ending)), None)
