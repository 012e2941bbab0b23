"""Snapshots and histories with realistic numbers, for the tests of page and terminal."""

import math
import random

from monitoring.snapshot import (
    Alert,
    CalibrationBin,
    Drift,
    Flow,
    Following,
    History,
    Latency,
    Mark,
    ModelState,
    OutcomeDelay,
    Point,
    Snapshot,
    Training,
)

FIGURES = {
    "classes": {"logloss": 0.2734, "auc": 0.9271, "accuracy": 0.8741, "calibration_error": 0.0093},
    "number": {"squared_error": 3021.4, "absolute_error": 44.21, "r2": 0.4871},
}
COLUMNS = ("age", "visits", "basket", "region", "device", "source", "hour", "weekday", "score")


def empty(now: float) -> Snapshot:
    """Return what the monitor knows before the first request."""
    return Snapshot(now, dataset="visitors", loss="log loss")


def models(champion: int, kind: str, now: float) -> list[ModelState]:
    """Return the champion, one in training, former ones and a rejected one, newest first."""
    figures = FIGURES[kind]
    scale = 1 if kind == "classes" else 300
    found = [ModelState(champion + 1, "training", created="", rows=31_388)]
    why = "worse than model 5: 0.0041 to 0.0102 worse in log loss (95 %) on 2,000 held-out rows"
    for model_id in range(champion, max(champion - 5, -1), -1):
        role = "champion" if model_id == champion else "former"
        role = "rejected" if model_id == champion - 2 else role
        answers = 0 if role == "rejected" else 1_214 + 37 * model_id
        bins = [
            CalibrationBin(scale * p, scale * min(p * 1.04 + 0.01, 1), int(900 * math.exp(-3 * p)))
            for p in (0.03, 0.11, 0.24, 0.38, 0.51, 0.64, 0.79, 0.93)
        ]
        found.append(
            ModelState(
                model_id,
                role,
                why=why if role == "rejected" else "as good as the one before",
                created=f"2026-11-26T04:1{model_id % 10}:09Z",
                trees=94 + model_id,
                rows=29_388 + 250 * model_id,
                answers=answers,
                outcomes=answers * 9 // 10,
                first_answer=now - 900,
                last_answer=now,
                window=min(answers, 1_000),
                figures={
                    name: value * (1 + 0.01 * (champion - model_id))
                    for name, value in figures.items()
                }
                if answers
                else {},
                mean_loss=next(iter(figures.values())) if answers else None,
                calibration=bins if answers else [],
            )
        )
    return found


def running(now: float, champion: int = 7, kind: str = "classes") -> Snapshot:
    """Return what the monitor knows while all goes well."""
    snapshot = empty(now)
    snapshot.started, snapshot.champion = now - 3_540, champion
    snapshot.loss = "log loss" if kind == "classes" else "squared error"
    snapshot.flow = Flow(
        requests=48_210,
        predictions=48_197,
        error_replies=11,
        dead_letters=13,
        outcomes=43_122,
        observations=43_120,
        retrain_requests=8,
        requests_per_second=12.4,
        replies_per_second=12.4,
        outcomes_per_second=11.1,
        unanswered=2,
        oldest_unanswered=0.012,
        group_lag=5,
        errors={"data.age: expected a number": 11, "no JSON object": 2},
    )
    snapshot.latency = Latency(0.0083, 0.0241, 1_000)
    snapshot.outcome_delay = OutcomeDelay(4.8, 31.0, 0.101)
    snapshot.training = Training(7, 1, 0, now - 312)
    snapshot.models = models(champion, kind, now)
    snapshot.drift = [
        Drift(name, 0.004 + 0.003 * n, 0.031 + 0.002 * n, 2_000) for n, name in enumerate(COLUMNS)
    ]
    snapshot.marks = marks(now, champion)
    snapshot.following = Following(0.0, notes=["Model 2 has no card any more."])
    return snapshot


def alarming(now: float) -> Snapshot:
    """Return what the monitor knows when much is wrong."""
    snapshot = running(now)
    snapshot.flow.unanswered, snapshot.flow.oldest_unanswered = 1_204, 97.3
    snapshot.flow.replies_per_second, snapshot.flow.unexpected_replies = 0.0, 3
    for each in snapshot.drift[1:3]:
        each.value, each.drifted, each.since = each.threshold * 3.2, True, now - 240
    snapshot.alerts = [
        Alert("unanswered", "1,204 requests have waited for longer than 30 s.", now - 67),
        Alert("loss", "The log loss is 0.4210, above 0.35.", now - 200),
        Alert("drift", "visits has drifted: 0.1056 of 0.0330.", now - 900, now - 500),
    ]
    snapshot.following = Following(
        3.2,
        120,
        14,
        [
            "120 records were deleted by Kafka before they were read",
            "14 outcomes are of predictions that are not known",
        ],
    )
    snapshot.marks.append(Mark(now - 240, "drift", "visits has drifted"))
    snapshot.marks.append(Mark(now - 67, "alert", "1,204 requests have waited for too long"))
    return snapshot


def marks(now: float, champion: int) -> list[Mark]:
    """Return a training every seven minutes, the last one rejected."""
    found = []
    for back, model_id in enumerate(range(champion, max(champion - 7, 0), -1)):
        time = now - 300 - 430 * back
        found.append(Mark(time, "answers", f"model {model_id} answers", model_id))
        found.append(Mark(time - 2, "promoted", "as good as the one before", model_id))
        found.append(Mark(time - 30, "retrain", "Retrain request", model_id))
    found.append(Mark(now - 900, "rejected", "worse than the champion", champion - 2))
    return sorted(found, key=lambda mark: mark.time)


def histories(now: float, champion: int = 7, kind: str = "classes") -> dict[str, History]:
    """Return an hour of points, the same for all spans in three grains."""
    loss = next(iter(FIGURES[kind].values()))
    found = {}
    for span, interval, length in (("hour", 10, 3540), ("day", 60, 3540), ("all", 120, 3540)):
        begin = (now - length) // interval * interval
        times = [begin + n * interval for n in range(int((now - begin) // interval) + 1)]
        points = [point(time, interval, loss, kind, champion) for time in times]
        found[span] = History(span, interval, points, marks(now, champion))
    return found


def point(time: float, interval: float, loss: float, kind: str, model_id: int) -> Point:
    """Return one interval; the same one for the same time."""
    chance = random.Random(time)
    rate = 12 + 4 * math.sin(time / 400) + chance.gauss(0, 0.7)
    slow = 1 + 2 * (chance.random() < 0.03)
    return Point(
        time,
        requests=int(rate * interval),
        predictions=int(rate * interval),
        errors=int(chance.random() < 0.03),
        outcomes=int(rate * interval * 0.9),
        p50=0.008 * slow + chance.random() * 0.001,
        p99=0.022 * slow + chance.random() * 0.008,
        loss=loss * (1 + chance.gauss(0, 0.05)),
        accuracy=0.874 + chance.gauss(0, 0.015) if kind == "classes" else None,
        unanswered=int(chance.random() < 0.02),
        model_id=model_id,
    )
