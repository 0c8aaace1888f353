"""The digest of the judge's source: it says by which rules a verdict was made."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_HERE = Path(__file__).resolve().parent
# What a judgement depends on, besides the types of spec and evidence.
_SOURCES = ("policy.py", "guards.py", "label_guards.py", "wording.py", "series.py", "statistics/*.py")


@cache
def judge_digest() -> str:
    """Return the SHA-256 of the judge's source files, as hexadecimal digits."""
    paths = sorted(path for pattern in _SOURCES for path in _HERE.glob(pattern))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(_HERE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
