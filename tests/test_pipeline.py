"""The promises of the pipeline, kept by the real scripts on a real broker."""

import json
import signal
from collections import Counter

import pytest
from kafka import KafkaProducer

from tests.harness.pages import not_printed, shown_in_readme
from tests.harness.pipeline import wait_until
from utils.model_store.registry import Registry


def answered_once(request_ids: list[str], replies: list[dict]) -> bool:
    return Counter(reply["request_id"] for reply in replies) == Counter(request_ids)


def test_requests_are_answered_and_the_model_is_replaced(pipeline):
    predictor, trainer = pipeline.predictor(), pipeline.trainer()
    first = pipeline.requests(30)
    replies = pipeline.wait_for_replies(30)
    assert answered_once(first, replies)
    assert all(reply["prediction"] in (0.0, 1.0) for reply in replies)
    assert all((reply["probability"] > 0.5) == reply["prediction"] for reply in replies)

    pipeline.wait_for_control(lambda messages: any("training_completed" in m for m in messages))
    pipeline.wait_for_output(predictor, "Model 1 answers")
    second = pipeline.requests(20)
    replies = pipeline.wait_for_replies(50)
    assert answered_once(first + second, replies)
    assert {reply["model_id"] for reply in replies[30:]} == {1}

    pipeline.wait_for_control(
        lambda messages: messages[-1].get("retrain_requests_covered") == 2  # 25 and 50
    )
    card = json.loads((pipeline.folder / "models" / "model_2.json").read_text())
    assert card["observations"] == 50
    assert card["rows"] + card["judge_rows_held_out"] == 32_561 + 50
    for process in (predictor, trainer):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0, process.log.read_text()
    assert not_printed(shown_in_readme("predictor.1"), predictor.log.read_text()) == []
    begin, _ = shown_in_readme("trainer.1")  # the second depends on the model
    assert not_printed([begin], trainer.log.read_text()) == []


@pytest.mark.slow
def test_everything_in_adult_test_is_answered(pipeline):
    pipeline.predictor()
    request_ids = pipeline.requests(16_281)
    replies = pipeline.wait_for_replies(16_281)
    assert answered_once(request_ids, replies)
    correct = {
        request_id: row["income_bracket"].startswith(">50K")
        for request_id, row in zip(request_ids, pipeline.rows, strict=True)
    }
    hits = sum(reply["prediction"] == correct[reply["request_id"]] for reply in replies)
    assert hits / len(replies) > 0.86


def test_retrain_requests_come_at_every_border_of_a_batch(pipeline):
    pipeline.create_topic("app_messages")
    pipeline.requests(107)  # before the predictor starts: one large batch
    predictor = pipeline.predictor(RETRAIN_EVERY="25")
    pipeline.wait_for_replies(107)
    pipeline.wait_for_output(predictor, "Answered 107 more requests: asked for retraining 4 times.")
    requests = pipeline.messages("retrain_topic")
    assert [m["batch_id"] for m in requests] == [1, 2, 3, 4]
    assert [m["offset"] for m in requests] == [24, 49, 74, 99]
    assert {m["retrain_every"] for m in requests} == {25}


def test_the_count_survives_a_kill(pipeline):
    first = pipeline.predictor(RETRAIN_EVERY="10")
    pipeline.requests(8)
    pipeline.wait_for_replies(8)
    first.kill()
    first.wait()
    pipeline.predictor(RETRAIN_EVERY="10")
    pipeline.requests(3)
    pipeline.wait_for_replies(11)
    assert [m["batch_id"] for m in pipeline.messages("retrain_topic")] == [1]


def test_kill_in_the_middle_of_a_stream(pipeline):
    predictor, request_ids = pipeline.predictor(), []
    for kill in range(3):
        answered = len(pipeline.replies())
        request_ids += pipeline.requests(400)
        # In the middle: some of these are answered, by transactions that end at any moment.
        pipeline.wait_for_replies(answered + 1 + 40 * kill)
        predictor.kill()
        predictor.wait()
        request_ids += pipeline.requests(100)
        predictor = pipeline.start("predictor.py")
    replies = pipeline.wait_for_replies(len(request_ids))
    assert answered_once(request_ids, replies)
    borders = pipeline.messages("retrain_topic")
    assert [m["batch_id"] for m in borders] == list(range(1, len(request_ids) // 25 + 1))


def test_a_predictor_killed_while_it_joins_leaves_no_group_without_partitions(pipeline):
    pipeline.predictor(RETRAIN_EVERY="1000").kill()
    pipeline.requests(10)
    pipeline.predictor(RETRAIN_EVERY="1000")
    pipeline.wait_for_replies(10)


@pytest.mark.slow
def test_another_first_model_replaces_the_champion_while_all_scripts_run(pipeline):
    predictor, trainer = pipeline.predictor(), pipeline.trainer(PROMOTE="always")
    pipeline.requests(25)
    pipeline.wait_for_output(predictor, "Model 1 answers")
    said = pipeline.run("initialize", "--again", "--max-evals", "1").stdout.decode()
    assert "It replaces model 1. To go back: python -m tools.models promote 1" in said
    pipeline.wait_for_output(predictor, "Model 2 answers")
    registry = Registry(pipeline.folder / "models")
    assert registry.champion_id() == 2
    assert registry.card(2).rows == registry.card(0).rows  # of the original data alone
    pipeline.wait_for_control(lambda messages: messages[-1].get("model_id") == 2)  # is announced
    pipeline.requests(25)
    pipeline.wait_for_output(predictor, "Model 3 answers")
    assert registry.card(3).observations == 50  # the observations are kept
    assert registry.card(3).parent == 2
    assert "Traceback" not in trainer.log.read_text()


def test_what_is_invalid_gets_a_dead_letter_and_an_error_reply(pipeline):
    pipeline.predictor()
    bad = {"request_id": "bad-1", "data": pipeline.rows[0] | {"age": "old"}}
    pipeline.send(bad, key=b"the key")
    pipeline.send(b"\xff\x00 not JSON")
    pipeline.request(request_id="good-1")
    pipeline.producer.flush()
    replies = {reply["request_id"]: reply for reply in pipeline.wait_for_replies(2)}
    assert replies["bad-1"]["error"] == "data.age: expected a number, got 'old'"
    assert "prediction" in replies["good-1"]
    letters = pipeline.records("dead_letter_topic")
    assert [letter.value for letter in letters] == [json.dumps(bad).encode(), b"\xff\x00 not JSON"]
    assert letters[0].key == b"the key"
    headers = dict(letters[0].headers)
    assert headers["topic"] == f"{pipeline.prefix}app_messages".encode()
    assert (headers["partition"], headers["offset"]) == (b"0", b"0")
    assert headers["reason"] == replies["bad-1"]["error"].encode()


def test_a_reply_goes_to_its_requests_partition_with_its_key(pipeline):
    pipeline.create_topic("app_messages", partitions=3)
    pipeline.predictor()
    sent = {
        pipeline.request(request_id=f"r{i}", partition=i % 3, key=b"k%d" % i): i for i in range(9)
    }
    pipeline.producer.flush()
    pipeline.wait_for_replies(9)
    replies = [r for r in pipeline.records("app_messages") if b"prediction" in r.value]
    for record in replies:
        i = sent[json.loads(record.value)["request_id"]]
        assert (record.partition, record.key) == (i % 3, b"k%d" % i)


def test_requests_may_be_compressed_as_any_client_does(pipeline):
    pipeline.predictor()
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        options = {"compression_type": codec, "linger_ms": 50}
        producer = KafkaProducer(bootstrap_servers=pipeline.host, **options)
        for row in range(20):
            request = {"request_id": f"{codec}-{row}", "data": pipeline.rows[row]}
            producer.send(f"{pipeline.prefix}app_messages", json.dumps(request).encode())
        producer.close()
    assert len(pipeline.wait_for_replies(80)) == 80


def test_one_request_at_a_time_works_too(pipeline):
    pipeline.predictor()
    for number in range(1, 6):
        pipeline.requests(1)
        pipeline.wait_for_replies(number)


@pytest.mark.slow
def test_a_failed_training_is_announced_and_the_trainer_goes_on(pipeline):
    damaged = pipeline.folder / "data" / "adult.data"
    whole = damaged.read_bytes()
    predictor, trainer = pipeline.predictor(), pipeline.trainer()
    damaged.write_bytes(whole[:1000])
    pipeline.requests(25)
    messages = pipeline.wait_for_control(lambda messages: "training_failed" in messages[-1])
    assert "adult.data" in messages[-1]["training_failed"]
    damaged.write_bytes(whole)
    pipeline.requests(25)
    pipeline.wait_for_output(predictor, "Model 2 answers")
    assert trainer.poll() is None


def test_scripts_without_a_model_say_what_to_do(pipeline):
    for path in (pipeline.folder / "models").iterdir():
        path.unlink()
    for script in ("predictor.py", "trainer.py"):
        process = pipeline.start(script)
        assert process.wait(timeout=30) == 1
        assert "python initialize.py" in process.log.read_text()


@pytest.mark.slow
def test_scripts_without_a_broker_wait_and_give_up(pipeline):
    for script in ("predictor.py", "trainer.py", "sample_app.py"):
        process = pipeline.start(script, KAFKA_HOST="localhost:1", BROKER_TIMEOUT="1")
        wait_until(lambda process=process: process.poll() is not None)
        assert process.returncode == 1
        assert "No Kafka answers at localhost:1 (KAFKA_HOST)" in process.log.read_text()
