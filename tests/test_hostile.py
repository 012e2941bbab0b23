"""Messages from attackers and from broken programs, against the real scripts."""

import hashlib
import json
import random
from collections import namedtuple
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError

from tests.chaos.hostile_messages import HOSTILE, VALID, UnreadableName, mutations, request
from tests.harness.pipeline import wait_until
from utils.kafka_client.connection import make_admin
from utils.kafka_client.dead_letters import is_letter
from utils.kafka_client.decompression import MAX_UNPACKED
from utils.messages import (
    decode_control,
    decode_outcome,
    decode_reply,
    decode_request,
    decode_requests,
    encode,
)

# Kafka's default for a batch as it is sent, 1,048,588 bytes, less the 72 of its frame and of that
# of a single record without a key.
LARGEST = 1_048_516


def letters(pipeline) -> list:
    return list(filter(is_letter, pipeline.records("dead_letter_topic")))


def header(letter, name: str) -> str:
    return dict(letter.headers)[name].decode()


def wait_for_letters(pipeline, number: int) -> list:
    def enough():
        found = letters(pipeline)
        return found if len(found) >= number else None

    return wait_until(enough, what=f"{number} dead letters")


def test_every_hostile_message_is_put_aside_and_every_request_answered(pipeline):
    predictor, trainer = pipeline.predictor(), pipeline.trainer()
    chance = random.Random(1)
    bad = [*HOSTILE, *mutations(chance, pipeline.rows[0], 1_000)]
    good = []
    for number, value in enumerate(bad):
        pipeline.producer.send(f"{pipeline.prefix}app_messages", value, key=b"%d" % number)
        if number % 20 == 0:
            good.append(pipeline.request(number))
    pipeline.producer.flush()
    put_aside = wait_for_letters(pipeline, len(bad))
    assert [(letter.key, letter.value) for letter in put_aside] == [
        (b"%d" % number, value) for number, value in enumerate(bad)
    ]
    replies = pipeline.wait_for_replies(len(good))
    assert [r["request_id"] for r in replies if "prediction" in r] == good
    assert predictor.poll() is None
    assert trainer.poll() is None


@pytest.mark.slow
def test_a_record_that_the_client_can_not_unpack_stops_nobody(pipeline):
    predictor, trainer = pipeline.predictor(), pipeline.trainer()
    for topic in ("app_messages", "retrain_topic", "outcomes_topic"):
        pipeline.send(b"[]", topic, partition=0)
        for _ in range(2):
            headers = [(UnreadableName("x"), b"1")]
            pipeline.send(b"{}", topic, headers=headers, partition=0)
    pipeline.producer.flush()
    request_ids = pipeline.requests(25)
    replies = pipeline.wait_for_replies(25)
    assert [reply["request_id"] for reply in replies] == request_ids
    pipeline.wait_for_output(predictor, "Model 1 answers")
    assert trainer.poll() is None
    found = wait_for_letters(pipeline, 6)
    for topic in ("app_messages", "outcomes_topic"):
        put_aside = [each for each in found if header(each, "topic") == pipeline.prefix + topic]
        assert [header(letter, "offset") for letter in put_aside] == ["0", "1", "2"]
        assert all("can't be decoded" in header(letter, "reason") for letter in put_aside[1:])
        assert [letter.value for letter in put_aside] == [b"[]", None, None]
        empty = [dict(letter.headers).get("empty") for letter in put_aside]
        assert empty == [None, b"true", b"true"]


def produce(pipeline, values: list[bytes], key: bytes | None = None, **options) -> None:
    """Send them one by one, each in a batch of its own."""
    producer = KafkaProducer(bootstrap_servers=pipeline.host, max_request_size=2**25, **options)
    for value in values:
        producer.send(f"{pipeline.prefix}app_messages", value, key=key).get(30)
    producer.close()


def blank(size: int) -> bytes:
    return b" " * size


@pytest.mark.parametrize(("limit", "whole"), [(2**23, 5), (1_048_588, 0)], ids=["8 MiB", "1 MiB"])
def test_messages_at_the_limits(pipeline, limit, whole):
    pipeline.create_topic("dead_letter_topic", configs={"max.message.bytes": str(limit)})
    predictor = pipeline.predictor()
    plain = [blank(LARGEST - 1), blank(LARGEST)]
    packed = [blank(LARGEST - 1), blank(LARGEST), blank(LARGEST + 1), blank(20_000_000)]
    produce(pipeline, plain)
    with pytest.raises(MessageSizeTooLargeError):  # plain[1] was the largest there is
        produce(pipeline, [blank(LARGEST + 1)])
    produce(pipeline, packed, compression_type="gzip")
    found = wait_for_letters(pipeline, 6)
    sent = plain + packed
    assert [letter.value for letter in found[:whole]] == sent[:whole]
    for letter, value in zip(found[whole:], sent[whole:], strict=True):
        assert letter.value is None
        assert header(letter, "empty") == "true"
        if len(value) > MAX_UNPACKED:  # it was not decoded
            assert str(MAX_UNPACKED) in header(letter, "reason")
            continue
        assert header(letter, "size") == str(len(value))
        assert header(letter, "sha256") == hashlib.sha256(value).hexdigest()
        assert header(letter, "topic") == f"{pipeline.prefix}app_messages"
    assert predictor.poll() is None


def test_a_reply_that_is_too_large_with_its_key_goes_without(pipeline):
    pipeline.predictor()
    value = b'{"request_id": "x"}'
    produce(pipeline, [value], key=blank(LARGEST - len(value)))
    request_id = pipeline.request(key=b"small")
    pipeline.producer.flush()
    pipeline.wait_for_replies(2)
    records = [r for r in pipeline.records("app_messages") if b'"data"' not in r.value]
    replies = {json.loads(r.value)["request_id"]: r.key for r in records if r.value != value}
    assert replies == {"x": None, request_id: b"small"}


@pytest.mark.slow
def test_dead_letters_are_listed_shown_and_replayed_once(pipeline):
    pipeline.predictor()
    assert pipeline.run("tools.dead_letters", "replay").stdout.endswith(b"Replayed 0 letters.\n")
    bad = [b'{"request_id": "x", "data": [red]}', b"\xff\x00"]
    for value in bad:
        pipeline.send(value, key=b"k")
    pipeline.producer.flush()
    first, second = (letter.offset for letter in wait_for_letters(pipeline, 2))
    listed = pipeline.run("tools.dead_letters", "list").stdout.decode()
    assert "not valid JSON" in listed
    assert pipeline.run("tools.dead_letters", "show", str(second)).stdout == bad[1]
    assert pipeline.run("tools.dead_letters", "replay").stdout.endswith(b"Replayed 2 letters.\n")
    again = wait_for_letters(pipeline, 4)  # nothing was mended
    assert [(letter.key, letter.value) for letter in again] == [(b"k", value) for value in bad * 2]
    assert header(again[2], "offset") != header(again[0], "offset")
    pipeline.run("tools.dead_letters", "replay")
    pipeline.run("tools.dead_letters", "replay")
    assert first == 0


@pytest.mark.slow
def test_letters_are_replayed_once_although_the_offset_of_the_replay_expires(pipeline):
    pipeline.predictor()
    for value in (b"first", b"second"):
        pipeline.send(value)
    pipeline.producer.flush()
    wait_for_letters(pipeline, 2)
    assert b"yes" not in pipeline.run("tools.dead_letters", "list").stdout
    assert pipeline.run("tools.dead_letters", "replay").stdout.endswith(b"Replayed 2 letters.\n")
    wait_for_letters(pipeline, 4)
    listed = pipeline.run("tools.dead_letters", "list").stdout.decode().splitlines()
    assert ["yes" in line for line in listed if "not valid JSON" in line] == [True] * 2 + [
        False
    ] * 2
    with closing(make_admin()) as admin:
        admin.delete_groups([f"{pipeline.prefix}dead-letter-replay"])
    assert pipeline.run("tools.dead_letters", "replay").stdout.endswith(b"Replayed 2 letters.\n")
    wait_for_letters(pipeline, 6)
    listed = pipeline.run("tools.dead_letters", "list").stdout
    assert listed.count(b"yes") == 4


def test_letters_that_lie_do_not_stop_the_tool(pipeline):
    pipeline.create_topic("dead_letter_topic")
    pipeline.create_topic("app_messages")
    topic = f"{pipeline.prefix}app_messages"
    lies = [
        {"topic": topic, "partition": "9" * 5_000, "reason": "[/red]"},
        {"topic": topic, "partition": "99", "size": "[/x]"},
        {"topic": topic, "partition": "0", "empty": "true"},
        {"topic": topic, "partition": "0", "sha256": "?"},  # empty, of an earlier version
        {"topic": "\x1b[31m[/red]", "partition": "0"},
        {},
    ]
    for lie in lies:
        headers = [(name, value.encode()) for name, value in lie.items()]
        pipeline.send(b"lie", topic="dead_letter_topic", headers=headers)
    pipeline.producer.flush()
    pipeline.send(b"", topic="dead_letter_topic", headers=[(UnreadableName("x"), b"")])
    pipeline.producer.flush()  # a batch of its own
    # The reason says nothing about the letter: a sender's words may be in it.
    origin = {"topic": topic, "partition": "0", "reason": "the record can't be decoded"}
    headers = [(name, value.encode()) for name, value in origin.items()]
    pipeline.send(b"whole", topic="dead_letter_topic", headers=headers)
    pipeline.producer.flush()
    assert b"\x1b" not in pipeline.run("tools.dead_letters", "list").stdout
    assert pipeline.run("tools.dead_letters", "show", "6").stdout == b""
    assert pipeline.run("tools.dead_letters", "replay").stdout.endswith(b"Replayed 1 letters.\n")
    assert [record.value for record in pipeline.records("app_messages")] == [b"whole"]


@pytest.mark.slow
def test_what_unpacks_to_a_thousand_times_as_much_is_answered_bit_by_bit(pipeline):
    predictor = pipeline.predictor()
    packer = KafkaProducer(
        bootstrap_servers=pipeline.host,
        max_request_size=2**30,
        batch_size=2**29,
        linger_ms=10_000,
        compression_type="gzip",
    )
    for number in range(100):
        packer.send(f"{pipeline.prefix}app_messages", blank(2_000_000), partition=0)
        if number % 8 == 7:  # more would be a batch beyond MAX_UNPACKED
            packer.flush()
    packer.flush()
    packer.close()
    request_id = pipeline.request()
    pipeline.producer.flush()
    found = wait_for_letters(pipeline, 100)
    assert {letter.value for letter in found} == {blank(2_000_000)}
    assert [reply["request_id"] for reply in pipeline.wait_for_replies(1)] == [request_id]
    assert "restarting" not in predictor.log.read_text()


@pytest.mark.slow
def test_a_repeated_request_is_answered_each_time_and_learned_once(pipeline):
    pipeline.predictor(RETRAIN_EVERY="2")
    trainer = pipeline.trainer(RETRAIN_EVERY="2")
    for row in (0, 1, 0):
        pipeline.request(row, request_id="same")
    other = pipeline.request(3)
    pipeline.producer.flush()
    replies = pipeline.wait_for_replies(4)
    assert [reply["request_id"] for reply in replies] == ["same"] * 3 + [other]
    done = pipeline.wait_for_control(lambda ms: "training_completed" in ms[-1])[-1]
    assert done["observations"] == 2
    assert trainer.poll() is None


@pytest.mark.slow
def test_forged_retrain_requests_start_no_training_without_outcomes(pipeline):
    pipeline.predictor()
    trainer = pipeline.trainer()
    for number in range(200):
        forged = {"retrain": True, "batch_id": number, "model_id": 10**9}
        pipeline.send(forged, topic="retrain_topic")
    request_ids = pipeline.requests(25)
    pipeline.wait_for_control(lambda ms: "training_completed" in ms[-1])
    pipeline.wait_for_output(trainer, "is the champion")
    assert trainer.log.read_text().count("Retraining") == 1
    assert len(pipeline.wait_for_replies(25)) == len(request_ids)


Record = namedtuple("Record", "value")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
fields = st.sampled_from([*VALID, "income_bracket", "unknown"])
messages = st.dictionaries(
    st.sampled_from(
        ["request_id", "data", "prediction", "error", "outcome", "retrain", "model_id"]
    ),
    anything | st.dictionaries(fields, anything) | st.just(VALID),
)


@given(messages.map(lambda message: json.dumps(message).encode()) | st.binary() | st.none())
def test_whatever_comes_is_a_request_a_reply_or_explained(value):
    requests, invalid = decode_requests([Record(value)])
    for _, valid in requests:
        assert set(valid.data) <= {*VALID, "income_bracket"}
    for _, error in invalid:
        assert 0 < len(error.reason) < 400
        assert error.reason.isprintable()
        encode({"request_id": error.request_id, "error": error.reason})
    for decode in (decode_reply, decode_control, decode_outcome):
        decode(value)


@given(st.fixed_dictionaries({name: st.none() | st.text() for name in ("gender", "race")}))
def test_whatever_is_a_category_gets_a_prediction(changes):
    assert decode_request(request(**changes)).data["gender"] == changes["gender"]
