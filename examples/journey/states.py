"""The states of the sessions in Kafka: the last record of each session is its state now.

Each is written in the transaction of the events that led to it (utils/kafka_client/transactions.py)
and has the session as its key; a session that has ended has an empty value, and compaction deletes
it.
"""

import time
from contextlib import closing

import msgspec
from kafka import TopicPartition
from kafka.errors import KafkaError

from examples.journey.events import SESSIONS
from examples.journey.sessions import Session
from utils.console import warn
from utils.kafka_client.consumer import Consumer, make_consumer
from utils.kafka_client.positions import all_partitions
from utils.messages import encode
from utils.process import stopping

RETRY_INTERVAL = 1.0  # seconds
READER = {"max_poll_records": 10_000, "max_partition_fetch_bytes": 2**23}
decode_state = msgspec.json.Decoder(Session).decode


def encode_state(session: Session | None) -> bytes | None:
    """Return the value of a session's record, None if the session has ended."""
    return None if session is None else encode(session)


def restore(partition: int) -> dict[str, Session]:
    """Return the sessions of a partition by name, from the longest silent to the last one heard.

    Tries again while Kafka is away; SystemExit if a signal has asked the process to stop.
    """
    while not stopping():
        try:
            return _read(TopicPartition(SESSIONS, partition))
        except KafkaError as error:
            warn(f"{SESSIONS} can't be read, trying again: {error}")
            time.sleep(RETRY_INTERVAL)
    raise SystemExit(0)


def _read(place: TopicPartition) -> dict[str, Session]:
    """Read up to the high watermark, not only to the last stable offset.

    A transaction that has committed the offsets of its events may not have its marker in this
    partition yet. One whose process is dead is aborted by Kafka within twenty seconds.
    """
    found: dict[str, Session] = {}
    with closing(make_consumer(**READER)) as consumer:
        if place not in all_partitions(consumer, SESSIONS):
            raise SystemExit(f"{SESSIONS} has fewer partitions than the topic of events: add some")
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        # Unknown until the first response.
        while (end := consumer.highwater(place)) is None or _position(consumer, place) < end:
            if stopping():
                raise SystemExit(0)
            for record in consumer.poll(timeout_ms=200).get(place, ()):
                _note(found, record.key, record.value)
    return dict(sorted(found.items(), key=lambda each: each[1].seen))


def _position(consumer: Consumer, place: TopicPartition) -> int:
    return consumer.positions().get(place, 0)


def _note(found: dict[str, Session], key: bytes | None, value: bytes | None) -> None:
    try:
        name = bytes(key).decode()
        if value is None:
            found.pop(name, None)
        else:
            found[name] = decode_state(value)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
        warn(f"{SESSIONS} has a record that is no state, which is skipped: {error}")
