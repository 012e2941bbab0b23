"""From records of app_messages and outcomes_topic to events, with one pass of msgspec a message.

What is a request, a reply, an invalid message is decided as by the predictor (utils/messages.py).
"""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple, NotRequired, get_args, get_origin

import msgspec
from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from msgspec import UNSET, Struct, UnsetType

from monitoring.hashes import hash_of_valid
from utils.answers import IS_NUMBER, scores_of
from utils.datasets import dataset
from utils.datasets.target import LARGEST, Probability
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC
from utils.messages import (
    Count,
    Data,
    InvalidMessage,
    Prediction,
    RequestId,
    decode_outcome,
    decode_reply,
    decode_request,
)

REQUEST, INVALID, PREDICTION, ERROR, UNREADABLE, NAMELESS = range(6)
AHEAD = 5.0  # seconds that a timestamp may be in the future: later ones are of a wrong clock
NO_MODEL = -1  # the id in a reply without one
UNKNOWN = math.nan  # an outcome that has not come

# What one message of app_messages says: (kind, key, time, partition, offset, content, outcome). A
# tuple without names: making and reading one with names takes as long as the join.
# kind : REQUEST; INVALID, an invalid message whose sender gets an error reply; PREDICTION; ERROR,
# an error reply; UNREADABLE, a reply that can't be understood; NAMELESS, an invalid message
# without id, which gets no answer.
# key : monitoring/hashes.py of the request_id. time : of the record, in ms.
# content : of a request its data, as Row; of a prediction (model_id, scores).
# outcome : that a request contains.
Event = tuple[int, int, int, int, int, Any, float]

# What one message of outcomes_topic says: (key, time, rank, outcome). Of two outcomes of one key
# the one with the higher rank counts.
ReportedOutcome = tuple[int, int, int, float]


def _row_type() -> type:
    """Return Data as a Struct, which is decoded in two thirds of the time.

    Data itself if the name of a column is none that a Struct can have.
    """
    fields, names = [], {}
    for number, (name, hint) in enumerate(Data.__annotations__.items()):
        names[f"column_{number}"] = name
        if get_origin(hint) is NotRequired:
            fields.append((f"column_{number}", get_args(hint)[0] | UnsetType, UNSET))
        else:
            fields.append((f"column_{number}", hint))
    try:
        return msgspec.defstruct("Row", fields, rename=names, kw_only=True, gc=False)
    except ValueError:
        return Data


Row = _row_type()
_LABEL = f"column_{list(Data.__annotations__).index(dataset.target.name)}"


def _label_of(row: Any) -> Any:
    return row.get(dataset.target.name) if Row is Data else getattr(row, _LABEL)


class _Message(Struct, gc=False):
    """A usual request or prediction; everything else is left to utils/messages.py."""

    request_id: RequestId
    data: Row | UnsetType = UNSET
    prediction: dataset.target.prediction_type | UnsetType = UNSET
    error: str | UnsetType = UNSET
    probability: Probability | None = None
    model_id: Count | None = None
    probabilities: dict[str, Probability] | None = None


_decode = msgspec.json.Decoder(_Message).decode
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)


def rank_of(partition: int, offset: int) -> int:
    """Return the rank of an outcome: of one partition the last counts, as in training."""
    return offset << 12 | partition & 0xFFF


def rank_in_request(partition: int, offset: int) -> int:
    """Return the rank of an outcome that a request contains: a reported one counts more."""
    return rank_of(partition, offset) - 2**62


def time_of(record: ConsumerRecord, latest: int) -> int:
    """Return a record's timestamp in ms; a later one than `latest`, of a wrong clock, is that."""
    return max(min(record.timestamp, latest), 0)


class Decoded(NamedTuple):
    """What one poll has returned, decoded."""

    events: dict[TopicPartition, list[Event]]  # one for each record of app_messages
    outcomes: list[ReportedOutcome]
    latest: int  # see time_of()

    @property
    def messages(self) -> list[Event]:
        """The events of all partitions; those of one are in order."""
        return [*chain.from_iterable(self.events.values())]


def decode(records: Mapping[TopicPartition, list[ConsumerRecord]], now: float) -> Decoded:
    """Decode records; those of other topics than app_messages and outcomes_topic are none.

    now : seconds since 1970.
    """
    latest = int((now + AHEAD) * 1000)
    found = Decoded({}, [], latest)
    for partition, some in records.items():
        if partition.topic == APP_MESSAGES:
            found.events[partition] = events(some, latest)
        elif partition.topic == OUTCOMES_TOPIC:
            found.outcomes.extend(reported_outcomes(some, latest))
    return found


def events(records: Iterable[ConsumerRecord], latest: int) -> list[Event]:
    """Return the events of app_messages' records, in their order.

    latest : see time_of().
    """
    found = []
    for record in records:
        time = record.timestamp
        if not 0 <= time <= latest:
            time = time_of(record, latest)
        kind, request_id, content, outcome = _read(record.value)
        key = 0 if request_id is None else hash_of_valid(request_id)
        found.append((kind, key, time, record.partition, record.offset, content, outcome))
    return found


def _read(value: Any) -> tuple[int, str | None, Any, float]:
    try:
        message = _decode(str(value, "utf-8"))
    except _ERRORS:
        return _read_unusual(value)
    if message.data is not UNSET:
        label = _label_of(message.data)
        outcome = UNKNOWN if label is UNSET or label is None else dataset.target.outcome_of(label)
        return REQUEST, message.request_id, message.data, outcome
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
        outcome, row = request.outcome, msgspec.convert(request.data, Row)
        return REQUEST, request.request_id, row, UNKNOWN if outcome is None else outcome
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
    row = tuple(scores) if dataset.target.outputs > 1 else (scores,)
    return PREDICTION, reply.request_id, (model_id, row), UNKNOWN


def reported_outcomes(records: Iterable[ConsumerRecord], latest: int) -> list[ReportedOutcome]:
    """Return the valid outcomes; the trainer puts the others aside."""
    found = []
    for record in records:
        if (reported := decode_outcome(record.value)) is not None:
            request_id, outcome = reported
            time = record.timestamp
            if not 0 <= time <= latest:
                time = time_of(record, latest)
            rank = rank_of(record.partition, record.offset)
            found.append((hash_of_valid(request_id), time, rank, outcome))
    return found
