"""Decodes the usual kind of record in a fraction of the time that kafka-python 3.0.12 takes.

Decoding takes more of a predictor's time than anything else but its model. kafka-python's decoder
calls a function in a loop for each of a record's seven numbers, and makes an object with nine
properties of them before it makes the record. Here most numbers are decoded without a call.

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
    batch: bytearray, start: int, header: tuple, partition: TopicPartition, most: int
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
            size, first = _varint(batch, start)
            timestamp, place = batch[first + 1], first + 2
            if timestamp < 0x80:
                timestamp = (timestamp >> 1) ^ -(timestamp & 1)
            else:
                timestamp, place = _varint(batch, place - 1)
            offset, place = _varint(batch, place)
            key, key_size, place = None, -1, place + 1
            if batch[place - 1] != 1:  # -1: there is none
                key_size, place = _varint(batch, place - 1)
                if key_size >= 0:
                    key, place = bytes(batch[place : place + key_size]), place + key_size
                else:
                    key_size = -1
            value, (value_size, place) = None, _varint(batch, place)
            if value_size >= 0:
                value, place = bytes(batch[place : place + value_size]), place + value_size
            else:
                value_size = -1
            if batch[first] or batch[place] or place + 1 != first + size:
                break  # it has attributes, or headers, or is damaged
            fields = base + offset, began + timestamp, 0, key, value, [], None
            sizes = key_size, value_size, -1
            found.append(_new(ConsumerRecord, (topic, number, epoch, *fields, *sizes)))
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


def _varint(batch: bytearray, start: int) -> tuple[int, int]:
    """Return the number that begins at `start`, and where it ends; most have one or two bytes."""
    low = batch[start]
    if low < 0x80:
        return (low >> 1) ^ -(low & 1), start + 1
    high = batch[start + 1]
    if high < 0x80:
        both = low & 0x7F | high << 7
        return (both >> 1) ^ -(both & 1), start + 2
    return decode_varint(batch, start)
