"""The monitor's figures equal an offline computation, in whatever order the topics are read, and
however often it is killed."""

import json
import math
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from monitoring.figures import model_figures, table
from monitoring.figures.curves import SPANS
from monitoring.figures.database import Database
from monitoring.figures.models_view import Models
from monitoring.figures.state import State
from monitoring.figures.view import snapshot
from tests.harness.offline_curves import Answered, never_of, points_of
from utils.datasets import dataset
from utils.kafka_client.records import Position
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC

NOW = 1_800_000_000.0
START = int(NOW - 60) * 1000  # ms
WINDOW = 5
DATA = {
    "age": 25, "workclass": "Private", "fnlwgt": 226802, "education": "11th",
    "marital_status": "Never-married", "occupation": "Machine-op-inspct",
    "relationship": "Own-child", "race": "Black", "gender": "Male", "capital_gain": 0,
    "capital_loss": 0, "hours_per_week": 40, "native_country": "United-States",
}  # fmt: skip
LABELS = ["<=50K", ">50K"]

KINDS = ["request", "request", "request", "prediction", "prediction", "error", "invalid"]


def messages(chance: random.Random, number: int, kinds: list[str]) -> list[tuple]:
    """Return random messages: (kind, request_id, ms around a minute ago, content)."""
    return [
        (kind, chance.choice("abcdef"), chance.randint(-30_000, 30_000), content(chance, kind))
        for kind in (chance.choice(kinds) for _ in range(number))
    ]


def content(chance: random.Random, kind: str):
    """Return an outcome, or a model and a probability."""
    if kind == "prediction":
        return chance.randint(0, 1), chance.uniform(0.01, 0.99)
    return chance.choice({"request": [None, 0, 1], "outcome": [0, 1]}.get(kind, [None]))


def value_of(kind: str, name: str, content) -> bytes:
    message = {"request_id": name}
    if kind == "request":
        label = {} if content is None else {"income_bracket": LABELS[content]}
        message["data"] = DATA | label
    elif kind == "invalid":
        message["data"] = {"age": "old"}
    elif kind == "prediction":
        model_id, probability = content
        message |= {"prediction": 1.0, "probability": probability, "model_id": model_id}
    elif kind == "error":
        message["error"] = "data: is missing"
    else:
        message["outcome"] = LABELS[content]
    return json.dumps(message).encode()


def record(topic: str, partition: int, offset: int, time: int, value: bytes) -> ConsumerRecord:
    fields = dict.fromkeys(ConsumerRecord._fields) | {"headers": []}
    fields |= {"topic": topic, "partition": partition, "offset": offset}
    return ConsumerRecord(**fields | {"timestamp": START + time, "value": value})


def records_of(topic: str, partition: int, sent: list) -> list[ConsumerRecord]:
    return [
        record(topic, partition, offset, time, value_of(kind, name, content))
        for offset, (kind, name, time, content) in enumerate(sent)
    ]


def offline(partitions: dict[int, list], reported: list) -> dict:
    """Compute the figures from lists of messages, in the simplest way."""
    answers, was_valid, waits, unexpected = [], [], [], 0
    for partition, sent in partitions.items():
        waiting = {"request": defaultdict(list), "invalid": defaultdict(list)}
        for offset, (kind, name, time, content) in enumerate(sent):
            if kind in waiting:
                waiting[kind][name].append((time, partition, offset, content))
                continue
            order = ["request", "invalid"] if kind == "prediction" else ["invalid", "request"]
            own = next((k for k in order if waiting[k][name]), None)
            if own is None:
                unexpected += 1
                continue
            request = waiting[own][name].pop(0)
            answers.append((name, request, kind, content, time))
            was_valid.append(own == "request")
        waits += [each[0] for queues in waiting.values() for q in queues.values() for each in q]
    last = {name: content for _, name, _, content in reported}
    reported_at = {name: time for _, name, time, _ in reported}
    contained = {}
    for name, (_, partition, offset, label), kind, _, _ in answers:
        if kind == "prediction" and label is not None:
            contained[name] = max(contained.get(name, (-1, -1, 0)), (offset, partition, label))
    outcomes = {name: label for name, (_, _, label) in contained.items()} | last
    models = defaultdict(list)
    observed = 0
    predicted = [a for a in answers if a[2] == "prediction"]
    for name, request, _, (model_id, probability), _ in predicted:
        observed += name in outcomes
        models[model_id].append((request[:3], probability, outcomes.get(name)))
    every = [each for sent in partitions.values() for each in sent]
    return {
        "requests": sum(kind == "request" for kind, *_ in every),
        "predictions": sum(kind == "prediction" for kind, *_ in every),
        "error_replies": sum(kind == "error" for kind, *_ in every),
        "outcomes": len(reported) + sum(k == "request" and c is not None for k, _, _, c in every),
        "observations": observed,
        "unexpected_replies": unexpected,
        "unmatched": len(last.keys() - {name for name, *_ in predicted}),
        "latencies": sorted(max(time - request[0], 0) for _, request, _, _, time in answers),
        "models": models,
        "oldest": {NOW - (START + time) / 1000 for time in waits},
        "delays": sorted(
            max(reported_at[name] - request[0], 0) / 1000
            for name, request, *_ in predicted
            if name in reported_at
        ),
        "asked": [START + time for kind, _, time, _ in every if kind == "request"],
        "answered": [
            Answered(START + request[0], valid, True, *content, outcomes.get(name))
            if kind == "prediction"
            else Answered(START + request[0], valid, False)
            for (name, request, kind, content, _), valid in zip(answers, was_valid, strict=True)
        ],
    }


def check(found, expected: dict) -> None:
    flow = found.flow
    for name in ("requests", "predictions", "error_replies", "outcomes", "observations"):
        assert getattr(flow, name) == expected[name], name
    assert flow.unexpected_replies == expected["unexpected_replies"]
    assert found.following.unmatched == expected["unmatched"]
    latencies = expected["latencies"]
    if latencies:
        middle = latencies[math.ceil(0.5 * len(latencies)) - 1] / 1000
        assert found.latency.p50 == pytest.approx(middle, rel=0.0101)
    assert (flow.oldest_unanswered in expected["oldest"]) == bool(expected["oldest"])
    check_delays(found.outcome_delay, expected)
    by_id = {each.model_id: each for each in found.models if each.answers}
    assert by_id.keys() == expected["models"].keys()
    for model_id, rows in expected["models"].items():
        check_model(by_id[model_id], rows)


def check_delays(found, expected: dict) -> None:
    delays, p99 = expected["delays"], found.p99
    assert (p99 is None) == (not delays)
    if delays:
        assert found.p50 == delays[math.ceil(0.5 * len(delays)) - 1]
        assert p99 == delays[math.ceil(0.99 * len(delays)) - 1]
        assert found.never == pytest.approx(never_of(expected["answered"], p99, NOW))


def check_curves(found: State, expected: dict) -> None:
    for span, seconds in SPANS.items():
        points = found.curves.points(span, NOW)
        wanted = points_of(seconds, expected["asked"], expected["answered"])
        for point, each in zip(points, wanted, strict=True):
            assert {name: getattr(point, name) for name in each} == pytest.approx(each, abs=1e-9)


def check_model(model, rows: list) -> None:
    known = sorted(row for row in rows if row[2] is not None)
    assert (model.answers, model.outcomes) == (len(rows), len(known))
    if not known:
        assert model.figures == {}
        return
    losses = [-math.log(p if outcome else 1 - p) for _, p, outcome in known]
    assert model.mean_loss == pytest.approx(math.fsum(losses) / len(known), abs=1e-9)
    newest = known[-WINDOW:]
    outcomes = np.array([float(outcome) for _, _, outcome in newest])
    expected = dataset.target.figures(outcomes, np.array([p for _, p, _ in newest]))
    assert model.figures == pytest.approx(expected, abs=1e-9)
    assert model.window == len(newest)


@pytest.fixture(autouse=True, scope="module")
def _small_limits():
    """Limits that a few messages exceed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "GENERATION", 3)
        patch.setattr(table.Table.__init__, "__defaults__", (2,))
        patch.setattr(model_figures, "WINDOW", WINDOW)
        yield


def look(found: State):
    """Return a snapshot, without looking at drift."""
    models = Models()
    models.champion = None
    return snapshot(found, models, [], NOW, 0.0, [])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_figures_are_the_same_in_any_order_and_after_any_kill(seed, tmp_path_factory):
    chance = random.Random(seed)
    partitions = {p: messages(chance, chance.randint(0, 40), KINDS) for p in (0, 1)}
    reported = messages(chance, chance.randint(0, 15), ["outcome"])
    logs = {
        TopicPartition(APP_MESSAGES, p): records_of(APP_MESSAGES, p, sent)
        for p, sent in partitions.items()
    }
    logs[TopicPartition(OUTCOMES_TOPIC, 0)] = records_of(OUTCOMES_TOPIC, 0, reported)
    path = tmp_path_factory.mktemp("monitor") / "monitor.db"
    following = State(Database(path))
    while any(next_offset(following, p) < len(log) for p, log in logs.items()):
        read_some(following, logs, chance)
        event = chance.choice(["go on", "save", "save", "kill"])
        if event == "save":
            following.save(NOW)
        elif event == "kill":  # what was not saved is lost, and read again
            following.database.close()
            following = State(Database(path))
    expected = offline(partitions, reported)
    check(look(following), expected)
    check_curves(following, expected)
    following.database.close()


def read_some(following: State, logs: dict, chance: random.Random) -> None:
    """Let it read a few records of one partition."""
    partition = chance.choice(sorted(logs))
    begin = next_offset(following, partition)
    some = logs[partition][begin : begin + chance.randint(1, 12)]
    if some:
        following.add({partition: some}, NOW)
        following.positions[partition] = Position(begin + len(some))


def next_offset(following: State, partition: TopicPartition) -> int:
    return following.positions.get(partition, Position(0)).offset
