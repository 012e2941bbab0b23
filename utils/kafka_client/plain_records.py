"""Decodes the usual kind of record in a fraction of the time that kafka-python 3.0.12 takes.

Decoding takes more of a predictor's time than anything else but its model. kafka-python's decoder
calls a function in a loop for each of a record's seven numbers, and makes an object with nine
properties of them before it makes the record. Here numbers of one or two bytes, which most are, are
decoded without a call.

The format is that of KIP-98, varints of KIP-98 being those of Protocol Buffers, in zigzag encoding.
"""

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.record.abc import ABCRecord
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

_UNUSUAL = DefaultRecordBatch.CONTROL_MASK | DefaultRecordBatch.TIMESTAMP_TYPE_MASK
_new = tuple.__new__  # ConsumerRecord() takes twice as long


def decode_plain_records(
    batch: bytes, start: int, header: tuple, partition: TopicPartition, most: int
) -> tuple[list[ConsumerRecord], int]:
    """Return the records that begin at `start`, `most` at most, and where they end.

    batch : decompressed; header : of the batch, decoded. It ends before a record with headers, or
    one with anything wrong, and before the first one of a batch that is a marker or has its time
    from the broker: then kafka-python has to decode it.

    A record is returned only if its fields take exactly the bytes that its size says. Then
    kafka-python's decoder, which reads the same bytes in the same order, returns an equal one.
    """
    found: list[ConsumerRecord] = []
    if header[5] & _UNUSUAL:  # its attributes
        return found, start
    (topic, number), epoch, base, began = partition, header[2], header[0], header[7]
    try:
        while len(found) < most:
            size, first = batch[start], start + 1
            if size >= 0x80:
                size, first = size & 0x7F | batch[first] << 7, first + 1
                if size >= 0x4000:
                    size, first = _long_varint(batch, start)
            timestamp, place = batch[first + 1], first + 2
            if timestamp >= 0x80:
                timestamp, place = _long_varint(batch, place - 1)
            offset, place = batch[place], place + 1
            if offset >= 0x80:
                offset, place = offset & 0x7F | batch[place] << 7, place + 1
                if offset >= 0x4000:
                    offset, place = _long_varint(batch, place - 2)
            if batch[place] == 1:  # -1: there is none
                key, key_size, place = None, -1, place + 1
            else:
                key_size, place = decode_varint(batch, place)
                if key_size >= 0:
                    key, place = batch[place : place + key_size], place + key_size
                else:
                    key, key_size = None, -1
            value_size, place = batch[place], place + 1
            if value_size >= 0x80:
                value_size, place = value_size & 0x7F | batch[place] << 7, place + 1
                if value_size >= 0x4000:
                    value_size, place = _long_varint(batch, place - 2)
            if value_size & 1:
                value, value_size = None, -1
            else:
                value_size >>= 1
                value, place = batch[place : place + value_size], place + value_size
            if batch[first] or batch[place] or 2 * (place + 1 - first) != size:
                break  # it has attributes, or headers, or is damaged
            offset = base + ((offset >> 1) ^ -(offset & 1))
            timestamp = began + ((timestamp >> 1) ^ -(timestamp & 1))
            record = topic, number, epoch, offset, timestamp, 0, key, value, [], None
            found.append(_new(ConsumerRecord, (*record, key_size, value_size, -1)))
            start = place + 1
    except (IndexError, ValueError):
        pass
    return found, start


def record_of(partition: TopicPartition, leader_epoch: int, record: ABCRecord) -> ConsumerRecord:
    """Return what kafka-python has decoded, with the sizes that it gives it."""
    key, value, headers = record.key, record.value, record.headers
    sizes = -1 if key is None else len(key), -1 if value is None else len(value)
    of_headers = sum(len(name.encode()) + len(each or b"") for name, each in headers)
    fields = record.offset, record.timestamp, record.timestamp_type, key, value, headers
    every = *partition, leader_epoch, *fields, record.checksum, *sizes
    return ConsumerRecord(*every, of_headers if headers else -1)


def _long_varint(batch: bytes, start: int) -> tuple[int, int]:
    """Return the number that begins at `start`, in zigzag encoding, and where it ends."""
    number, end = decode_varint(batch, start)
    return (number << 1) ^ -(number < 0), end
