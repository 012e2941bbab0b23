"""The format of a dead letter: a record that could not be understood, put aside.

The letter's key and value are the record's own, byte for byte. Its headers, UTF-8 text, say where
the record came from (topic, partition, offset, timestamp) and why it was put aside (reason). A
letter that can't hold the record, because the topic does not take one so large or because the
client could not decode it, is marked by the header `empty`; the record is still where it came from.

The topic also holds the checkpoints of tools/dead_letters.py (utils/kafka_client/checkpoints.py),
which are no letters.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from kafka.consumer.fetcher import ConsumerRecord

from utils.kafka_client.checkpoints import HEADER as CHECKPOINT
from utils.kafka_client.records import Unreadable

EMPTY = ("empty", b"true")


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter as it was read from its topic."""

    offset: int  # of the letter itself
    key: bytes | None
    value: bytes | None
    facts: dict[str, str]  # its headers
    is_empty: bool  # it does not hold the record that was put aside


def encode_letter(
    record: ConsumerRecord, topic: str, reason: str, fits: Callable[[dict], bool]
) -> dict:
    """Return the dead letter for a record, as the arguments of KafkaProducer.send().

    fits : tells whether the topic takes a letter of this size. If not, the letter is empty, and its
    headers have the size and the SHA-256 digest of the record's value.
    """
    headers = [
        ("topic", record.topic.encode()),
        ("partition", str(record.partition).encode()),
        ("offset", str(record.offset).encode()),
        ("timestamp", str(record.timestamp).encode()),
        ("reason", reason.encode()),
    ]
    letter = {"topic": topic, "partition": 0, "headers": headers}
    if isinstance(record.value, Unreadable):
        return letter | {"key": b"", "value": None, "headers": [*headers, EMPTY]}
    # A record needs a key or a value; a tombstone without a key gets an empty key.
    key = b"" if record.key is None and record.value is None else record.key
    whole = letter | {"key": key, "value": record.value}
    if fits(whole):
        return whole
    value = record.value or b""
    digest = hashlib.sha256(value).hexdigest().encode()
    size_and_digest = [("size", b"%d" % len(value)), ("sha256", digest)]
    return letter | {"key": b"", "value": None, "headers": [*headers, EMPTY, *size_and_digest]}


def is_letter(record: ConsumerRecord) -> bool:
    """Return True if a record of the topic of dead letters is a letter, not a checkpoint."""
    return all(name != CHECKPOINT for name, _ in record.headers)


def decode_letter(record: ConsumerRecord) -> DeadLetter:
    """Return the dead letter in a record of its topic; never fails, whoever wrote it."""
    if isinstance(record.value, Unreadable):
        return DeadLetter(record.offset, None, None, {"reason": record.value.reason}, is_empty=True)
    facts = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    # Empty letters of an earlier version have a digest, but not the header `empty`.
    is_empty = EMPTY in record.headers or "sha256" in facts
    return DeadLetter(record.offset, record.key, record.value, facts, is_empty)
