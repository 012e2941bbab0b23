"""Limits of what one batch may hold, for the batches that kafka-python reads.

Kafka's own limits are on compressed sizes: a batch of 18 kB may hold 150 MB, and one of 1 kB seven
million empty headers. kafka-python 3.0.12 decompresses all of a batch and makes objects of all
headers of a record at once, and a reader that has no memory for it would end at the same offset
again and again. What is here replaces its decoders and batches, for all consumers of the process.
"""

import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import BinaryIO

import lz4.frame
import snappy
import zstandard
from kafka import TopicPartition, codec
from kafka.consumer.fetcher import ConsumerRecord
from kafka.record import default_records, legacy_records, memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

from utils.kafka_client.plain_records import decode_plain_records, record_of

# Bytes that one batch may have, decompressed. By default no client makes a batch of more than 1 MiB
# (Java: max.request.size, librdkafka: message.max.bytes); one poll() returns up to 16 MiB.
MAX_UNPACKED = 2**24
# 1 MiB has room for 25,000 of the shortest outcomes; librdkafka puts 10,000 records into a batch.
MAX_RECORDS = 100_000
MAX_HEADERS = 1_000  # of one record
_SMALLEST_HEADER = 2  # bytes: the lengths of its name and its value
_AT_ONCE = 64  # records that are decoded before the first of them is asked for
_CHUNK = 2**18  # bytes
_XERIAL_HEADER = 16  # bytes


class BatchTooLarge(Exception):
    """A batch exceeds MAX_UNPACKED or MAX_RECORDS, or one of its records MAX_HEADERS."""


def _too_many_bytes() -> BatchTooLarge:
    return BatchTooLarge(f"its batch has more than {MAX_UNPACKED} bytes when decompressed")


def _collect(chunks: Iterable[bytes]) -> bytearray:
    """Return the chunks as one; BatchTooLarge as soon as they have too many bytes."""
    unpacked = bytearray()
    for chunk in chunks:
        unpacked += chunk
        if len(unpacked) > MAX_UNPACKED:
            raise _too_many_bytes()
    return unpacked


def _decode_stream(open_stream: Callable[[BinaryIO], BinaryIO], payload: bytes) -> bytearray:
    with open_stream(io.BytesIO(payload)) as stream:
        return _collect(iter(partial(stream.read, _CHUNK), b""))


def _open_zstd(compressed: BinaryIO) -> BinaryIO:
    return zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True)


def _decode_snappy(payload: bytes) -> bytearray:
    is_xerial = codec._detect_xerial_stream(payload)
    return _collect(map(_unpack_block, _xerial_blocks(payload) if is_xerial else [payload]))


def _xerial_blocks(payload: bytes) -> Iterator[bytes]:
    """Yield the blocks of a stream as snappy-java writes it: each has its size before it."""
    start = _XERIAL_HEADER
    while start < len(payload):
        size = int.from_bytes(payload[start : start + 4], "big")
        yield payload[start + 4 : start + 4 + size]
        start += 4 + size


def _unpack_block(block: bytes) -> bytes:
    """Decompress one block of Snappy, which says at its beginning how large it will be."""
    size = shift = 0
    for byte in block[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if size > MAX_UNPACKED:
        raise _too_many_bytes()
    return snappy.decompress(block)


class _LimitedBatch(DefaultRecordBatch):
    """A batch that is not decoded beyond the limits; see BatchTooLarge."""

    __slots__ = ()

    def _maybe_uncompress(self) -> None:
        if self.records_count > MAX_RECORDS:
            raise BatchTooLarge(f"its batch has more than {MAX_RECORDS} records")
        super()._maybe_uncompress()

    def records(self, partition: TopicPartition) -> Iterator[ConsumerRecord]:
        """Decode the records of this partition, in the place of __iter__()."""
        self._maybe_uncompress()
        self._buffer = bytes(self._buffer)  # a part of a bytearray is copied twice
        while (left := self._num_records - self._next_record_index) > 0:
            plain, self._pos = decode_plain_records(
                self._buffer, self._pos, self._header_data, partition, min(left, _AT_ONCE)
            )
            self._next_record_index += len(plain)
            yield from plain
            if not plain:
                yield record_of(partition, self.leader_epoch, next(self))
        next(self, None)  # CorruptRecordError if there are bytes behind the last record

    def _read_msg(self) -> DefaultRecord:
        """Decode the next record; if it has headers, from a copy that ends where it says it ends.

        A broker does not check that in compressed batches (DefaultRecord.readPartiallyFrom). So a
        record that says it is too short for MAX_HEADERS can't have more.
        """
        batch, first = self._buffer, self._pos
        size, start = decode_varint(batch, first)
        if size > MAX_HEADERS * _SMALLEST_HEADER and _header_count(batch, start) > MAX_HEADERS:
            raise BatchTooLarge(f"a record of its batch has more than {MAX_HEADERS} headers")
        self._buffer, self._pos = batch[first : start + size], 0
        record = super()._read_msg()
        self._buffer, self._pos = batch, start + size
        return record


def _header_count(batch: bytes, start: int) -> int:
    """Return how many headers the record has whose fields begin at `start`, after its size."""
    for _ in ("attributes", "timestamp", "offset"):
        _, start = decode_varint(batch, start)
    for _ in ("key", "value"):
        size, start = decode_varint(batch, start)
        start += max(size, 0)
    return decode_varint(batch, start)[0]


def limit_batches() -> None:
    """Replace the decoders and the batches of kafka-python by the ones of this module."""
    memory_records.DefaultRecordBatch = _LimitedBatch
    for module in default_records, legacy_records:
        module.gzip_decode = partial(_decode_stream, gzip.open)
        module.snappy_decode = _decode_snappy
        module.lz4_decode = partial(_decode_stream, lz4.frame.open)
    default_records.zstd_decode = partial(_decode_stream, _open_zstd)
