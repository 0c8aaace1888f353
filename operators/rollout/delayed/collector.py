"""Collects the late evidence of one release. Its calls block: make them in a thread."""

from __future__ import annotations

import math
import tempfile
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from operators.core.duck import open_duckdb
from operators.core.errors import ServiceError
from operators.core.loader import INCLUDE
from operators.core.settings import storage_url
from operators.core.spec import ModelSpec, prediction_spec
from operators.core.spec_judge import Judge, LabelsGuard, Loss
from operators.core.storage import Storage
from operators.feedback.arrivals import ArrivalTable, business_prefix
from operators.feedback.labels import LabelSource, QueryLabels
from operators.judge.evidence import Losses, Moments, Pairs
from operators.rollout.delayed.answers import AnswerLog, to_us
from operators.rollout.delayed.business import Cell, Cohort, moments
from operators.rollout.delayed.pairs import ErrorDifference, Measure, PairTally, RightOrWrong
from operators.rollout.delayed.window import ArmNumbers, LateEvidence, ReleaseWindow, longest_wait_s

_MEMORY_LIMIT = "256MB"  # beyond it DuckDB spills to disk: a triggerer shares its machine with much else
# Two replicas write a pair's rows at different moments. A pair counts only once both rows must have been written.
_WRITING_S = 60.0


class Collector:
    """Reads the answers of a release with their labels and business numbers. Each look reads only what is new.

    A collector can be lost: a new one for the same release returns the same evidence.

    :param storage: where the prediction log is; default: the settings' storage
    :param labels: default: the spec's own query
    :param labels_every_s: seconds between two readings of the labels; default: 30 s to 15 min, longer if labels take longer
    """

    def __init__(
        self,
        spec: ModelSpec,
        window: ReleaseWindow,
        *,
        storage: Storage | None = None,
        labels: LabelSource | None = None,
        labels_every_s: float | None = None,
    ) -> None:
        self._policy: Judge = spec.release.judge
<<<<<<< HEAD
        self._window = window
        self._storage = storage or Storage.from_url(storage_url())
=======
        self._facts = facts
        self._storage = storage or Storage(storage_url())
>>>>>>> c2
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
        self._log = AnswerLog(self._storage, window, self._db, self._folder)
        self._arrivals = {name: ArrivalTable(self._db, name) for name in ("labels", *self._policy.business)}
        self._tallies = _tallies(self._policy, window)
        self._cohorts = {name: Cohort(to_us(guard.within_s)) for name, guard in self._policy.business.items()}
        self._labels_at_s = -math.inf
        self._business: dict[str, dict[Cell, Moments]] = {}

    def look(self, now_s: float) -> LateEvidence:
        """Return all late evidence up to now.

        :param now_s: Unix time in seconds
        :raises ServiceError: the storage did not answer; a retry can help
        :raises RejectedError: a file cannot be read, lacks a column or has another type in it
        :raises ConfigurationError: the query for the labels is wrong
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
            except duckdb.Error as error:  # out of memory or disk: other errors have been translated already
                raise ServiceError(f"the late evidence of {self._window.model} cannot be computed: {error}") from error

    def close(self) -> None:
        """Wait for a look that is under way, then delete the local files."""
        with self._lock:
            self._stack.close()

    def _take_pairs(self, now_s: float) -> None:
        if not self._tallies:
            return
        until_us = to_us(now_s - self.writing_s)
        open_from = min(tally.after for tally in self._tallies)
        span_us = self._log.pairs_between(open_from, until_us)
        if span_us is None:
            return
        path = self._folder / "labels.parquet"
        begin, end = (datetime.fromtimestamp(us / 1e6, UTC) for us in span_us)
        self._labels.write(path, begin=begin, end=end, known_before=datetime.fromtimestamp(now_s, UTC))
        self._arrivals["labels"].replace(path)
        path.unlink()
        for tally in self._tallies:
            tally.take(self._log.pairs(tally.after, until_us), now_us=to_us(now_s), until_us=until_us)

    def _take_business(self, now_s: float) -> None:
        since = datetime.fromtimestamp(self._window.begin_s, UTC)
        until_us = to_us(now_s - self.writing_s)
        for name, guard in self._policy.business.items():
            prefix = business_prefix(self._window.model, name)
            self._arrivals[name].refresh(self._storage, prefix, self._folder, since=since)
            cohort = self._cohorts[name]
            rows = self._log.values(name, self._window.spans, cohort.after, until_us)
            self._business[name] = moments(
                cohort.take(rows, to_us(now_s)),
                lowest=guard.lowest,
                highest=guard.highest,
                before=self._business.get(name),
            )

    def _late(self) -> LateEvidence:
        predictions = self._log.moments(self._window.spans) if self._policy.prediction else {}

        def numbers(cell: Cell) -> ArmNumbers:
            business = {name: cells[cell] for name, cells in self._business.items() if cell in cells}
            return ArmNumbers(prediction=predictions.get(cell), business=business)

        tallied = [tally.evidence for tally in self._tallies]
        return LateEvidence(
            arms=tuple((numbers((index, False)), numbers((index, True))) for index in range(len(self._window.spans))),
            pairs=next((evidence for evidence in tallied if isinstance(evidence, Pairs)), None),
            losses=next((evidence for evidence in tallied if isinstance(evidence, Losses)), None),
        )


def _tallies(policy: Judge, window: ReleaseWindow) -> list[PairTally]:
    guards: list[tuple[LabelsGuard | Loss, Measure]] = []
    if policy.labels:
        guards.append((policy.labels, RightOrWrong(policy.labels.threshold)))
    if policy.loss:
        guards.append((policy.loss, ErrorDifference(policy.loss.largest)))
    return [
        PairTally(
            measure,
            begin_us=to_us(window.begin_s),
            block_us=to_us(guard.block_s) if guard.block_s else None,
            within_us=to_us(guard.within_s),
        )
        for guard, measure in guards
    ]


def _query_labels(spec: ModelSpec, storage: Storage) -> LabelSource:
    data = prediction_spec(spec).data
    sql = (INCLUDE / data.query).read_text(encoding="utf-8")
    return QueryLabels(storage, data, sql, within_s=longest_wait_s(spec.release.judge))
