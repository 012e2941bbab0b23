"""An audit tells what was asked and answered, and computes each answer again, bit for bit."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys

import lightgbm as lgb
import msgspec
import numpy as np
import pytest
from kafka import KafkaAdminClient, TopicPartition

from monitoring.audit.audit_text import audit_lines, when
from monitoring.audit.audits import DIFFERENT, SAME, UNCHECKED, Audit, audit
from monitoring.audit.message_blocks import Message
from monitoring.audit.past_models import past_models
from tests.harness.another_dataset import run_with
from tests.harness.pipeline import wait_until
from tests.test_message_archive import kept, number_kept
from tests.test_model_store import edit_card
from tests.test_printable import HOSTILE
from tests.test_schema_changes import COLOR, PRICE, THREE, WEIGHT, project, shop  # noqa: F401
from utils.datasets.adult import read_test_requests
from utils.files import ROOT
from utils.messages import Prediction, encode
from utils.model_store.archive import Archive
from utils.model_store.model import load, save
from utils.model_store.registry import Registry


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("-m", "tools.audit", "--ids", "nofile"), "--ids: nofile: No such file or directory\n"),
        (("monitor.py", "--once", "--terminal"), "not allowed with argument --once\n"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(command, said):
    run = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode
    assert run.stderr.endswith(said)
    assert "Traceback" not in run.stderr


def smaller(registry: Registry, model_id: int) -> None:
    """Save the first model, without its last trees, under another id."""
    model = load(registry, 0)
    text = model.booster.model_to_string(num_iteration=20 + model_id)
    model.booster, model.card.model_id = lgb.Booster(model_str=text), model_id
    save(model, registry)


def audits(pipeline, *arguments: str, code: int = 0) -> dict[str, dict]:
    lines = pipeline.run("tools.audit", "--json", *arguments, code=code).stdout.splitlines()
    return {each["request_id"]: each for each in map(json.loads, lines)}


def change_model(pipeline, model_id: int) -> None:
    """Let the predictor answer with a new model, and delete the one before."""
    registry = Registry(pipeline.folder / "models")
    smaller(registry, model_id)
    registry.promote(model_id)
    pipeline.send({"training_completed": True, "model_id": model_id}, "retrain_topic")
    pipeline.wait_for_output(pipeline.processes[0], f"Model {model_id} answers from now on")


@pytest.mark.slow
def test_answers_of_deleted_models_to_deleted_requests(pipeline):
    """Models 0 to 2 answer; the archiver is killed; Kafka forgets; an answer is forged."""
    pipeline.create_topic("app_messages", partitions=2)
    pipeline.create_topic("outcomes_topic")
    pipeline.predictor(RETRAIN_EVERY="1000")
    ids = pipeline.requests(20)
    pipeline.wait_for_replies(20)
    monitor = pipeline.start_and_wait("monitor.py", until="follows the topics", MONITOR_PORT="0")
    archive = pipeline.folder / "data" / "audit.db"
    wait_until(lambda: number_kept(archive) >= 40, what="archived messages")
    os.killpg(monitor.pid, signal.SIGKILL)
    for model_id in (1, 2):
        change_model(pipeline, model_id)
        ids += pipeline.requests(20)
        pipeline.wait_for_replies(len(ids))
    pipeline.send({"request_id": ids[0], "outcome": "<=50K"}, "outcomes_topic")
    pipeline.send({"request_id": "invalid", "data": {"age": "x"}})
    pipeline.wait_for_replies(61)
    pipeline.run("monitor", "--once")
    assert len(kept(archive)) == 2 * 61 + 3  # and an outcome, and two announcements
    assert Registry(pipeline.folder / "models").prune(keep=0) == [0, 1]
    with KafkaAdminClient(bootstrap_servers=pipeline.host) as admin:
        places = [TopicPartition(f"{pipeline.prefix}app_messages", each) for each in (0, 1)]
        admin.delete_records(dict.fromkeys(places, -1))
    assert pipeline.records("app_messages") == []

    found = audits(pipeline, "invalid", *ids)
    for number, request_id in enumerate(ids):
        [answer], [asked] = found[request_id]["answered"], found[request_id]["asked"]
        assert (answer["result"], answer["notes"]) == ("same", [])
        assert answer["reply"]["model_id"] == answer["model"]["model_id"] == number // 20
        assert answer["where"] == ("the archive" if number < 40 else "models/")
        assert asked["data"] == pipeline.rows[number % 20]
        score = answer["why"]["base"] + sum(each[2] for each in answer["why"]["features"])
        assert math.isclose(1 / (1 + math.exp(-score)), answer["reply"]["probability"])
    assert [each["outcome"] for each in found[ids[0]]["outcomes"]][-1] == "<=50K"
    assert found["invalid"]["answered"][0]["result"] == "same"
    assert "data.age: expected a number" in found["invalid"]["answered"][0]["reply"]["error"]

    forged = {"request_id": ids[0], "prediction": 1.0, "probability": 0.9, "model_id": 0}
    for partition in (0, 1):
        pipeline.send(forged, partition=partition)
    pipeline.producer.flush()
    text = pipeline.run("tools.audit", ids[0], "nobody", code=1).stdout.decode()
    assert text.count("the same, bit for bit") == 1
    assert text.count("NOT the same: prediction 0.0, probability 0.00") == 1
    assert "no request of this id is before it in its partition" in text
    assert "not found (looked in the archive and Kafka)" in text


@pytest.fixture
def registry(first_model, tmp_path) -> Registry:
    shutil.copytree(first_model / "models", tmp_path / "models")
    return Registry(tmp_path / "models")


@pytest.fixture
def row(first_model) -> dict:
    return read_test_requests(first_model / "data")[3]


def conversation(registry: Registry, row: dict, **changes) -> list[Message]:
    """Return a request and its reply, the fields of which can be changed."""
    model = load(registry, 0)
    [fields] = model.answers([row])
    reply = json.loads(encode(Prediction("r", *fields))) | changes
    request = {"request_id": "r", "data": row}
    return [
        Message("app_messages", 0, 5, 1_700_000_000_000, json.dumps(request).encode()),
        Message("app_messages", 0, 6, 1_700_000_000_012, json.dumps(reply).encode()),
    ]


def only_answer(messages: list[Message], registry: Registry):
    found = audit("r", messages, registry)
    assert len(found.answered) == 1
    return found.answered[0]


@pytest.mark.parametrize(
    ("changes", "result", "note"),
    [
        ({}, SAME, None),
        ({"probability": np.nextafter(0.99, 1)}, DIFFERENT, None),
        ({"prediction": 0.0}, DIFFERENT, None),
        ({"probability": None}, DIFFERENT, None),
        ({"probabilities": {"x": 1.0}}, DIFFERENT, None),
        ({"prediction": 10**400}, DIFFERENT, None),
        ({"probability": float("inf")}, DIFFERENT, None),
        ({"probabilities": {"x": 10**400}}, DIFFERENT, None),
        ({"model_id": 7}, UNCHECKED, "model 7 is neither in models/ nor in the archive"),
        ({"model_id": None}, UNCHECKED, "it names no model"),
        ({"model_id": "0/../0"}, UNCHECKED, "it names no model"),
        ({"model_id": 10**18}, UNCHECKED, f"model {10**18} is neither in models/ nor"),
        ({"model_id": -1}, UNCHECKED, "model -1 is neither in models/ nor in the archive"),
    ],
)
def test_a_reply_that_is_not_what_the_model_says(registry, row, changes, result, note):
    answer = only_answer(conversation(registry, row, **changes), registry)
    assert answer.result == result
    assert answer.notes == [] if note is None else answer.notes[0].startswith(note)


DEEP = "[" * 900 + "]" * 900


@pytest.mark.parametrize("extra", ["1e999", "1" * 400, "1" * 9_999, DEEP])
@pytest.mark.parametrize("within", ["extra", "data"])
def test_a_field_that_is_ignored_changes_nothing(registry, row, within, extra):
    request, reply = conversation(registry, row)
    end = len(request.value) - (2 if within == "data" else 1)
    value = request.value[:end] + b', "x": ' + extra.encode() + request.value[end:]
    found = audit("r", [request._replace(value=value), reply], registry)
    assert [each.result for each in found.answered] == [SAME]
    assert found.answered[0].why is not None
    assert json.dumps(msgspec.to_builtins(found))
    assert all(isinstance(line, str) for line, _ in audit_lines(found))


def test_as_deep_as_can_be_read_ends_no_audit(registry, row):
    request, reply = conversation(registry, row)
    for levels in range(900, 1_000, 3):
        deep = b"[" * levels + b"]" * levels
        for field in (b"data", b"prediction", b"error", b"outcome"):
            value = b'{"request_id": "r", "%s": %s}' % (field, deep)
            topic = "outcomes_topic" if field == b"outcome" else "app_messages"
            odd = request._replace(topic=topic, offset=9, value=value)
            found = audit("r", [request, reply, odd], registry)
            assert json.dumps(msgspec.to_builtins(found))
            assert all(isinstance(line, str) for line, _ in audit_lines(found))


def test_one_unit_in_the_last_place_is_seen(registry, row):
    probability = json.loads(conversation(registry, row)[1].value)["probability"]
    for changed in (np.nextafter(probability, 0), np.nextafter(probability, 1)):
        messages = conversation(registry, row, probability=float(changed))
        assert only_answer(messages, registry).result == DIFFERENT


def test_of_two_models_with_one_id_the_right_one_is_found(registry, row):
    """After `make clean`, ids are given out again."""
    old = conversation(registry, row)
    card = registry.card(0)
    Archive(registry.place).add(card, registry.content(card))
    model = load(registry, 0)
    text = model.booster.model_to_string(num_iteration=20)
    model.booster, model.card.created = lgb.Booster(model_str=text), "2020-01-01T00:00:00+00:00"
    save(model, registry)
    new = conversation(registry, row)
    assert [each.where for each in past_models(registry, 0, 1_600_000_000_000)][0] == "models/"
    assert [each.where for each in past_models(registry, 0, 4e12)][0] == "the archive"
    assert old[1].value != new[1].value
    for messages, where in ((old, "the archive"), (new, "models/")):
        answer = only_answer(messages, registry)
        assert (answer.result, answer.where, answer.notes) == (SAME, where, [])


def test_two_models_that_give_the_same_are_both_named(registry, row):
    card = registry.card(0)
    Archive(registry.place).add(card, registry.content(card))
    model = load(registry, 0)
    model.features.unused = 1  # its file, and so its digest, is another one
    save(model, registry)
    answer = only_answer(conversation(registry, row), registry)
    assert answer.result == SAME
    assert answer.notes[0].startswith("2 models with this id give this answer: ")


def test_versions_of_libraries_are_said_or_refused(registry, row):
    messages = conversation(registry, row)
    versions = registry.card(0).libraries
    edit_card(libraries=versions | {"numpy": "2.0.999"})(registry.place / "model_0.p")
    answer = only_answer(messages, registry)
    assert answer.result == SAME
    assert answer.notes[0].startswith("numpy 2.0.999 made the model, ")
    edit_card(libraries=versions | {"lightgbm": "3.3.5"})(registry.place / "model_0.p")
    answer = only_answer(messages, registry)
    assert answer.result == UNCHECKED
    assert answer.notes[0].startswith("model 0: made by lightgbm 3.3.5, installed is ")


def test_requests_that_share_an_id_are_told_apart(registry, row, first_model):
    other = read_test_requests(first_model / "data")[1]
    one, two = conversation(registry, row), conversation(registry, other)
    later = [message._replace(offset=message.offset + 5) for message in two]
    found = audit("r", [*one, *later], registry)
    assert [each.result for each in found.answered] == [SAME, SAME]
    assert [each.request for each in found.answered] == [0, 1]
    assert found.is_right


def test_what_is_odd_is_no_answer_and_ends_nothing(registry, row):
    odd = [b"", b"\xff", b"[]", b'{"request_id": "r"}', b'{"request_id": "r", "prediction": NaN}']
    odd += [None, b"[" * 100_000, b'{"request_id": "r", "prediction": {"a": [1]}, "model_id": 0}']
    messages = conversation(registry, row)
    messages += [Message("app_messages", 0, 10 + n, 2**62, value) for n, value in enumerate(odd)]
    messages.append(Message("outcomes_topic", 0, 0, -(2**62), b'{"request_id": "r", "outcome": 7}'))
    found = audit("r", messages, registry)
    assert [each.result for each in found.answered] == [SAME, UNCHECKED, DIFFERENT]
    assert len(found.asked) == 1
    assert all(isinstance(line, str) for line, _ in audit_lines(found))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Audit) == found
    assert when(2**62) == f"{2**62} ms since 1970"


def test_an_unanswered_request_and_a_refusal(registry, row):
    request = conversation(registry, row)[0]
    found = audit("r", [request], registry)
    assert found.is_right
    assert ("answered  not yet", "yellow") in list(audit_lines(found))
    wrong = request._replace(value=b'{"request_id": "r", "data": {"age": 1}}')
    reason = audit("r", [wrong], registry).asked[0].problem
    assert reason.endswith("is missing")
    for error, result in ((reason, SAME), ("something else", DIFFERENT)):
        reply = json.dumps({"request_id": "r", "error": error}).encode()
        answer = only_answer([wrong, wrong._replace(offset=9, value=reply)], registry)
        assert answer.result == result


def test_a_flood_of_replies_is_cut(registry, row):
    request, reply = conversation(registry, row)
    found = audit("r", [request, *[reply] * 500], registry)
    assert len(found.answered) == 99
    assert found.notes == ["More messages have this id: the first 100 follow"]


SEVERAL = """
import json, sys
from pathlib import Path

from monitoring.audit.audits import SAME, audit
from monitoring.audit.audit_text import audit_lines
from monitoring.audit.message_blocks import Message
from train.fit import fit_model
from utils.datasets import dataset
from utils.messages import Prediction, encode
from utils.model_store.model import load, save
from utils.model_store.registry import Registry

folder, registry = Path(sys.argv[1]), Registry(Path(sys.argv[1]) / "models")
dataset.prepare(folder)
registry.place.mkdir()
frame, outcomes = dataset.training(folder)
rows = frame[:2_000]
save(fit_model(rows, outcomes[:2_000], model_id=0, hyper="hyperopt", max_evals=1), registry)
for row in rows[:5].astype(object).where(rows[:5].notna(), None).to_dict("records"):
    [fields] = load(registry, 0).answers([row])
    values = encode({"request_id": "r", "data": row}), encode(Prediction("r", *fields))
    found = audit("r", [Message("DATASET-app_messages", 0, n, n, v) for n, v in enumerate(values)], registry)
    [answer] = found.answered
    assert answer.result == SAME, answer
    score = answer.why.base + sum(each[2] for each in answer.why.features)
    if dataset.target.kind == "number":
        assert abs(score - fields[0]) < 1e-9 * abs(score), (score, fields)
    else:
        assert answer.why.score == f"score of {fields[0]}"
    print([line for line, _ in audit_lines(found) if line.startswith("why")][0])
"""  # noqa: E501


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["shop", "diabetes"])
def test_several_classes_and_a_number(dataset, tmp_path):
    said = run_with(dataset, SEVERAL.replace("DATASET", dataset), tmp_path)
    assert said.count("it most (") == 5


@pytest.mark.slow
def test_what_senders_write_is_printed_as_printable_text(pipeline):
    pipeline.create_topic("app_messages")
    hostile = HOSTILE.replace("\ud800", "")
    data = pipeline.rows[0] | {"workclass": hostile, hostile: hostile}
    pipeline.send({"request_id": hostile, "data": data})
    pipeline.send({"request_id": hostile, "error": hostile})
    pipeline.send({"request_id": hostile, "prediction": hostile, "model_id": 0})
    pipeline.send({"request_id": hostile, "prediction": {hostile: hostile}, "model_id": 0})
    pipeline.create_topic("outcomes_topic")
    pipeline.send({"request_id": hostile, "outcome": hostile}, "outcomes_topic")
    pipeline.producer.flush()
    ids = hostile.replace("\r\n", "").encode() + b"\nnobody\nno UTF-8 \xff\n"
    (pipeline.folder / "ids").write_bytes(ids)
    text = pipeline.run("tools.audit", hostile, "nobody", code=1).stdout.decode()
    assert "faked line" in text
    assert not any(line.startswith("faked") for line in text.splitlines())
    assert text.replace("\n", "").isprintable()
    ended = pipeline.run("tools.audit", "--json", "--ids", str(pipeline.folder / "ids"), code=1)
    assert len(ended.stdout.splitlines()) == 3


@pytest.mark.slow
def test_a_range_of_time_and_kafka_that_is_away(pipeline):
    pipeline.create_topic("outcomes_topic")
    pipeline.predictor(RETRAIN_EVERY="1000")
    for number in range(10):
        pipeline.request(number, f"r{number}", timestamp_ms=1_700_000_000_000 + number * 60_000)
        pipeline.producer.flush()
    pipeline.wait_for_replies(10)
    options = ("--from", "2023-11-14T22:15:20", "--to", "2023-11-14T22:18:20Z")
    assert list(audits(pipeline, *options)) == ["r2", "r3", "r4", "r5"]
    pipeline.run("monitor", "--once")
    assert list(audits(pipeline, *options)) == ["r2", "r3", "r4", "r5"]
    pipeline.environment["KAFKA_HOST"] = "localhost:1"
    found = audits(pipeline, *options)
    assert all(each["answered"][0]["result"] == "same" for each in found.values())
    none = pipeline.run("tools.audit", "--to", "2020-01-01", code=1)
    assert none.stderr.decode().splitlines() == [
        "No Kafka answers at localhost:1: only the archive is searched.",
        "No request in this range (looked in the archive).",
    ]


@pytest.mark.slow
def test_answers_from_before_a_change_of_the_data_set(shop):  # noqa: F811
    environment = {"TOPIC_PREFIX": shop.prefix}
    shop.create_topic("outcomes_topic")
    shop.predictor()
    before = [each["request_id"] for each in shop.answers({"color": "red"}, 5)]
    for columns, target in [
        ((PRICE, COLOR, WEIGHT.replace(", default=100", "")), None),  # a new column, required
        ((COLOR,), None),  # one is dropped that the model uses
        ((PRICE, COLOR), THREE),
        ((PRICE, COLOR), 'Number("price_of_it")'),
    ]:
        shop.change(*columns, **({"target": target} if target else {}))
        found = subprocess.run(
            [sys.executable, "-m", "tools.audit", "--json", *before],
            cwd=shop.project,
            env=os.environ | shop.environment | environment,
            capture_output=True,
        )
        assert found.returncode == 0, (found.stderr, found.stdout)
        for each in map(json.loads, found.stdout.splitlines()):
            [answer] = each["answered"]
            assert answer["result"] == "same"
            assert answer["notes"][0].startswith("the data set has changed: the model was made for")
