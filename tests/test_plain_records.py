"""utils/kafka_client/plain_records.py decodes as kafka-python does, whatever the bytes are."""

import struct
from collections.abc import Callable, Iterator

from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.util import decode_varint

from utils.kafka_client import decompression
from utils.kafka_client.plain_records import _long_varint, decode_plain_records, record_of

HEADER = DefaultRecordBatch.HEADER_STRUCT
ATTRIBUTES = struct.calcsize(">qiibI")  # where they begin in the header of a batch
PLACE = TopicPartition("topic", 3)
PLAIN, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0, 0x08, 0x10, 0x20

SIZES = st.sampled_from([0, 1, 63, 64, 8_191, 8_192])  # the limits of varints
BYTES = st.binary(max_size=5) | SIZES.map(lambda size: b"x" * size)
HEADERS = st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=2)
RECORDS = st.lists(
    st.tuples(
        st.integers(0, 2**31 - 1),
        st.integers(-(2**40), 2**40),
        st.none() | BYTES,
        st.none() | BYTES,
        st.just([]) | HEADERS,
    ),
    min_size=1,
    max_size=4,
)


def encoded(records: list[tuple], attributes: int) -> bytearray:
    """Return a batch of records (offset, timestamp, key, value, headers)."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, batch_size=2**24)
    for record in records:
        builder.append(*record)
    batch = builder.build()
    struct.pack_into(">h", batch, ATTRIBUTES, attributes)
    return batch


def decoded(read: Callable, batch: bytes) -> list | None:
    """Return the fields of a batch's records; None if it is refused."""
    try:
        return list(read(batch))
    except Exception:  # codecs and headers raise errors of their own
        return None


def theirs(batch: bytes) -> Iterator[tuple]:
    decoder = DefaultRecordBatch(batch)
    return (record_of(PLACE, decoder.leader_epoch, record) for record in decoder)


def ours(batch: bytes) -> Iterator[tuple]:
    return decompression._LimitedBatch(batch).records(PLACE)


@given(RECORDS, st.sampled_from([PLAIN, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL]))
def test_valid_records_are_the_same(records, attributes):
    batch = encoded(records, attributes)
    expected = decoded(theirs, batch)
    assert decoded(ours, batch) == expected
    assert expected is not None or attributes == CONTROL


@given(RECORDS, st.data())
def test_damaged_records_are_the_same_or_refused_by_both(records, data):
    batch = encoded(records, PLAIN)
    place = st.integers(HEADER.size, min(len(batch) - 1, HEADER.size + 30))
    for _ in range(data.draw(st.integers(1, 3))):
        batch[data.draw(place)] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 129, 255]))
    batch = batch[: len(batch) - data.draw(st.integers(0, 2))]
    expected = decoded(theirs, batch)
    assert decoded(ours, batch) == expected


def test_a_record_that_says_it_is_longer_than_its_fields_is_refused():
    batch = encoded([(offset, 1, None, b"value", []) for offset in range(2)], PLAIN)
    both = len(batch) - HEADER.size
    batch[HEADER.size] = 2 * (both - 1)  # the size of the first, in zigzag encoding
    struct.pack_into(">i", batch, HEADER.size - 4, 1)  # the number of records
    assert decoded(theirs, batch) is None
    assert decoded(ours, batch) is None


@given(st.binary(min_size=1, max_size=10))
def test_a_long_number_is_the_one_that_kafka_python_reads(encoded):
    encoded = bytes(byte | 0x80 for byte in encoded[:-1]) + bytes([encoded[-1] & 0x7F])
    number, end = _long_varint(encoded, 0)
    assert ((number >> 1) ^ -(number & 1), end) == decode_varint(encoded, 0)


def test_only_records_without_headers_are_plain():
    for headers, is_plain in ([], True), ([("a", b"1")], False):
        batch = encoded([(0, 1, b"key", b"value", headers)], PLAIN)
        header = HEADER.unpack_from(batch)
        found, end = decode_plain_records(bytes(batch), HEADER.size, header, PLACE, 1)
        assert (len(found), end) == ((1, len(batch)) if is_plain else (0, HEADER.size))
