"""From records of app_messages and outcomes_topic to events, with one pass of msgspec a message.

What is a request, a reply, an invalid message is decided as by the predictor (utils/messages.py).
"""

import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from kafka.consumer.fetcher import ConsumerRecord
from msgspec import UNSET, Struct, UnsetType

from utils.answers import IS_NUMBER, scores_of
from utils.datasets import dataset
from utils.datasets.target import LARGEST, Probability
from utils.messages import (
    Count,
    Data,
    InvalidMessage,
    Prediction,
    Request,
    RequestId,
    decode_outcome,
    decode_reply,
    decode_request,
)

REQUEST, INVALID, PREDICTION, ERROR, UNREADABLE, NAMELESS = range(6)
NO_MODEL = -1  # the id in a reply without one
UNKNOWN = math.nan  # an outcome that has not come


class Event(NamedTuple):
    """What one message of app_messages says.

    kind : REQUEST; INVALID, an invalid message whose sender gets an error reply; PREDICTION; ERROR,
    an error reply; UNREADABLE, a reply that can't be understood; NAMELESS, an invalid message
    without id, which gets no answer.
    """

    kind: int
    key: int  # of the request_id, see key_of()
    time: int  # of the record, in ms
    partition: int
    offset: int
    content: Any = None  # of a request its data, of a prediction (model_id, scores)
    outcome: float = UNKNOWN  # that a request contains


class ReportedOutcome(NamedTuple):
    """What one message of outcomes_topic says."""

    key: int
    time: int
    rank: int  # of two outcomes of one key the one with the higher rank counts
    outcome: float


class _Message(Struct):
    """A usual request or prediction; everything else is left to utils/messages.py."""

    request_id: RequestId
    data: Data | UnsetType = UNSET
    prediction: dataset.target.prediction_type | UnsetType = UNSET
    error: str | UnsetType = UNSET
    probability: Probability | None = None
    model_id: Count | None = None
    probabilities: dict[str, Probability] | None = None


_decode = msgspec.json.Decoder(_Message).decode
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)


def key_of(request_id: str) -> int:
    """Return 64 bits of a hash of the id, as a signed integer.

    Among five million ids, two have the same key with a probability of 7e-7.
    """
    digest = blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def rank_of(partition: int, offset: int) -> int:
    """Return the rank of an outcome: of one partition the last counts, as in training."""
    return offset << 12 | partition & 0xFFF


def time_of(record: ConsumerRecord, latest: int) -> int:
    """Return a record's timestamp in ms; a later one than `latest`, of a wrong clock, is that."""
    return max(min(record.timestamp, latest), 0)


def events(records: Iterable[ConsumerRecord], latest: int) -> list[Event]:
    """Return the events of app_messages' records, in their order.

    latest : see time_of().
    """
    found = []
    for record in records:
        time = time_of(record, latest)
        kind, request_id, content, outcome = _read(record.value)
        key = 0 if request_id is None else key_of(request_id)
        event = Event(kind, key, time, record.partition, record.offset, content, outcome)
        found.append(event)
    return found


def _read(value: Any) -> tuple[int, str | None, Any, float]:
    try:
        message = _decode(str(value, "utf-8"))
    except _ERRORS:
        return _read_unusual(value)
    if message.data is not UNSET:
        outcome = Request(message.request_id, message.data).outcome
        return REQUEST, message.request_id, message.data, UNKNOWN if outcome is None else outcome
    if message.error is not UNSET:
        return ERROR, message.request_id, None, UNKNOWN
    if message.prediction is UNSET:
        return INVALID, message.request_id, None, UNKNOWN
    return _prediction(message)


def _read_unusual(value: Any) -> tuple[int, str | None, Any, float]:
    try:
        request = decode_request(value)
    except InvalidMessage as error:
        known = error.request_id is not None
        return INVALID if known else NAMELESS, error.request_id, None, UNKNOWN
    if request is not None:
        outcome = request.outcome
        return REQUEST, request.request_id, request.data, UNKNOWN if outcome is None else outcome
    reply = decode_reply(value)
    if reply is None:
        return UNREADABLE, None, None, UNKNOWN
    if isinstance(reply, Prediction):
        return _prediction(reply)
    return ERROR, reply.request_id, None, UNKNOWN


def _prediction(reply: Any) -> tuple[int, str | None, Any, float]:
    scores = scores_of(reply)
    if IS_NUMBER and not -LARGEST <= scores <= LARGEST:
        return UNREADABLE, None, None, UNKNOWN
    model_id = NO_MODEL if reply.model_id is None else reply.model_id
    return PREDICTION, reply.request_id, (model_id, scores), UNKNOWN


def reported_outcomes(records: Iterable[ConsumerRecord], latest: int) -> list[ReportedOutcome]:
    """Return the valid outcomes; the trainer puts the others aside."""
    found = []
    for record in records:
        if (reported := decode_outcome(record.value)) is not None:
            request_id, outcome = reported
            rank = rank_of(record.partition, record.offset)
            time = time_of(record, latest)
            found.append(ReportedOutcome(key_of(request_id), time, rank, outcome))
    return found
