"""How long labels that come late take to show that a version is worse: real flights, two models, the judge, time order.

A model is trained on the winter's flights; the flights of spring are asked about one hour before each departure, and a label is
known when its flight has arrived. Beside the stable model stand candidates of a known difference:

``retrained``: the same data, another depth: hardly a difference.
``flipped``: a part of the training labels was turned round.
``poor``: without weather and time of day.
``pessimist``: says "late" sooner. It errs more on flights that are in time, less on those that are late.

``order``: why the order of labels is kept. A canary that is exactly as accurate as stable errs on flights that are in time where
stable errs on late ones, of which nothing is known for longer. The flights are drawn at random, twenty for each real one, so
that nothing but the delay of labels can make a difference. ``false_alarms``: how many of the runs the judge would roll back.

Flights of one day share their weather, so one day is one block of the guard. ``days``: how much the candidates differ from day to
day, beyond what chance makes of so many flights.

``paired``: a shadow answers what stable answers; the evidence is read from a prediction log by `Collector`, a beginning of the
answers counts, and the judge decides by `labels`. ``one_by_one``: the same with ``block: none``: each pair speaks for itself.
``unpaired``, the reference: half of the flights each, wrong answers are bad events, the same margin and the same alpha.
``there``: pairs one by one, but whichever labels are there are taken at once, without the order.

Prints JSON. For each candidate and way: verdicts over the starts, median labels and hours until the verdict; labels of the
unpaired way are those of both arms. An undecided replay counts with all that it had.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from operators.core.dataset import Window, build, snapshot
from operators.core.loader import INCLUDE, load_specs
from operators.core.predictions import hour_prefix
from operators.core.spec import PredictionSpec
from operators.core.spec_judge import Judge
from operators.core.spec_release import Shadow
from operators.core.storage import Storage
from operators.demo.seed import seed_flights
from operators.judge.evidence import Arm, Evidence, Outcome, Pairs, Period
from operators.judge.policy import judge
from operators.judge.statistics import ownership
from operators.rollout.delayed.collector import Collector
from operators.rollout.delayed.pairs import Pair, PairTally, RightOrWrong, label_counts
from operators.rollout.delayed.window import Facts

TRAIN = (datetime(2013, 1, 1), datetime(2013, 4, 1))
REPLAY = (datetime(2013, 4, 1), datetime(2013, 7, 1))
AHEAD = timedelta(hours=1)
WITHIN_S = 18 * 3600.0
LOOK_EVERY_S = 3 * 3600.0
MARGIN_PCT = 1.0
BAKE_S = 7 * 86400.0  # least time before a success; blocks alone would say so after five days
STABLE = "1"
CATEGORIES = ("carrier", "origin", "dest")
WEATHER_AND_TIME = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib", "dep_minute")


@dataclass
class World:
    """The flights of spring in the order in which they are asked about, and what each model says of them."""

    storage: Storage
    spec: PredictionSpec
    ids: list[str]
    at_us: Any
    label: Any
    arrived_us: Any
    said: dict[str, Any]
    labels_path: Path

    def write(self, out: Path, *, begin: datetime, end: datetime, known_before: datetime) -> None:
        """Be the source of labels; see `LabelSource`."""
        known = (pc.field("arrived_at") <= known_before) & (pc.field("arrived_at") >= begin)
        pq.write_table(pq.read_table(self.labels_path, filters=known), out)


def flights(storage: Storage, spec: PredictionSpec, window: tuple[datetime, datetime]) -> pa.Table:
    frozen = snapshot(spec.data.tables, Window(start=window[0], end=window[1]), storage, "snapshots")
    sql = (INCLUDE / spec.data.query).read_text()
    data = build(frozen, sql, {"as_of": datetime(2014, 1, 1)}, storage=storage, prefix="datasets")
    with tempfile.TemporaryDirectory() as folder:
        return pq.read_table(storage.download(data.key, Path(folder) / "d.parquet"))


def matrix(table: pa.Table, features: list[str], codes: dict[str, dict[str, int]]) -> Any:
    columns = [
        [codes[name].get(value, -1) for value in table[name].to_pylist()]
        if name in CATEGORIES
        else table[name].to_numpy()
        for name in features
    ]
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])


def train(table: pa.Table, features: list[str], codes: Any, *, depth: int, flipped: float = 0.0) -> Any:
    import xgboost

    known = table.filter(pc.is_valid(table["label"]))
    label = known["label"].to_numpy(zero_copy_only=False).astype(float)
    turned = np.random.default_rng(1).random(len(label)) < flipped
    data = xgboost.DMatrix(matrix(known, features, codes), label=np.where(turned, 1 - label, label))
    parameters = {"objective": "binary:logistic", "max_depth": depth, "eta": 0.2, "nthread": 2, "seed": 7}
    return xgboost.train(parameters, data, 60)


def world(folder: Path) -> World:
    import xgboost

    spec = load_specs()[0][0]
    storage = Storage((folder / "storage").as_uri())
    seed_flights(storage, months=range(1, 7))
    before, after = flights(storage, spec, TRAIN), flights(storage, spec, REPLAY)
    codes = {
        name: {value: code for code, value in enumerate(sorted(set(before[name].to_pylist())))} for name in CATEGORIES
    }
    every = list(spec.features)
    poor = [name for name in every if name not in WEATHER_AND_TIME]
    models = {
        "stable": (every, train(before, every, codes, depth=6)),
        "retrained": (every, train(before, every, codes, depth=5)),
        "flipped": (every, train(before, every, codes, depth=6, flipped=0.35)),
        "poor": (poor, train(before, poor, codes, depth=6)),
    }
    said = {
        name: model.predict(xgboost.DMatrix(matrix(after, features, codes))).astype(float)
        for name, (features, model) in models.items()
    }
    said["pessimist"] = np.minimum(said["stable"] + 0.12, 1.0)
    label = np.array([np.nan if v is None else float(v) for v in after["label"].to_pylist()])
    arrived = np.array([-1 if v is None else us(v) for v in after["label_time"].to_pylist()])
    at = np.array([us(v - AHEAD) for v in after["event_time"].to_pylist()])
    known = after.filter(pc.is_valid(after["label"]))
    table = pa.table(
        {
            "id": known["flight_id"],
            "label": known["label"].cast(pa.float64()),
            "arrived_at": known["label_time"].cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
        }
    )
    path = folder / "labels.parquet"
    pq.write_table(table, path)
    found = World(storage, spec, after["flight_id"].to_pylist(), at, label, arrived, said, path)
    for version, (name, values) in enumerate(said.items(), start=1):
        keep(found, str(version), "stable" if name == "stable" else "shadow", values)
    return found


def us(value: datetime) -> int:
    return int(value.replace(tzinfo=UTC).timestamp() * 1e6)


def keep(world: World, version: str, arm: str, values: Any) -> None:
    """Write a version's log, one file an hour."""
    hours = world.at_us // 3_600_000_000
    for hour in np.unique(hours):
        mine = np.flatnonzero(hours == hour)
        ids = [world.ids[i] for i in mine]
        table = pa.table(
            {
                "request_id": ids,
                "row": pa.array([0] * len(ids), pa.int64()),
                "unit": ids,
                "arm": [arm] * len(ids),
                "weight_bp": pa.array([0] * len(ids), pa.int16()),
                "predicted_at": pa.array(world.at_us[mine], pa.timestamp("us", "UTC")),
                "prediction": values[mine],
            }
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        prefix = hour_prefix(world.spec.name, version, datetime.fromtimestamp(int(hour) * 3600, UTC))
        world.storage.put_bytes(f"{prefix}/all.parquet", sink.getvalue().to_pybytes())


def policy(guard: str, alpha: float, block: str = "1d") -> Judge:
    given: dict[str, Any] = {"alpha": alpha, "failures": None, "slow": None, "max_wait": "52w"}
    if guard == "labels":
        given["labels"] = {"margin_pct": MARGIN_PCT, "within": f"{WITHIN_S:.0f}s", "block": block}
    else:
        given["failures"] = {"margin_pct": MARGIN_PCT}
    return Judge.model_validate(given)


def verdict(rules: Judge, looks: Iterator[tuple[float, int, Evidence]], bake_s: float) -> dict[str, Any]:
    """Look until the judge has a verdict."""
    worst, hours, labels, outcome = 1.0, 0.0, 0, Outcome.CONTINUE
    for look in looks:
        hours, labels, evidence = look
        said = judge(rules, evidence, elapsed_s=hours * 3600, bake_s=bake_s, min_requests=0)
        worst = max(worst, *(reading.e for reading in said.guards.values()))
        outcome = said.outcome
        if outcome is not Outcome.CONTINUE:
            break
    return {"outcome": outcome.value, "labels": labels, "hours": hours, "e": worst}


def times(begin_us: int, days: float) -> Iterator[tuple[float, float]]:
    for step in range(1, int(days * 86400 / LOOK_EVERY_S) + 1):
        yield step * LOOK_EVERY_S / 3600, begin_us / 1e6 + step * LOOK_EVERY_S


def paired(world: World, candidate: str, begin_us: int, days: float, costs: list[float]) -> Iterator[Any]:
    version = str(1 + list(world.said).index(candidate))
    rules = policy("labels", 0.01)
    release = world.spec.release.model_copy(
        update={"judge": rules, "shadow": Shadow.model_validate({"sample_pct": 100.0, "bake": "1h"})}
    )
    facts = Facts(model=world.spec.name, stable=STABLE, canary=version, begin_s=begin_us / 1e6)
    spec = world.spec.model_copy(update={"release": release})
    collector = Collector(spec, facts, storage=world.storage, labels=world)
    try:
        for hours, now_s in times(begin_us, days):
            began = time.perf_counter()
            found = collector.look(now_s).pairs
            costs.append(time.perf_counter() - began)
            assert found is not None
            yield hours, found.total, Evidence(pairs=found)
    finally:
        collector.close()


def rows(world: World, candidate: str, begin_us: int, days: float) -> list[Pair]:
    chosen = np.flatnonzero((world.at_us >= begin_us) & (world.at_us < begin_us + days * 86400e6))
    stable, canary = world.said["stable"], world.said[candidate]
    return [
        Pair(
            int(world.at_us[i]), int(i), float(stable[i]), float(canary[i]), *(
                (None, None) if world.arrived_us[i] < 0 else (float(world.label[i]), int(world.arrived_us[i]))
            ),
        )
        for i in chosen
    ]  # fmt: skip


def one_by_one(world: World, candidate: str, begin_us: int, days: float) -> Iterator[Any]:
    """Pairs in their order."""
    given = rows(world, candidate, begin_us, days)
    tally = PairTally(RightOrWrong(0.5), begin_us=begin_us, block_us=None, within_us=int(WITHIN_S * 1e6))
    times_us = [pair.at_us for pair in given]
    taken = 0
    for hours, now_s in times(begin_us, days):
        end = bisect_right(times_us, now_s * 1e6)
        taken = bisect_right(given, tally.after, lo=taken, key=lambda pair: (pair.at_us, pair.request))
        tally.take(given[taken:end], now_us=int(now_s * 1e6), until_us=int(now_s * 1e6))
        assert isinstance(tally.evidence, Pairs)
        yield hours, tally.evidence.total, Evidence(pairs=tally.evidence)


def unpaired(world: World, candidate: str, begin_us: int, days: float) -> Iterator[Any]:
    """Half of the flights each; the same order of labels."""
    given = rows(world, candidate, begin_us, days)
    coin = np.random.default_rng(begin_us // 1_000_000).random(len(world.ids)) < 0.5
    counts, place = {True: [0, 0], False: [0, 0]}, 0
    for hours, now_s in times(begin_us, days):
        for pair in given[place:]:
            known = label_counts(pair, now_us=int(now_s * 1e6), within_us=int(WITHIN_S * 1e6))
            if known is None:
                break
            place += 1
            if known:
                to_canary = bool(coin[pair.request])
                yes = (pair.canary if to_canary else pair.stable) >= 0.5
                counts[to_canary][0] += 1
                counts[to_canary][1] += yes != (pair.label == 1.0)
        arms = {side: Arm(requests=n, failed=wrong) for side, (n, wrong) in counts.items()}
        yield (
            hours,
            counts[True][0] + counts[False][0],
            Evidence(periods=(Period(weight=0.5, canary=arms[True], stable=arms[False]),)),
        )


def there(world: World, candidate: str, begin_us: int, days: float) -> Iterator[Any]:
    """Pairs, by whichever labels are there."""
    given = rows(world, candidate, begin_us, days)
    given.sort(key=lambda pair: np.inf if pair.arrived_us is None else pair.arrived_us)
    arrivals = [pair.arrived_us for pair in given if pair.arrived_us is not None]
    tally, place = PairTally(RightOrWrong(0.5), begin_us=begin_us, block_us=None, within_us=2**62), 0
    for hours, now_s in times(begin_us, days):
        end = bisect_right(arrivals, now_s * 1e6)
        tally.take(given[place:end], now_us=2**61, until_us=2**61)
        assert isinstance(tally.evidence, Pairs)
        yield hours, tally.evidence.total, Evidence(pairs=tally.evidence)
        place = end


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "verdicts": dict(Counter(one["outcome"] for one in found)),
        "median_labels": statistics.median(one["labels"] for one in found),
        "median_hours": statistics.median(one["hours"] for one in found),
        "largest_e": float(f"{max(one['e'] for one in found):.3g}"),
    }


def facts_of(world: World, candidate: str) -> dict[str, float]:
    known = world.arrived_us >= 0
    truth = world.label[known] == 1.0
    right = {name: (world.said[name][known] >= 0.5) == truth for name in ("stable", candidate)}
    late = truth
    return {
        "accuracy": round(float(right[candidate].mean()), 4),
        "accuracy_lost_points": round(100 * float(right["stable"].mean() - right[candidate].mean()), 2),
        "lost_points_in_time": round(100 * float(right["stable"][~late].mean() - right[candidate][~late].mean()), 2),
        "lost_points_late": round(100 * float(right["stable"][late].mean() - right[candidate][late].mean()), 2),
        "discordant_pct": round(100 * float((right["stable"] != right[candidate]).mean()), 2),
    }


def order(world: World, runs: int, days: float = 2.0, traffic: int = 20) -> dict[str, Any]:
    """Compare the ways to take labels on versions that are equally good."""
    known = np.flatnonzero(world.arrived_us >= 0)
    truth, right = world.label[known] == 1.0, (world.said["stable"][known] >= 0.5) == (world.label[known] == 1.0)
    delay_us = (world.arrived_us - world.at_us)[known]
    rng = np.random.default_rng(3)
    size = round(0.03 * len(known))
    canary_only, stable_only = np.zeros(len(known), bool), np.zeros(len(known), bool)
    canary_only[rng.choice(np.flatnonzero(~truth & right), size, replace=False)] = True
    stable_only[rng.choice(np.flatnonzero(truth & ~right), size, replace=False)] = True
    slots = np.repeat(world.at_us[world.at_us < world.at_us[0] + days * 86400e6], traffic)
    threshold = np.log(1 / 0.01)
    alarms = {"in_order": 0, "there": 0}
    for _ in range(runs):
        drawn = rng.choice(len(known), len(slots))
        worse, better, arrived = canary_only[drawn], stable_only[drawn], slots + delay_us[drawn]
        alarmed = dict.fromkeys(alarms, False)
        for now in np.arange(slots[0], slots[0] + days * 86400e6, 3600e6):
            for way, (taken, awaited) in taken_at(now, slots, arrived, worse | better).items():
                alarmed[way] |= log_e(int(worse[taken].sum()), int(better[taken].sum()) + awaited) >= threshold
        alarms = {way: count + int(alarmed[way]) for way, count in alarms.items()}
    return {"runs": runs, "days": days, "flights": len(slots), "alpha": 0.01, "false_alarms": alarms}


def taken_at(now: float, at: Any, arrived: Any, differ: Any) -> dict[str, tuple[Any, int]]:
    """Return which labels count, and how many that may still come are taken for the canary."""
    closes = at + WITHIN_S * 1e6
    counts = arrived <= np.minimum(now, closes)
    waits = ~counts & (closes > now)
    # As `PairTally` does: the longest beginning that is worth its missing labels.
    worth = np.cumsum(np.where(differ & (at <= now), np.where(counts, 1, np.where(waits, -7, 0)), 0))
    worth = worth[: int(np.searchsorted(at, now, side="right"))]
    end = len(worth) - int(np.argmax(worth[::-1])) if len(worth) and worth.max() >= 0 else 0
    awaited = int((waits & differ)[:end].sum())
    return {"in_order": (np.flatnonzero(counts[:end]), awaited), "there": (np.flatnonzero(arrived <= now), 0)}


@cache
def log_e(worse: int, better: int) -> float:
    return ownership.log_e([ownership.Events(worse, better, 0.5)], prior=ownership.PAIRS)


def by_days(world: World, candidate: str) -> dict[str, float]:
    """Say how much the candidate's loss differs from day to day."""
    known = world.arrived_us >= 0
    truth, day = world.label == 1.0, (world.at_us - world.at_us[0]) // 86_400_000_000
    right = {name: (world.said[name] >= 0.5) == truth for name in ("stable", candidate)}
    lost = right["stable"].astype(int) - right[candidate]
    days = [lost[known & (day == one)] for one in np.unique(day)]
    days = [one for one in days if len(one) >= 100]
    means, chance = np.array([one.mean() for one in days]), np.array([one.var() / len(one) for one in days])
    between = max(0.0, float(means.var(ddof=1) - chance.mean())) ** 0.5
    return {
        "sd_points": round(100 * between, 2),
        "worst": round(100 * float(means.max()), 1),
        "best": round(100 * float(means.min()), 1),
    }


def measure(world: World, starts: int, days: float, runs: int) -> dict[str, Any]:
    first, last = us(REPLAY[0]), us(REPLAY[1]) - int((days + 1) * 86400e6)
    begins = [int(first + (last - first) * number / max(1, starts - 1)) for number in range(starts)]
    costs: list[float] = []
    ways: dict[str, tuple[Judge, Callable[[str, int], Iterator[Any]]]] = {
        "paired": (policy("labels", 0.01), lambda name, begin: paired(world, name, begin, days, costs)),
        "one_by_one": (policy("labels", 0.01, "none"), lambda name, begin: one_by_one(world, name, begin, days)),
        "there": (policy("labels", 0.01, "none"), lambda name, begin: there(world, name, begin, days)),
        "unpaired": (policy("failures", 0.01), lambda name, begin: unpaired(world, name, begin, days)),
    }
    found: dict[str, Any] = {}
    for name in list(world.said)[1:]:
        found[name] = {**facts_of(world, name), "days": by_days(world, name)}
        for way, (rules, looks) in ways.items():
            found[name][way] = summary([verdict(rules, looks(name, begin), BAKE_S) for begin in begins])
    return {
        "flights_a_day": round(len(world.ids) / ((REPLAY[1] - REPLAY[0]) / timedelta(days=1))),
        "margin_points": MARGIN_PCT,
        "alpha": 0.01,
        "within_h": WITHIN_S / 3600,
        "starts": starts,
        "days": days,
        "bake_days": BAKE_S / 86400,
        "look_ms": {"median": round(1000 * statistics.median(costs), 1), "largest": round(1000 * max(costs), 1)},
        "candidates": found,
        "order": order(world, runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=8, help="replays of each candidate, from different days")
    parser.add_argument("--days", type=float, default=30.0, help="longest replay")
    parser.add_argument("--runs", type=int, default=200, help="of versions that are equally good")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="taxiway-late-labels-") as folder:
        print(json.dumps(measure(world(Path(folder)), given.starts, given.days, given.runs), indent=2))


if __name__ == "__main__":
    main()
