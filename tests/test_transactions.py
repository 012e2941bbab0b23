"""One process, one batch, and one thing that goes wrong between poll and commit."""

import json
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaTimeoutError

from tests.harness.pipeline import answer, next_batch, wait_until
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.group import group_members


def replied(pipeline) -> list[str]:
    return [reply["request_id"] for reply in pipeline.replies()]


def test_a_commit_whose_answer_was_lost_is_not_repeated(stream, pipeline):
    pipeline.request(partition=0, request_id="first")
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    commit = stream._producer.client.commit_transaction

    def commit_and_lose_the_answer():
        commit()
        raise KafkaTimeoutError("the connection broke")

    stream._producer.client.commit_transaction = commit_and_lose_the_answer
    assert not stream.commit(batch)  # as far as it knows
    pipeline.request(partition=0, request_id="second")
    pipeline.producer.flush()
    assert stream.commit(answer(next_batch(stream)))
    assert replied(pipeline) == ["first", "second"]


@pytest.mark.slow
def test_a_batch_larger_than_the_topic_allows_is_sent_in_parts(stream, pipeline):
    partition = TopicPartition(f"{pipeline.prefix}app_messages", 0)
    for number in range(50):
        pipeline.request(partition=0, request_id=str(number))
    pipeline.producer.flush()
    limit = ConfigResource(ConfigResourceType.TOPIC, partition.topic, {"max.message.bytes": "300"})
    with KafkaAdminClient(bootstrap_servers=pipeline.host) as admin:
        admin.alter_configs([limit])
        wait_until(lambda: "'300'" in str(admin.describe_configs([limit])), what="the limit")
    batch = answer(wait_until(lambda: found if (found := stream.poll()).records else None))
    assert len(batch.outgoing) > 20
    assert stream.commit(batch)
    wait_until(lambda: serve(stream) and len(replied(pipeline)) == 50)
    assert replied(pipeline) == [str(number) for number in range(50)]


def test_a_rebalance_in_the_middle_of_a_batch(stream, pipeline):
    for partition in (0, 1):
        pipeline.request(partition=partition, request_id=f"early-{partition}")
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    pipeline.start("predictor.py", PREDICTOR_ID="q")
    wait_until(lambda: group_members(stream._group_id).keys() == {"p", "q"})
    stream.commit(batch)
    request_ids = {f"early-{partition}" for partition in (0, 1)}
    request_ids |= {pipeline.request(partition=n % 2) for n in range(20)}
    pipeline.producer.flush()
    wait_until(lambda: serve(stream) and len(stream._consumer.assignment()) == 1)
    request_ids |= {pipeline.request(partition=n % 2) for n in range(20)}
    pipeline.producer.flush()
    wait_until(lambda: serve(stream) and set(replied(pipeline)) == request_ids)
    assert sorted(replied(pipeline)) == sorted(request_ids)


def serve(stream) -> bool:
    return stream.commit(answer(stream.poll(timeout=0.1)))


@pytest.mark.slow
def test_own_replies_are_skipped_and_leave_no_lag(stream, pipeline):
    """Those of other producers are read: these may have written other messages too."""
    partition, seen = TopicPartition(f"{pipeline.prefix}app_messages", 0), []

    def serve_until_committed(offset: int) -> None:
        def committed() -> bool:
            batch = answer(stream.poll(timeout=0.1))
            seen.extend(json.loads(record.value)["request_id"] for record in batch.records)
            return stream.commit(batch) and stream.has_committed(partition, offset)

        wait_until(committed, what=f"everything up to offset {offset} is committed")

    pipeline.request(partition=0, request_id="first")
    pipeline.producer.flush()
    serve_until_committed(2)  # the request, our reply, the transaction's marker
    pipeline.send({"request_id": "somebody's", "prediction": 1.0}, partition=0)
    pipeline.request(partition=0, request_id="second")
    pipeline.producer.flush()
    serve_until_committed(6)
    assert seen == ["first", "somebody's", "second"]


@pytest.mark.slow
def test_a_restarted_predictor_leaves_no_lag_of_replies(pipeline):
    first = pipeline.predictor()
    pipeline.requests(3)
    pipeline.wait_for_replies(3)
    first.kill()
    first.wait()
    pipeline.predictor()
    partition = TopicPartition(f"{pipeline.prefix}app_messages", 0)
    with closing(make_consumer(group_id=f"{pipeline.prefix}predictors")) as consumer:
        end = consumer.end_offsets([partition])[partition]
        wait_until(lambda: consumer.committed(partition) == end, what=f"offset {end} is committed")
