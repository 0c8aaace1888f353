"""The late evidence of one release, read again and again. Blocking: call it in a thread."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from operators.core.duck import open_duckdb
from operators.core.errors import ServiceError
from operators.core.loader import INCLUDE
from operators.core.settings import storage_url
from operators.core.spec import ModelSpec
from operators.core.spec_release import Judge
from operators.core.storage import Storage
from operators.rollout.evidence import Moments, Pairs
from operators.rollout.late.business import Cell, Value, moments
from operators.rollout.late.facts import Facts, Late, Numbers, Waiting, longest_wait_s
from operators.rollout.late.labels import Labels, QueryLabels
from operators.rollout.late.log import AnswerLog, Place, to_us
from operators.rollout.late.pairs import Pair, loss_differences, right_or_wrong, settled
from operators.rollout.late.values import Known, business_prefix

MOST_DIFFERENCES = 10_000
"""Loss differences that are kept: a fixed beginning is as valid as the whole, and a record stays small."""
_MEMORY_LIMIT = "256MB"  # beyond it DuckDB spills: a triggerer shares its machine with much else
_FIRST: Place = (-(2**62), 0)
# The replicas of two versions write a pair's rows at different moments; until both must be there, a pair is not looked at.
_WRITING_S = 60.0
_Row = TypeVar("_Row", Pair, Value)


class _Cohort:
    """Answers that wait for something, taken in their order. What was taken stays taken."""

    def __init__(self, within_s: float) -> None:
        self.after = _FIRST
        self.waiting = Waiting()
        self._within_us = to_us(within_s)

    def take(self, rows: Iterator[_Row], now_us: int) -> list[_Row]:
        """Return the rows that are settled and have their label."""
        read = 0

        def counting() -> Iterator[_Row]:
            nonlocal read
            for row in rows:
                read += 1
                yield row

        done, labelled = 0, []
        for row, counts in settled(counting(), now_us=now_us, within_us=self._within_us):
            done += 1
            self.after = (row.at_us, row.request)
            if counts:
                labelled.append(row)
        still_open = read - done + sum(1 for _ in rows)
        before = self.waiting
        self.waiting = Waiting(
            labelled=before.labelled + len(labelled),
            unlabelled=before.unlabelled + done - len(labelled),
            open=still_open,
        )
        return labelled


class Collector:
    """Reads what a release left behind, and what became known of it. Each look reads only what is new.

    Nothing of it must be kept: another collector for the same release finds the same again.

    :param storage: where the prediction log is; default: the settings'
    :param labels: default: the spec's own query
    :param labels_every_s: how often the labels are read; default: by how long a label may take, 30 s to 15 min
    """

    def __init__(
        self,
        spec: ModelSpec,
        facts: Facts,
        *,
        storage: Storage | None = None,
        labels: Labels | None = None,
        labels_every_s: float | None = None,
    ) -> None:
        self._policy: Judge = spec.release.judge
        self._facts = facts
        self._storage = storage or Storage.from_url(storage_url())
        self._labels = labels or _query_labels(spec, self._storage)
        wait_s = longest_wait_s(self._policy)
        self._every_s = min(max(wait_s / 200, 30.0), 900.0) if labels_every_s is None else labels_every_s
        self.writing_s = _WRITING_S + 2 * spec.monitoring.prediction_log.flush_every_s
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="taxiway-late-"))).resolve()
        self._db = self._stack.enter_context(open_duckdb(self._folder))
        self._db.execute(f"SET memory_limit = '{_MEMORY_LIMIT}'")
        self._db.execute("SET threads = 1")
        self._log = AnswerLog(self._storage, facts, self._db, self._folder)
        self._known = {name: Known(self._db, name) for name in ("labels", *self._policy.business)}
        self._cohorts = _cohorts(self._policy)
        self._labels_at_s = -math.inf
        self._pairs = Pairs()
        self._differences: list[float] = []
        self._business: dict[str, dict[Cell, Moments]] = {}

    def look(self, now_s: float) -> Late:
        """Return all late evidence as of now.

        :param now_s: Unix time in seconds
        :raises ServiceError: the storage did not answer; a retry can help
        :raises RejectedError: a file is not what it should be
        :raises ConfigurationError: the labels' query is wrong
        """
        import duckdb

        with self._lock:
            try:
                self._log.refresh(datetime.fromtimestamp(now_s, UTC))
                if now_s - self._labels_at_s >= self._every_s:
                    self._take_pairs(now_s)
                    self._take_business(now_s)
                    self._labels_at_s = now_s
                return self._late()
            except duckdb.Error as error:  # no memory or no disk left: files and queries have errors of their own
                raise ServiceError(f"the late evidence of {self._facts.model} cannot be computed: {error}") from error

    def close(self) -> None:
        """Forget everything, once a look that is under way has ended."""
        with self._lock:
            self._stack.close()

    def _take_pairs(self, now_s: float) -> None:
        cohorts = {name: self._cohorts[name] for name in ("labels", "loss") if name in self._cohorts}
        if not cohorts:
            return
        until_us = to_us(now_s - self.writing_s)
        open_from = min(cohort.after for cohort in cohorts.values())
        span_us = self._log.pairs_between(open_from, until_us)
        if span_us is None:
            return
        path = self._folder / "labels.parquet"
        begin, end = (datetime.fromtimestamp(us / 1e6, UTC) for us in span_us)
        self._labels.write(path, begin=begin, end=end, known_before=datetime.fromtimestamp(now_s, UTC))
        self._known["labels"].replace(path)
        path.unlink()
        for name, cohort in cohorts.items():
            self._add_pairs(name, cohort.take(self._log.pairs(cohort.after, until_us), to_us(now_s)))

    def _add_pairs(self, guard: str, pairs: list[Pair]) -> None:
        if guard == "labels" and self._policy.labels:
            self._pairs = right_or_wrong(pairs, self._policy.labels.threshold, before=self._pairs)
        elif guard == "loss" and self._policy.loss:
            room = MOST_DIFFERENCES - len(self._differences)
            self._differences += islice(loss_differences(pairs, self._policy.loss.largest), room)

    def _take_business(self, now_s: float) -> None:
        since = datetime.fromtimestamp(self._facts.begin_s, UTC)
        until_us = to_us(now_s - self.writing_s)
        for name, guard in self._policy.business.items():
            self._known[name].refresh(
                self._storage, business_prefix(self._facts.model, name), self._folder, since=since
            )
            cohort = self._cohorts[name]
            rows = self._log.values(name, self._facts.spans, cohort.after, until_us)
            self._business[name] = moments(
                cohort.take(rows, to_us(now_s)),
                lowest=guard.lowest,
                highest=guard.highest,
                before=self._business.get(name),
            )

    def _late(self) -> Late:
        predictions = self._log.moments(self._facts.spans) if self._policy.prediction else {}

        def numbers(cell: Cell) -> Numbers:
            business = {name: found[cell] for name, found in self._business.items() if cell in found}
            return Numbers(prediction=predictions.get(cell), business=business)

        return Late(
            arms=tuple((numbers((index, False)), numbers((index, True))) for index in range(len(self._facts.spans))),
            pairs=self._pairs if self._policy.labels else None,
            loss_differences=tuple(self._differences),
            waiting={name: cohort.waiting for name, cohort in self._cohorts.items()},
        )


def collect(
    spec: ModelSpec, facts: Facts, now_s: float, *, storage: Storage | None = None, labels: Labels | None = None
) -> Late:
    """Look once; see `Collector`."""
    collector = Collector(spec, facts, storage=storage, labels=labels)
    try:
        return collector.look(now_s)
    finally:
        collector.close()


def _cohorts(policy: Judge) -> dict[str, _Cohort]:
    guards = {"labels": policy.labels, "loss": policy.loss, **policy.business}
    return {name: _Cohort(guard.within_s) for name, guard in guards.items() if guard}


def _query_labels(spec: ModelSpec, storage: Storage) -> Labels:
    sql = (INCLUDE / spec.data.query).read_text(encoding="utf-8")
    return QueryLabels(storage, spec.data, sql, within_s=longest_wait_s(spec.release.judge))
