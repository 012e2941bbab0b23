"""monitor.py follows a running pipeline, and its figures equal those computed from the topics."""

import json
import math
import random
import signal
import sqlite3
from contextlib import closing, suppress

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from tests.harness.pipeline import Pipeline, wait_until
from tests.test_reader import add_partitions, create_again
from utils.kafka_client.group_lag import GroupLag

LABELS = {"<=50K": 0, ">50K": 1, "<=50K.": 0, ">50K.": 1}


def once(pipeline: Pipeline, *options: str) -> dict:
    """Return the snapshot that monitor.py --once prints."""
    printed = pipeline.run("monitor", "--once", *options).stdout.decode()
    return json.loads(printed.splitlines()[-1])


def saved(pipeline: Pipeline) -> bytes:
    """Return the state's head in the monitor's file, b"" if there is none yet."""
    path = pipeline.folder / "data" / "monitor.db"
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        for (head,) in db.execute("SELECT content FROM parts WHERE name = 'head'"):
            return head
    return b""


def send_traffic(pipeline: Pipeline, chance: random.Random, number: int) -> None:
    """Send requests, some of them invalid or with a repeated id, and outcomes in any order."""
    reports = []
    for row in range(number):
        request_id = f"{chance.randrange(10**6)}"
        data = dict(pipeline.rows[chance.randrange(5_000)])
        label = data.pop("income_bracket")
        if row % 40 == 0:
            pipeline.send({"request_id": request_id, "data": data | {"age": "old"}})
            continue
        data |= {"income_bracket": label} if row % 3 == 0 else {}
        for _ in range(1 + (row % 50 == 1)):
            pipeline.send({"request_id": request_id, "data": data})
        if row % 4:
            reports.append({"request_id": request_id, "outcome": label.rstrip(".")})
    reports += [{"request_id": each["request_id"], "outcome": "<=50K"} for each in reports[::10]]
    for report in chance.sample(reports, len(reports)):
        pipeline.send(report, topic="outcomes_topic")
    pipeline.send({"request_id": "nobody", "prediction": 1.0, "model_id": 2**50})
    pipeline.producer.flush()


def offline(pipeline: Pipeline) -> dict:
    """Compute the figures from the topics, with no code of the monitor's."""
    waiting, answers, unexpected, contained = {}, [], 0, {}
    counts = dict.fromkeys(("requests", "predictions", "error_replies", "outcomes"), 0)
    for record in pipeline.records("app_messages"):
        message = json.loads(record.value)
        name = message["request_id"]
        if "data" in message:
            is_valid = message["data"]["age"] != "old"
            counts["requests"] += is_valid
            counts["outcomes"] += is_valid and "income_bracket" in message["data"]
            waiting.setdefault(name, []).append(message["data"])
            continue
        counts["predictions" if "prediction" in message else "error_replies"] += 1
        if not waiting.get(name):
            unexpected += 1
            continue
        data = waiting[name].pop(0)
        if "prediction" in message:
            answers.append((name, message["probability"], message["model_id"]))
            if label := data.get("income_bracket"):
                contained[name] = LABELS[label]
    reported = [json.loads(record.value) for record in pipeline.records("outcomes_topic")]
    counts["outcomes"] += len(reported)
    outcomes = contained | {each["request_id"]: LABELS[each["outcome"]] for each in reported}
    known = [(p, outcomes[name], m) for name, p, m in answers if name in outcomes]
    counts |= {"observations": len(known), "unexpected_replies": unexpected}
    losses: dict[int, list[float]] = {}
    for probability, outcome, model_id in known:
        loss = -math.log(probability if outcome else 1 - probability)
        losses.setdefault(model_id, []).append(loss)
    return {"flow": counts, "losses": losses}


def check(found: dict, expected: dict) -> None:
    assert {name: found["flow"][name] for name in expected["flow"]} == expected["flow"]
    models = {each["model_id"]: each for each in found["models"] if each["outcomes"]}
    assert models.keys() == expected["losses"].keys()
    for model_id, losses in expected["losses"].items():
        model = models[model_id]
        assert model["outcomes"] == len(losses)
        assert model["mean_loss"] == pytest.approx(math.fsum(losses) / len(losses), abs=1e-9)
        assert model["window"] == len(losses)
        assert model["figures"]["logloss"] == pytest.approx(model["mean_loss"], abs=1e-9)
    assert found["following"]["missed"] == found["following"]["unmatched"] == 0


def check_group_lag(pipeline: Pipeline) -> None:
    """Compare what GroupLag says with what the topic has, before and after more requests come."""
    topic, group = f"{pipeline.prefix}app_messages", f"{pipeline.prefix}predictors"
    for process in pipeline.processes:
        process.kill()
    pipeline.requests(7)
    for group_id in (group, f"{group}-that-is-none"):
        with closing(GroupLag(topic, group_id)) as lag:
            wait_until(lambda lag=lag: lag.records is not None, what="a lag")
        assert lag.records == lag_of(pipeline, topic, group_id)

    with closing(
        GroupLag(topic, b"no text")
    ) as lag:  # the client raises an error that is no KafkaError
        lag.records = 1
        wait_until(
            lambda: lag.records is None, what="the end of a figure that is not true any more"
        )
        assert lag._thread.is_alive()


def lag_of(pipeline: Pipeline, topic: str, group_id: str) -> int:
    client = {"bootstrap_servers": pipeline.host, "group_id": group_id}
    with closing(KafkaConsumer(**client, enable_auto_commit=False)) as consumer:
        partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
        ends = consumer.end_offsets(partitions)
        return sum(ends[each] - (consumer.committed(each) or 0) for each in partitions)


def lasting(found: dict) -> dict:
    """Return what does not depend on when a snapshot is made."""
    flow = {name: n for name, n in found["flow"].items() if "per_second" not in name}
    models = [{k: v for k, v in each.items() if k != "role"} for each in found["models"]]
    return {"flow": flow | {"group_lag": None}, "models": models, "latency": found["latency"]}


@pytest.mark.slow
def test_topics_that_change_are_followed(pipeline):
    pipeline.create_topic("app_messages")
    pipeline.requests(10)
    assert once(pipeline)["flow"]["requests"] == 10
    add_partitions(pipeline, "app_messages", total=2)
    for row in range(5):
        pipeline.request(row, partition=1)
    pipeline.producer.flush()
    assert once(pipeline)["flow"]["requests"] == 15
    create_again(pipeline, "app_messages")
    pipeline.requests(5)
    assert once(pipeline)["flow"]["requests"] == 5
    with KafkaAdminClient(bootstrap_servers=pipeline.host) as admin:
        admin.delete_records({TopicPartition(f"{pipeline.prefix}app_messages", 0): 2})
    assert once(pipeline)["flow"]["requests"] == 5  # it had read them
    found = once(pipeline, "--from-beginning")
    assert (found["flow"]["requests"], found["following"]["missed"]) == (3, 2)
    assert any("deleted by Kafka" in note for note in found["following"]["notes"])
    assert [mark["kind"] for mark in found["marks"]] == ["missed"]


@pytest.mark.slow
def test_a_frozen_monitor_goes_on_and_a_damaged_file_is_made_anew(pipeline):
    pipeline.predictor()
    monitor = pipeline.start("monitor.py", MONITOR_PORT="0")
    pipeline.wait_for_output(monitor, "follows the topics")
    monitor.send_signal(signal.SIGSTOP)
    send_traffic(pipeline, random.Random(1), 100)
    wait_until(lambda: len(pipeline.replies()) >= 100, what="all replies")
    monitor.send_signal(signal.SIGCONT)
    wait_until(lambda: saved(pipeline), what="a save")
    monitor.send_signal(signal.SIGTERM)
    assert monitor.wait(30) == 0
    expected = offline(pipeline)
    check(once(pipeline), expected)
    path = pipeline.folder / "data" / "monitor.db"
    path.write_bytes(b"damaged" * 1_000)
    check(once(pipeline), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 3])
def test_a_killed_monitor_goes_on_to_the_same_figures(pipeline, kills):
    chance = random.Random(kills)
    pipeline.predictor()
    for _ in range(kills):
        before = saved(pipeline)
        monitor = pipeline.start("monitor.py", MONITOR_PORT="0")
        send_traffic(pipeline, chance, 200)
        wait_until(lambda before=before: saved(pipeline) != before, what="a save")
        send_traffic(pipeline, chance, 100)  # some of it is read and not saved
        monitor.send_signal(signal.SIGKILL)
        monitor.wait()
    total = 300 * kills
    wait_until(lambda: len(pipeline.replies()) >= total, what="all replies")
    found = once(pipeline)
    assert found["flow"]["unanswered"] == 0
    assert found["flow"]["errors"] == {"data.age: expected a number": found["flow"]["dead_letters"]}
    check(found, offline(pipeline))
    assert lasting(once(pipeline, "--from-beginning")) == lasting(found)
    check_group_lag(pipeline)
