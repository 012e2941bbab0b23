"""Messages as one compressed blob, and the hashes by which a request's messages are found in it."""

import json
import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard

from monitoring.audit.message_runs import Run
from monitoring.figures.decoding import ERROR, PREDICTION, REQUEST
from monitoring.hashes import hash_of

LEVEL = 3  # of zstd
MOST_LEVELS = 50  # of what is read of a message; a request has two
MOST_MESSAGES = 100  # with one id that are looked at: anybody may send any number of them


class Message(NamedTuple):
    """A record of a topic; time : its timestamp, in ms since 1970."""

    topic: str
    partition: int
    offset: int
    time: int
    value: bytes | None


class _Head(msgspec.Struct, gc=False):
    request_id: Any = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Block(msgspec.Struct, array_like=True):
    """Messages as columns, which compress better; differences of 64-bit numbers as bytes."""

    places: list[tuple[str, int]]  # topics and partitions
    place: bytes
    offsets: bytes
    times: bytes
    values: list[bytes | None]


_decode_head = msgspec.json.Decoder(_Head).decode
_encode_block = msgspec.msgpack.Encoder().encode
_decode_block = msgspec.msgpack.Decoder(_Block).decode
_NO_HEAD = _Head()
_EVENTS_WITH_ID = frozenset((REQUEST, PREDICTION, ERROR))  # a request is what has data
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)


def request_id_of(value: bytes | None) -> str | None:
    """Return the request_id of a message, None if it has none."""
    request_id = _head(value).request_id
    return request_id if isinstance(request_id, str) else None


def has_data(value: bytes | None) -> bool:
    """Return whether a message is a request, or would be if its fields were valid."""
    return _head(value).data is not msgspec.UNSET


def content_of(value: bytes | None) -> Any:
    """Return what a message contains; ValueError if it is not JSON.

    Numbers too large for 64 bits may be text, and what is nested deeper than MOST_LEVELS is empty.
    """
    try:
        content = msgspec.json.decode(value)
    except _ERRORS:
        content = _decode_leniently(value)
    level = [content]
    for _ in range(MOST_LEVELS):
        level = [inner for each in level for inner in _within(each)]
    for each in filter(_within, level):
        each.clear()  # writing it would take more stack than reading it did
    return content


def _within(value: Any) -> list:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _decode_leniently(value: bytes | None) -> Any:
    try:
        return json.loads(value, parse_float=_number, parse_int=_number, parse_constant=str)
    except (ValueError, RecursionError, TypeError) as error:
        raise ValueError(f"not JSON: {error}") from None


def _number(text: str) -> int | float | str:
    number = float(text)
    if not math.isfinite(number):
        return text
    return int(text) if text.lstrip("-").isdigit() else number


def _head(value: bytes | None) -> _Head:
    try:
        return _decode_head(value)
    except _ERRORS:
        return _leniently(value)


def _leniently(value: bytes | None) -> _Head:
    """As utils/messages.py, which also answers a sender whose number is too large for msgspec."""
    with suppress(ValueError, RecursionError, TypeError, AttributeError):
        content = json.loads(value)
        return _Head(content.get("request_id"), content.get("data", msgspec.UNSET))
    return _NO_HEAD


def index_of(runs: list[Run]) -> tuple[int, bytes]:
    """Return how many messages have data, and the sorted hashes of their request ids.

    A hash has 8 bytes; an id that several messages have is there once.
    """
    requests, hashes = 0, []
    for run in runs:
        for event, value in zip(run.events, run.values, strict=True):
            if event is not None and event[0] in _EVENTS_WITH_ID:
                requests += event[0] == REQUEST
                hashes.append(event[1])
            else:
                head = _head(value)
                requests += head.data is not msgspec.UNSET
                if type(head.request_id) is str:
                    hashes.append(hash_of(head.request_id))
    return requests, np.unique(np.array(hashes, np.int64).view(np.uint64)).tobytes()


def hashes_of(request_ids: Collection[str]) -> np.ndarray:
    """Return the hashes that the index has of different request_ids: sorted, uint64."""
    return np.sort(np.array([*map(hash_of, request_ids)], np.int64).view(np.uint64))


def pack(runs: list[Run]) -> bytes:
    """Return messages as one compressed blob, for unpack()."""
    places = sorted({run[:2] for run in runs})
    numbers = np.array([places.index(run[:2]) for run in runs], np.uint16)
    place = np.repeat(numbers, [len(run.offsets) for run in runs]).tobytes()
    offsets, times, values = (
        [*chain.from_iterable(column)] for column in [*zip(*runs, strict=True)][2:5]
    )
    block = _Block(places, place, _differences(offsets), _differences(times), values)
    return zstandard.compress(_encode_block(block), LEVEL)


def unpack(content: bytes) -> Iterator[Message]:
    """Yield the messages of a blob that pack() has made."""
    block = _decode_block(zstandard.decompress(content))
    places = [block.places[place] for place in np.frombuffer(block.place, np.uint16).tolist()]
    offsets, times = (
        np.frombuffer(each, np.int64).cumsum().tolist() for each in (block.offsets, block.times)
    )
    for (topic, partition), *rest in zip(places, offsets, times, block.values, strict=True):
        yield Message(topic, partition, *rest)


def _differences(numbers: Iterable[int]) -> bytes:
    return np.diff(np.array(numbers, np.int64), prepend=0).tobytes()
