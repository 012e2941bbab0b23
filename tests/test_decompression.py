"""A batch that is too large when decompressed is put aside as one dead letter."""

import gzip
import struct
import tracemalloc
from collections.abc import Callable

import lz4.frame
import pytest
import snappy
import zstandard
from kafka import KafkaProducer
from kafka.codec import snappy_encode
from kafka.errors import CorruptRecordError
from kafka.record import default_records
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import encode_varint

from tests.harness.pipeline import memory
from utils.kafka_client import decompression
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.decompression import (
    MAX_HEADERS,
    MAX_RECORDS,
    MAX_UNPACKED,
    BatchTooLarge,
)
from utils.kafka_client.fetcher import MAX_BYTES
from utils.kafka_client.positions import assign_all, records_up_to_now
from utils.kafka_client.records import Unreadable

MIB = 2**20
OTHERS = ("gzip", "snappy", "lz4")


def zstd_frames(data: bytes) -> bytes:
    """Return the data in frames that do not say how large they are, as zstd-jni writes them."""
    return b"".join(
        zstandard.ZstdCompressor(write_content_size=False).compress(data[start : start + MIB])
        for start in range(0, len(data), MIB)
    )


COMPRESSED = [
    ("gzip", gzip.compress),
    ("snappy", snappy_encode),
    ("snappy", snappy.compress),
    ("lz4", lz4.frame.compress),
    ("zstd", zstandard.ZstdCompressor().compress),
    ("zstd", zstd_frames),
]


@pytest.mark.parametrize(("codec", "compress"), COMPRESSED)
def test_what_is_not_too_large_is_decompressed(codec, compress):
    decode = getattr(default_records, f"{codec}_decode")
    for data in (b"a", bytes(range(256)) * 5000, bytes(MAX_UNPACKED)):
        assert decode(compress(data)) == data


@pytest.mark.parametrize(("codec", "compress"), COMPRESSED)
def test_decompression_stops_at_the_limit(codec, compress, monkeypatch):
    monkeypatch.setattr(decompression, "MAX_UNPACKED", MIB)
    with pytest.raises(BatchTooLarge, match=f"more than {MIB} bytes when decompressed"):
        getattr(default_records, f"{codec}_decode")(compress(bytes(MIB + 1)))


def test_a_size_that_is_only_claimed_is_not_allocated():
    claims_4_gib = b"\xff\xff\xff\xff\x0f" + b"\x00"
    xerial = snappy_encode(b"")[:16] + struct.pack(">i", len(claims_4_gib)) + claims_4_gib
    for payload in (claims_4_gib, xerial):
        with pytest.raises(BatchTooLarge):
            default_records.snappy_decode(payload)


def varint(value: int) -> bytes:
    encoded = bytearray()
    encode_varint(value, encoded.append)
    return bytes(encoded)


def record(headers: int, size: int | None = None) -> bytes:
    """Return an encoded record with empty headers; size : what it says, if that is a lie."""
    fields = bytes(3) + varint(-1) * 2 + varint(headers) + bytes(2 * headers)
    return varint(len(fields) if size is None else size) + fields


def decode(records: list[bytes]) -> list:
    """Return the records of an encoded batch, as the consumer decodes it."""
    content = b"".join(records)
    length = DefaultRecordBatch.HEADER_STRUCT.size - DefaultRecordBatch.AFTER_LEN_OFFSET
    unused = (0, 0, 0, 0, 0, -1, -1, -1)
    header = DefaultRecordBatch.HEADER_STRUCT.pack(
        0, length + len(content), 0, 2, *unused, len(records)
    )
    return list(MemoryRecords(header + content).next_batch())


def peak(action: Callable) -> float:
    """Return the MB that Python had to allocate for the action."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def test_records_and_headers_within_the_limits_are_decoded():
    [most] = decode([record(MAX_HEADERS)])
    assert most.headers == [("", b"")] * MAX_HEADERS
    assert len(decode([record(0)] * MAX_RECORDS)) == MAX_RECORDS


def test_a_batch_with_too_many_records_is_not_decoded():
    with pytest.raises(BatchTooLarge, match=f"^its batch has more than {MAX_RECORDS} records$"):
        decode([record(0)] * (MAX_RECORDS + 1))


@pytest.mark.parametrize("number", [MAX_HEADERS + 1, 7_000_000])
def test_a_record_with_too_many_headers_is_not_decoded(number):
    batch = [record(0), record(number)]

    def refuse() -> None:
        with pytest.raises(BatchTooLarge, match=f"^a record of it.* more than {MAX_HEADERS} head"):
            decode(batch)

    assert peak(refuse) < 60  # of which are copies of the batch: 14 MB each


@pytest.mark.parametrize("size", [10, 2 * MAX_HEADERS, 2**31, -5])
def test_a_record_that_lies_about_its_size_costs_no_memory(size):
    batch = [record(3_000_000, size)]

    def refuse() -> None:
        with pytest.raises((CorruptRecordError, BatchTooLarge)):
            decode(batch)

    assert peak(refuse) < 30


def send_batch(
    pipeline,
    values: list[bytes],
    codec: str,
    topic: str = "app_messages",
    headers: list[tuple[str, bytes]] | None = None,
) -> None:
    """Send the values as one batch, as large as it may be."""
    with KafkaProducer(
        bootstrap_servers=pipeline.host,
        compression_type=codec,
        batch_size=2**31 - 1,
        max_request_size=2**31 - 1,
        linger_ms=60_000,
    ) as producer:
        futures = [
            producer.send(pipeline.prefix + topic, value, headers=headers) for value in values
        ]
        producer.flush()
        assert all(future.succeeded() for future in futures)


@pytest.mark.parametrize(
    "codec", ["zstd", *(pytest.param(codec, marks=pytest.mark.slow) for codec in OTHERS)]
)
def test_a_batch_that_is_too_large_is_one_record(pipeline, codec):
    pipeline.create_topic("app_messages", configs={"max.message.bytes": str(4 * MIB)})
    pipeline.send(b"before")
    pipeline.producer.flush()
    send_batch(pipeline, [bytes(MIB)] * 20, codec)
    send_batch(pipeline, [b"after", b"and after"], codec)
    first, batch, *last = read_all(pipeline)
    assert (first.value, batch.offset) == (b"before", 20)
    assert batch.value == Unreadable(
        "the records at offsets 1 to 20 can't be decoded: "
        "its batch has more than 16777216 bytes when decompressed"
    )
    assert [(record.offset, record.value) for record in last] == [
        (21, b"after"),
        (22, b"and after"),
    ]


def test_a_record_with_too_many_headers_is_one_record(pipeline):
    pipeline.create_topic("app_messages")
    send_batch(pipeline, [b"before"] * 2, "zstd")
    send_batch(pipeline, [b"{}"] * 3, "zstd", headers=[("", b"")] * (MAX_HEADERS + 1))
    send_batch(pipeline, [bytes(8 * MIB)], "zstd")
    *first, batch, last = read_all(pipeline)
    assert [record.value for record in first] == [b"before"] * 2
    assert batch.value == Unreadable(
        "the records at offsets 2 to 4 can't be decoded: "
        "a record of its batch has more than 1000 headers"
    )
    assert (last.offset, last.value) == (5, bytes(8 * MIB))


@pytest.mark.slow
def test_a_poll_takes_no_more_memory_than_it_may(pipeline):
    """20 records of 5 MiB in batches of their own are one response to the client."""
    pipeline.create_topic("app_messages")
    for _ in range(20):
        send_batch(pipeline, [bytes(5 * MIB)], "zstd")
    consumer = make_consumer(max_poll_records=4_000)
    consumer.seek_to_beginning(*assign_all(consumer, f"{pipeline.prefix}app_messages"))
    found, offsets = [], []

    def poll() -> None:
        found[:] = [each for records in consumer.poll(500).values() for each in records]

    while len(offsets) < 20:
        assert peak(poll) < 60
        assert sum(len(each.value) for each in found) <= MAX_BYTES + 5 * MIB
        offsets += [each.offset for each in found]
    assert offsets == list(range(20))
    consumer.close()


def read_all(pipeline) -> list:
    consumer = make_consumer()
    consumer.seek_to_beginning(*assign_all(consumer, f"{pipeline.prefix}app_messages"))
    records = list(records_up_to_now(consumer))
    consumer.close()
    return records


@pytest.mark.slow
@pytest.mark.slow
def test_a_decompression_bomb_costs_no_memory_and_is_one_dead_letter(pipeline):
    """18 kB that are 300 MB when decompressed."""
    predictor, trainer = pipeline.predictor(), pipeline.trainer()
    before = [memory(process.pid) for process in (predictor, trainer)]
    for topic in ("app_messages", "retrain_topic", "outcomes_topic"):
        send_batch(pipeline, [bytes(10 * MIB)] * 30, "zstd", topic)
    pipeline.requests(30)
    pipeline.wait_for_replies(30)
    pipeline.wait_for_output(predictor, "Model 1 answers from now on")
    letters = [dict(letter.headers) for letter in pipeline.records("dead_letter_topic")]
    topics = {letter["topic"].decode().removeprefix(pipeline.prefix) for letter in letters}
    assert (len(letters), topics) == (2, {"app_messages", "outcomes_topic"})
    for headers in letters:
        assert (headers["offset"], headers["empty"]) == (b"29", b"true")
        assert headers["reason"].startswith(b"the records at offsets 0 to 29 can't be decoded: ")
    peaks = [memory(process.pid, "VmHWM") for process in (predictor, trainer)]
    assert all(peak < was + 150 for was, peak in zip(before, peaks, strict=True))
