"""A batch that is too large when decompressed is put aside as one dead letter."""

import gzip
import struct

import lz4.frame
import pytest
import snappy
import zstandard
from kafka import KafkaProducer
from kafka.codec import snappy_encode
from kafka.record import default_records

from tests.harness.pipeline import memory
from utils.kafka_client import decompression
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.decompression import MAX_UNPACKED, BatchTooLarge
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


def send_batch(pipeline, values: list[bytes], codec: str, topic: str = "app_messages") -> None:
    """Send the values as one batch, as large as it may be."""
    with KafkaProducer(
        bootstrap_servers=pipeline.host,
        compression_type=codec,
        batch_size=2**31 - 1,
        max_request_size=2**31 - 1,
        linger_ms=60_000,
    ) as producer:
        futures = [producer.send(pipeline.prefix + topic, value) for value in values]
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


def read_all(pipeline) -> list:
    consumer = make_consumer()
    consumer.seek_to_beginning(*assign_all(consumer, f"{pipeline.prefix}app_messages"))
    records = list(records_up_to_now(consumer))
    consumer.close()
    return records


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
    (letter,) = pipeline.records("dead_letter_topic")
    headers = dict(letter.headers)
    assert (headers["offset"], headers["empty"]) == (b"29", b"true")
    assert headers["reason"].startswith(b"the records at offsets 0 to 29 can't be decoded: ")
    peaks = [memory(process.pid, "VmHWM") for process in (predictor, trainer)]
    assert all(peak < was + 150 for was, peak in zip(before, peaks, strict=True))
