"""Decompression that stops at a limit, for the batches that kafka-python reads.

Kafka's own limits are on compressed sizes: a batch of 18 kB may hold 150 MB. kafka-python 3.0.12
decompresses all of it at once, and a reader that has no memory for it would end at the same offset
again and again. The decoders here replace those of kafka-python, for all consumers of the process.
"""

import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import BinaryIO

import lz4.frame
import snappy
import zstandard
from kafka import codec
from kafka.record import default_records, legacy_records

# Bytes that one batch may have, decompressed. By default no client makes a batch of more than 1 MiB
# (Java: max.request.size, librdkafka: message.max.bytes); one poll() returns up to 16 MiB.
MAX_UNPACKED = 2**24
_CHUNK = 2**18  # bytes
_XERIAL_HEADER = 16  # bytes


class BatchTooLarge(Exception):
    """A batch has more than MAX_UNPACKED bytes, decompressed."""

    def __init__(self) -> None:
        super().__init__(f"its batch has more than {MAX_UNPACKED} bytes when decompressed")


def _collect(chunks: Iterable[bytes]) -> bytearray:
    """Return the chunks as one; BatchTooLarge as soon as they have too many bytes."""
    unpacked = bytearray()
    for chunk in chunks:
        unpacked += chunk
        if len(unpacked) > MAX_UNPACKED:
            raise BatchTooLarge
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
        raise BatchTooLarge
    return snappy.decompress(block)


def limit_decompression() -> None:
    """Replace the decoders of kafka-python by the ones of this module."""
    for module in default_records, legacy_records:
        module.gzip_decode = partial(_decode_stream, gzip.open)
        module.snappy_decode = _decode_snappy
        module.lz4_decode = partial(_decode_stream, lz4.frame.open)
    default_records.zstd_decode = partial(_decode_stream, _open_zstd)
