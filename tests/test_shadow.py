"""tools/shadow.py: a candidate beside the answers of a real predictor, on a real Kafka."""

import json
import math
import os
import pickle
import re
import shutil
from contextlib import closing
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from monitoring.figures import shadow as figures
from monitoring.figures import table
from tests.harness.brokers import QUICK, initialize
from tests.harness.pipeline import Pipeline
from tools.shadow import _answering, champion, find_model
from utils.datasets import dataset
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC
from utils.model_store import registry
from utils.model_store.archive import Archive
from utils.model_store.model import decode_parts, load
from utils.model_store.registry import ModelError, Registry
from utils.settings import settings

MORE = 40  # requests whose outcomes are reported, all after the last reply


def publish_candidate(models: Registry) -> None:
    """Publish the first three rounds of model 0 as model 1, rejected by a judge."""
    card = models.card(0)
    features, booster, center, spread = decode_parts(card, models.content(card))
    text = booster.model_to_string(num_iteration=3)
    parts = {"features": features, "booster": text, "center": center, "spread": spread}
    card.model_id, card.decision, card.decisions_per_row = 1, "rejected", 0.0
    models.publish(card, pickle.dumps(parts, protocol=4))


def scores_of(models: Registry, model_id: int, rows: list[dict]) -> np.ndarray:
    """Return what a model predicts, row by row, whatever DATASET is."""
    card = models.card(model_id)
    features, booster, center, spread = decode_parts(card, models.content(card))
    scores = [booster.predict(features.transform([row]))[0] for row in rows]
    return np.array(scores) * spread + center


def shadow(pipeline: Pipeline, *arguments: str):
    return pipeline.start_and_wait(
        "-m", "tools.shadow", *arguments, "--json", until="answers silently"
    )


def result_of(process) -> dict:
    assert process.wait(60) == 0, process.log.read_text()
    return json.loads(process.log.read_text().splitlines()[-1])


def check(found: dict, target, outcomes: np.ndarray, own: np.ndarray, given: np.ndarray) -> None:
    """Compare a result with figures of the same observations, computed from the topics."""
    for side, scores in (("candidate", own), ("given", given)):
        assert found[side]["figures"] == pytest.approx(target.figures(outcomes, scores), abs=1e-12)
    differences = target.losses(outcomes, own) - target.losses(outcomes, given)
    assert found["difference"] == pytest.approx(differences.mean(), abs=1e-12)
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    half = 1.96 * differences.std() / math.sqrt(len(differences))
    assert (high - low) / 2 == pytest.approx(half, rel=0.25)  # the bootstrap's, of few rows


@pytest.mark.parametrize(
    "name",
    ["adult", *(pytest.param(each, marks=pytest.mark.slow) for each in ("shop", "diabetes"))],
)
def test_the_figures_are_those_of_the_topics(broker, first_model, tmp_path, name):
    chosen = import_module(f"utils.datasets.{name}").dataset
    if name == "adult":
        shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    else:
        initialize(tmp_path, *QUICK, DATASET=name)
    models, prefix = Registry(tmp_path / "models"), f"t{os.urandom(4).hex()}-"
    publish_candidate(models)
    pipeline = Pipeline(settings.kafka_host, prefix, tmp_path, DATASET=name)
    try:
        check_run(pipeline, chosen, models)
    finally:
        pipeline.stop_all()


def check_run(pipeline: Pipeline, chosen, models: Registry) -> None:
    target = chosen.target
    rows = list(islice(chosen.visitors(pipeline.folder / "data"), MORE + 5))
    labels = [row.pop(target.name) for row in rows]
    pipeline.predictor()
    pipeline.send({"request_id": "before", "data": rows[0]})  # no part of the comparison
    pipeline.wait_for_replies(1)
    limit = ("--outcomes", str(MORE + 2))
    shadows = [shadow(pipeline, str(model_id), *limit) for model_id in (0, 1)]
    send_requests(pipeline, target, rows, labels)
    # "one" twice, the forged reply, five that have no outcome, and one that is invalid
    pipeline.wait_for_replies(1 + 2 + 1 + 5 - 2 + MORE + 1)
    report_outcomes(pipeline, target, labels)
    same, other = map(result_of, shadows)

    places = [0, 1, *range(5, MORE + 5)]  # rows with an outcome, in the order of the requests
    outcomes = np.array([target.outcome_of(labels[n]) for n in places])
    outcomes[:2] = target.outcome_of(labels[2])  # the last outcome of "one" counts for both
    whole = [chosen.defaults | row for row in rows]
    given, own = (scores_of(models, n, [whole[i] for i in places]) for n in (0, 1))
    for found in (same, other):
        assert (found["requests"], found["compared"]) == (MORE + 5, MORE + 5)
        assert (found["observations"], found["rows"]) == (MORE + 2, MORE + 2)
        assert found["given"]["models"] == [0]
        assert found["candidate"]["us_per_request"] > 0
        assert found["given"]["us_per_request"] > 0
    check(other, target, outcomes, own, given)
    assert other["candidate"]["models"] == [1]
    check_agreement(other, target, *(scores_of(models, n, whole) for n in (1, 0)))
    assert other["decision"] in ("promoted", "rejected")
    assert same["difference"] == 0
    assert same["interval"] == [0, 0]
    assert same["mean_distance"] == 0
    assert same["equal_decisions"] == (None if target.kind == "number" else 1)
    assert same["candidate"]["figures"] == same["given"]["figures"]


def send_requests(pipeline: Pipeline, target, rows: list[dict], labels: list) -> None:
    """Send an id that asks twice, requests that get no outcome, a forged reply, and MORE others."""
    pipeline.send({"request_id": "one", "data": rows[0]})
    pipeline.send({"request_id": "one", "data": rows[1] | {target.name: labels[1]}})
    for n in (2, 3, 4):
        pipeline.send({"request_id": f"without {n}", "data": rows[n]})
    pipeline.wait_for_replies(1 + 2 + 3)
    forged = next(m for m in pipeline.replies() if m["request_id"] == "without 2")
    pipeline.send(forged)
    pipeline.send({"request_id": "invalid", "data": {}})
    for n in range(5, MORE + 5):
        pipeline.send({"request_id": f"id {n}", "data": rows[n]})
    pipeline.producer.flush()


def report_outcomes(pipeline: Pipeline, target, labels: list) -> None:
    """Report the outcomes: one of no request in the comparison, and one that is corrected."""
    wrong = target.changed(labels[5])
    reported = [("before", labels[0]), ("nobody", labels[0]), ("one", labels[2]), ("id 5", wrong)]
    reported += [(f"id {n}", labels[n]) for n in range(5, MORE + 5)]
    for request_id, label in reported:
        pipeline.send({"request_id": request_id, "outcome": label}, "outcomes_topic")
    pipeline.producer.flush()


def check_agreement(found: dict, target, own: np.ndarray, given: np.ndarray) -> None:
    """Compare what needs no outcomes."""
    distance = np.abs(own - given)
    if target.outputs > 1:
        distance = distance.sum(axis=1) / 2
    assert found["mean_distance"] == pytest.approx(distance.mean(), abs=1e-12)
    if target.kind == "number":
        assert found["equal_decisions"] is None
    else:
        classes = [[a[0] for a in target.answers(scores, 0)] for scores in (own, given)]
        equal = np.mean([a == b for a, b in zip(*classes, strict=True)])
        assert found["equal_decisions"] == equal


# Its end, and what can't be compared


def test_sigterm_prints_the_result(pipeline):
    process = shadow(pipeline, "0", "--from-beginning")
    process.terminate()
    found = result_of(process)
    assert (found["requests"], found["observations"], found["decision"]) == (0, 0, "")
    sentence = b"Not compared: there is no model 7: see python -m tools.models list\n"
    assert pipeline.run("tools.shadow", "7", code=1).stderr == sentence


@pytest.fixture
def models(first_model, tmp_path, monkeypatch) -> Path:
    """MODELS_DIR, empty."""
    changed = settings.model_copy(update={"models_dir": tmp_path})
    monkeypatch.setattr(registry, "settings", changed)
    return tmp_path


@pytest.mark.parametrize(
    ("candidate", "problem"),
    [
        ("7", "there is no model 7: see python -m tools.models list"),
        ("models/best", "CANDIDATE: expected a model's id, or the path of its file"),
        ("model_7", "CANDIDATE: expected a model's id, or the path of its file"),
        ("elsewhere/model_7.p", "model 7: model_7.json is missing"),
        ("0", "model 0: model_0.p does not match the digest in its card"),
    ],
)
def test_a_candidate_that_cannot_be_loaded(candidate, problem, first_model, models):
    shutil.copytree(first_model / "models", models, dirs_exist_ok=True)
    with open(models / "model_0.p", "ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match=f"^{re.escape(problem)}"):
        find_model(candidate)


def test_an_archived_model_and_one_elsewhere_are_found(first_model, models):
    elsewhere = Registry(first_model / "models")
    card = elsewhere.card(0)
    Archive(models).add(card, elsewhere.content(card))
    for text in ("0", str(first_model / "models" / "model_0.p")):
        assert find_model(text).card.digest == card.digest


def test_a_model_that_was_away_is_found_once_it_is_back(first_model, models):
    assert champion(0) is None
    shutil.copytree(first_model / "models", models, dirs_exist_ok=True)
    assert champion(0).model_id == 0
    _answering.cache_clear()


# Many requests, late outcomes


def poll(topic: str, messages: list[dict]) -> dict:
    """Return a topic's only messages as a poll does."""
    fields = dict.fromkeys(ConsumerRecord._fields) | {"topic": topic, "partition": 0, "headers": []}
    values = [json.dumps(message).encode() for message in messages]
    found = [
        ConsumerRecord(**fields | {"offset": n, "timestamp": n, "value": value})
        for n, value in enumerate(values)
    ]
    return {TopicPartition(topic, 0): found}


@pytest.mark.parametrize(("most_rows", "least", "most"), [(10**6, 600, 600), (200, 100, 400)])
def test_memory_is_bounded_and_the_newest_wait_for_their_outcomes(
    first_model, tmp_path, monkeypatch, most_rows, least, most
):
    monkeypatch.setattr(table, "GENERATION", 50)
    monkeypatch.setattr(table, "MOST_ROWS", most_rows)
    monkeypatch.setattr(table.Table.__init__, "__defaults__", (10,))  # rows in memory
    monkeypatch.setattr(figures, "MOST_UNSAVED", 30)
    rows = list(islice(dataset.visitors(first_model / "data"), 600))
    labels = [row.pop(dataset.target.name) for row in rows]
    answers = [{"prediction": 0.0, "probability": (n % 9 + 1) / 10} for n in range(600)]
    messages = []
    for n, (row, reply) in enumerate(zip(rows, answers, strict=True)):
        messages += [{"request_id": str(n), "data": row}, {"request_id": str(n), **reply}]
    candidate = load(Registry(first_model / "models"), 0)
    with closing(figures.Shadow(candidate)) as found:
        [(partition, records)] = poll(APP_MESSAGES, messages).items()
        for n in range(0, len(records), 40):
            found.add({partition: records[n : n + 40]}, 1e9)
        reported = [{"request_id": str(n), "outcome": label} for n, label in enumerate(labels)]
        found.add(poll(OUTCOMES_TOPIC, reported), 1e9)
        assert len(found._waiting.rows) + len(found._scores.rows) <= 600 + 40  # those just read
        assert found.compared == 600
        seen = found.rows()
    assert least <= len(seen) <= most
    place = seen["offset"] // 2
    assert place[-1] == 599
    own = candidate.predict(rows)[place]
    assert (seen["own"][:, 0] == own).all()
    assert (seen["given"][:, 0] == [answers[n]["probability"] for n in place]).all()
    assert (seen["outcome"] == [dataset.target.outcome_of(labels[n]) for n in place]).all()
