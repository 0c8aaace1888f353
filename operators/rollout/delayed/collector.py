"""The late evidence of one release, read again and again. Blocking: call it in a thread."""

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
from operators.feedback.arrivals import Known, business_prefix
from operators.feedback.labels import Labels, QueryLabels
from operators.judge.evidence import Losses, Moments, Pairs
from operators.rollout.delayed.answers import AnswerLog, to_us
from operators.rollout.delayed.business import Cell, Cohort, moments
from operators.rollout.delayed.pairs import ErrorDifference, Measure, PairTally, RightOrWrong
from operators.rollout.delayed.window import Facts, Late, Numbers, longest_wait_s

_MEMORY_LIMIT = "256MB"  # beyond it DuckDB spills: a triggerer shares its machine with much else
# The replicas of two versions write a pair's rows at different moments; until both must be there, a pair does not count.
_WRITING_S = 60.0


class Collector:
    """Reads the answers of a release, and what became known of them. Each look reads only what is new.

    It need not be kept: another collector for the same release returns the same evidence.

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
        self._storage = storage or Storage(storage_url())
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
        self._tallies = _tallies(self._policy, facts)
        self._cohorts = {name: Cohort(to_us(guard.within_s)) for name, guard in self._policy.business.items()}
        self._labels_at_s = -math.inf
        self._business: dict[str, dict[Cell, Moments]] = {}

    def look(self, now_s: float) -> Late:
        """Return all late evidence that there is by now.

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
        if not self._tallies:
            return
        until_us = to_us(now_s - self.writing_s)
        open_from = min(tally.after for tally in self._tallies.values())
        span_us = self._log.pairs_between(open_from, until_us)
        if span_us is None:
            return
        path = self._folder / "labels.parquet"
        begin, end = (datetime.fromtimestamp(us / 1e6, UTC) for us in span_us)
        self._labels.write(path, begin=begin, end=end, known_before=datetime.fromtimestamp(now_s, UTC))
        self._known["labels"].replace(path)
        path.unlink()
        for tally in self._tallies.values():
            tally.take(self._log.pairs(tally.after, until_us), now_us=to_us(now_s), until_us=until_us)

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
            business = {name: cells[cell] for name, cells in self._business.items() if cell in cells}
            return Numbers(prediction=predictions.get(cell), business=business)

        return Late(
            arms=tuple((numbers((index, False)), numbers((index, True))) for index in range(len(self._facts.spans))),
            pairs=pairs if isinstance(pairs := self._evidence("labels"), Pairs) else None,
            losses=losses if isinstance(losses := self._evidence("loss"), Losses) else None,
        )

    def _evidence(self, guard: str) -> Pairs | Losses | None:
        return self._tallies[guard].evidence if guard in self._tallies else None


def _tallies(policy: Judge, facts: Facts) -> dict[str, PairTally]:
    tallies = {}
    if policy.labels:
        tallies["labels"] = _tally(policy.labels, RightOrWrong(policy.labels.threshold), facts)
    if policy.loss:
        tallies["loss"] = _tally(policy.loss, ErrorDifference(policy.loss.largest), facts)
    return tallies


def _tally(guard: LabelsGuard | Loss, measure: Measure, facts: Facts) -> PairTally:
    return PairTally(
        measure,
        begin_us=to_us(facts.begin_s),
        block_us=to_us(guard.block_s) if guard.block_s else None,
        within_us=to_us(guard.within_s),
    )


def _query_labels(spec: ModelSpec, storage: Storage) -> Labels:
    data = prediction_spec(spec).data
    sql = (INCLUDE / data.query).read_text(encoding="utf-8")
    return QueryLabels(storage, data, sql, within_s=longest_wait_s(spec.release.judge))
