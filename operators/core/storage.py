"""Object storage: one small interface over S3 and local folders, with time-outs, bounded retries and clear errors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from operators.core.errors import ConfigurationError, ServiceError, ServiceRefusedError

CONNECT_TIMEOUT_S = 5
REQUEST_TIMEOUT_S = 120
RETRIES = 4
RETRY_TIMEOUT_S = 60
_CHUNK_BYTES = 16 * 1024 * 1024
_PARALLEL = 8
_STATUS = re.compile(r"status code: (\d{3})")
_runtime_pid: int | None = None


class ObjectNotFoundError(ConfigurationError):
    """There is no object under this key."""


class Storage:
    """A folder of objects: ``s3://bucket/prefix`` or ``file:///path``.

    Credentials, region and endpoint of S3 come from the usual ``AWS_*`` variables. The first call opens the store.

    :raises ConfigurationError: the address is neither ``s3://bucket[/prefix]`` nor ``file:///path``
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.root = url.rstrip("/")
        if parts.scheme == "s3" and parts.netloc:
            self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        elif parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
            self._bucket, self._prefix = "", unquote(parts.path).rstrip("/")
        else:
            raise ConfigurationError(f"{url!r} is not a storage address; write s3://bucket/prefix or file:///path")

    def at(self, source: str) -> Storage:
        """Return the storage of a folder below this one, or of another address if the source has a scheme."""
        return Storage(source if "://" in source else self.url(source))

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def url(self, key: str) -> str:
        """Return the address of an object.

        :raises ConfigurationError: the key is not a relative path without ``..``
        """
        return f"{self.root}/{_checked(key)}"

    def put_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write an object in one atomic step.

        :param if_absent: leave an object that exists as it is
        :returns: whether it was written
        """
        return self._put(key, data, if_absent)

    def upload(self, path: Path, key: str, *, if_absent: bool = False) -> bool:
        """Write a local file; see `put_bytes`. S3 limits ``if_absent`` to 5 GB, the size of one request."""
        return self._put(key, path, if_absent)

    def _put(self, key: str, data: bytes | Path, if_absent: bool) -> bool:
        from obstore.exceptions import AlreadyExistsError

        how: dict[str, Any] = {"mode": "create", "use_multipart": False} if if_absent else {"mode": "overwrite"}
        with self._calling("write", key) as obstore:
            try:
                obstore.put(self._store, self._path(key), data, **how)
            except AlreadyExistsError:
                return False
        return True

    def get_bytes(self, key: str) -> bytes:
        """Read an object.

        :raises ObjectNotFoundError: there is none
        """
        with self._calling("read", key) as obstore:
            return bytes(obstore.get(self._store, self._path(key)).bytes())

    def download(self, key: str, path: Path) -> Path:
        """Write an object to a local file. It is read in ranges, so a big one does not fill the memory or time out."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._calling("read", key) as obstore, path.open("wb") as file:
            size = self._size(key)
            for start in range(0, size, _CHUNK_BYTES):
                end = min(start + _CHUNK_BYTES, size)
                file.write(obstore.get_range(self._store, self._path(key), start=start, end=end))
        return path

    def download_all(self, keys: Iterable[str], folder: Path) -> list[Path]:
        """Read several objects into a folder, in parallel; each keeps its key as the file name."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return list(pool.map(lambda key: self.download(key, folder / _checked(key)), keys))

    def upload_all(self, folder: Path, prefix: str, keep: Callable[[str], bool] = lambda _: True) -> int:
        """Write the files below a folder under a prefix, in parallel.

        :param keep: which relative names to write
        :returns: how many
        """
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        kept = [name for name in names if keep(name)]
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return len(list(pool.map(lambda name: self.upload(folder / name, f"{prefix}/{name}"), kept)))

    def exists(self, key: str) -> bool:
        """Return whether there is an object under exactly this key."""
        try:
            with self._calling("look for", key):
                self._size(key)
        except ObjectNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        """Return the keys below a folder, sorted."""
        path = self._path(prefix) if prefix else self._inside
        with self._calling("list", prefix) as obstore:
            keys = [item["path"] for chunk in obstore.list(self._store, prefix=path or None) for item in chunk]
        cut = len(self._inside) + 1 if self._inside else 0
        return sorted(key[cut:] for key in keys)

    def delete(self, key: str) -> None:
        """Delete an object. If there is none, do nothing."""
        try:
            with self._calling("delete", key) as obstore:
                obstore.delete(self._store, self._path(key))
        except ObjectNotFoundError:
            return

    def tail(self, key: str, size_bytes: int) -> bytes:
        """Read the last bytes of an object, where Parquet keeps its schema and statistics."""
        with self._calling("read", key) as obstore:
            size = self._size(key)
            start = max(0, size - size_bytes)
            return bytes(obstore.get_range(self._store, self._path(key), start=start, end=size)) if size else b""

    def arrow(self, prefix: str) -> tuple[Any, str]:
        """Return a pyarrow filesystem and the path of a prefix in it. Ray Train keeps its checkpoints by these two."""
        from pyarrow import fs

        if not self._bucket:
            return fs.LocalFileSystem(), f"{self._prefix}/{_checked(prefix)}"
        endpoint = urlsplit(_endpoint())
        where = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme} if endpoint.netloc else {}
        filesystem = fs.S3FileSystem(
            region=_region(), connect_timeout=CONNECT_TIMEOUT_S, request_timeout=REQUEST_TIMEOUT_S, **where
        )
        return filesystem, f"{self._bucket}/{self._path(prefix)}"

    @property
    def _inside(self) -> str:
        """The prefix of every key in the store. A LocalStore needs none: its root contains the prefix."""
        return self._prefix if self._bucket else ""

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._inside, _checked(key)) if part)

    def _size(self, key: str) -> int:
        import obstore

        return int(obstore.head(self._store, self._path(key))["size"])

    @cached_property
    def _store(self) -> Any:
        from obstore.store import LocalStore, S3Store

        if not self._bucket:
            return LocalStore(self._prefix or "/", mkdir=True)
        endpoint = _endpoint()
        return S3Store(
            self._bucket,
            region=_region(),
            **({"endpoint": endpoint} if endpoint else {}),
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
                "timeout": f"{REQUEST_TIMEOUT_S}s",
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S)},
        )

    @contextmanager
    def _calling(self, verb: str, key: str) -> Iterator[Any]:
        """Yield obstore, imported on first use, and turn its exceptions into Taxiway's."""
        import obstore
        from obstore.exceptions import BaseError

        _refuse_after_fork()
        try:
            yield obstore
        except (BaseError, OSError, ValueError) as error:
            raise _translated(error, f"{verb} {self.root}/{key}") from error


def _checked(key: str) -> str:
    if not key or any(part in ("", ".", "..") for part in key.split("/")) or not key.isprintable() or "\\" in key:
        raise ConfigurationError(
            f"{key!r} is not a storage key; write a relative path such as raw/flights/2013-01.parquet"
        )
    return key


def _refuse_after_fork() -> None:
    """Refuse a call in a forked child: the threads of obstore's runtime do not survive the fork, and it would never return."""
    global _runtime_pid
    if _runtime_pid not in (None, os.getpid()):
        raise ConfigurationError(
            f"process {os.getpid()} was forked from {_runtime_pid} after {_runtime_pid} had used storage; "
            "use storage only in the child, or start the child with the 'spawn' method"
        )
    _runtime_pid = os.getpid()


def _translated(error: Exception, what: str) -> Exception:
    text = str(error).split("\n\nDebug source")[0].strip()
    status = _STATUS.search(text)
    code = int(status[1]) if status else 0
    if "NoSuchBucket" in text or "InvalidBucketName" in text:
        return ConfigurationError(f"cannot {what}: the bucket does not exist; create it, or correct the address")
    if isinstance(error, FileNotFoundError):
        return ObjectNotFoundError(f"cannot {what}: there is no such object")
    if code in (401, 403) or isinstance(error, PermissionError) or type(error).__name__ == "PermissionDeniedError":
        return ConfigurationError(
            f"cannot {what}: access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy, "
            f"or the folder's permissions ({text[:300]})"
        )
    if isinstance(error, ValueError):
        return ConfigurationError(f"cannot {what}: {text[:300]}")
    if 400 <= code < 500 and code not in (408, 429):
        return ServiceRefusedError(f"cannot {what}: {text[:500]}")
    return ServiceError(f"cannot {what}: {text[:500]}")


def _endpoint() -> str:
    return (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "").rstrip("/")


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
