"""Versions that a release has rejected. They, and the same model under another number, are not released again until a
person lifts the quarantine.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from operators.core.errors import RejectedError, ServiceRefusedError
from operators.core.frozen import Frozen
from operators.core.ledger_entry import Entry
from operators.core.rows import QuarantinedRow, QuarantineLiftedRow, read
from operators.registry.client import ModelVersion, Registry
from operators.registry.server import is_missing

if TYPE_CHECKING:
    from operators.core.ledger import Ledger

DIGEST_TAG = "taxiway.model_digest"  # SHA-256 of the model's files: the same bytes are the same model
KINDS = (QuarantinedRow.KIND, QuarantineLiftedRow.KIND)


class QuarantinedError(RejectedError):
    """A version is in quarantine."""


class Quarantined(Frozen):
    """One version in quarantine.

    :param digest: of the model; empty: not known
    :param release_id: of the release that rejected it; None: a person rejected it
    """

    version: str
    digest: str
    release_id: str | None
    reason: str
    at: datetime

    def covers(self, version: str, digest: str) -> bool:
        """Say whether it keeps a version from being released: the same number, or the same model."""
        return self.version == version or (digest != "" and self.digest == digest)


def standing(entries: Iterable[Entry]) -> tuple[Quarantined, ...]:
    """Return what is in quarantine after these rows of one model, oldest first.

    :param entries: rows of `KINDS`, oldest first
    """
    kept: list[Quarantined] = []
    for entry in entries:
        row = read(entry)
        if isinstance(row, QuarantinedRow):
            fields = {"version": row.version, "digest": row.model_digest, "reason": row.reason}
            kept.append(Quarantined(release_id=entry.release_id, at=entry.at, **fields))
        elif isinstance(row, QuarantineLiftedRow):
            kept = [one for one in kept if not one.covers(row.version, row.model_digest)]
    return tuple(kept)


def digest_of(registry: Registry, version: ModelVersion) -> str:
    """Return the digest of a version's model: its own tag, or its training run's; empty if there is neither."""
    if digest := version.tags.get(DIGEST_TAG):
        return digest
    return registry.run(version.run_id)[1].get(DIGEST_TAG, "") if version.run_id else ""


class Quarantine:
    """The quarantine of one model.

    :param model: name of the registered model
    """

    def __init__(self, model: str, ledger: Ledger, registry: Registry) -> None:
        self._model = model
        self._ledger = ledger
        self._registry = registry

    def standing(self) -> tuple[Quarantined, ...]:
        """Return what is in quarantine, oldest first."""
        return standing(self._ledger.entries(self._model, kind=KINDS))

    def require_free(self, version: ModelVersion) -> None:
        """Do nothing, unless a version is in quarantine.

        :raises QuarantinedError: it is, or another version with the same model
        """
        if not (standing := self.standing()):
            return
        digest = digest_of(self._registry, version)
        for one in standing:
            if one.covers(version.version, digest):
                same = "" if one.version == version.version else f", which is the same model as version {one.version},"
                raise QuarantinedError(
                    f"version {version.version} of {self._model}{same} was rejected on {one.at:%Y-%m-%d %H:%M} UTC: "
                    f"{one.reason}. To release it anyway, give a reason: "
                    f"taxiway quarantine lift {self._model} {version.version} --reason …"
                )

    def put(self, version: str, reason: str, *, key: str, release_id: str | None = None) -> Entry:
        """Put a version in quarantine, once for each key.

        :param release_id: the release that rejects it; it must hold the model
        """
        row = QuarantinedRow(version=version, model_digest=self._digest(version), reason=reason)
        return self._ledger.append(self._model, row, key=key, release_id=release_id)

    def lift(self, version: str, *, by: str, reason: str, key: str) -> Entry | None:
        """Let a version be released again, and every other with the same model.

        :param by: who decides
        :returns: the row; None if nothing kept it
        """
        digest = self._digest(version)
        known = self._ledger.entry(key)
        if known is not None or not any(one.covers(version, digest) for one in self.standing()):
            return known
        row = QuarantineLiftedRow(version=version, model_digest=digest, by=by, reason=reason)
        return self._ledger.append(self._model, row, key=key)

    def _digest(self, version: str) -> str:
        """Return the digest of a version's model; empty if MLflow no longer has the version."""
        try:
            return digest_of(self._registry, self._registry.version(self._model, version))
        except ServiceRefusedError as error:
            if is_missing(error):
                return ""
            raise
