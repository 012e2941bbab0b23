"""The wire format: decodes and validates incoming messages, encodes outgoing ones.

A message is one JSON object in UTF-8; the README lists the fields. They are those of jrzaurin's
ml_pipelines tutorial, with more added; unknown fields are ignored. msgspec decodes and validates a
message in one pass, against types built from the data set's columns.
"""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from utils.datasets import dataset
from utils.datasets.target import FiniteNumber, Probability
from utils.kafka_client.records import Unreadable

MAX_ECHO = 80  # characters of an invalid value that an error reply repeats

RequestId = Annotated[str, Meta(min_length=1, max_length=256)]
Label = dataset.target.label_type
# A model keeps the categories that it has learned, and a predictor keeps models in memory.
Category = Annotated[str, Meta(max_length=256)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
_values = dict.fromkeys(dataset.numeric, FiniteNumber | None)
_values |= dict.fromkeys(dataset.categorical, Category | None)
_values |= {name: NotRequired[_values[name]] for name in dataset.defaults}
Data = TypedDict("Data", _values | {dataset.target.name: NotRequired[Label | None]})


class AppMessage(Struct):
    """Any valid message of app_messages: with `data` it is a request, without it a reply."""

    request_id: RequestId | UnsetType = UNSET
    data: Data | UnsetType = UNSET
    prediction: Any = UNSET
    error: Any = UNSET


class Request(Struct):
    """A request to predict the outcome of one row of data."""

    request_id: str
    data: Data

    @property
    def outcome(self) -> float | None:
        """The true outcome, None if the request does not contain it; see datasets/target.py."""
        label = self.data.get(dataset.target.name)
        return None if label is None else dataset.target.outcome_of(label)


class Prediction(Struct, omit_defaults=True):
    """The answer to a valid request; its fields depend on the target, see datasets/target.py."""

    request_id: str
    prediction: dataset.target.prediction_type
    probability: Probability | None = None  # of the second of two classes
    model_id: Count | None = None  # None in a reply of the tutorial's predictor
    probabilities: dict[str, Probability] | None = None  # of each of several classes


class ErrorReply(Struct):
    """The answer to an invalid request whose request_id is readable."""

    request_id: str
    error: str


class Outcome(Struct):
    """The true outcome of a request, reported seconds to weeks after it."""

    request_id: RequestId
    outcome: Label


class ControlMessage(Struct, omit_defaults=True):
    """A message of retrain_topic: exactly one of the first four fields, its kind, is set."""

    retrain: bool = False
    training_completed: bool = False
    training_rejected: str = ""
    training_failed: str = ""
    model_id: Count | None = None
    now: bool = False  # a retrain request that waits for no further outcomes: a drift, for example
    batch_id: Count | None = None
    partition: Count | None = None
    offset: Count | None = None
    retrain_every: Count | None = None
    retrain_requests_covered: Count | None = None
    observations: Count | None = None
    why: str = ""  # a completed training: why its model was promoted; a request with `now`: why
    judge: Any = None  # the figures behind the decision, see train/judge.py


class InvalidMessage(ValueError):
    """A message of app_messages that is neither a request nor a reply.

    reason : what is wrong with it; request_id : None if it can't be read.
    """

    def __init__(self, reason: str, request_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.request_id = request_id


encode = msgspec.json.Encoder().encode
_decode_app_message = msgspec.json.Decoder(AppMessage).decode
_decode_control = msgspec.json.Decoder(ControlMessage).decode
_decode_outcome = msgspec.json.Decoder(Outcome).decode
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)


def decode_request(value: bytes | Unreadable | None) -> Request | None:
    """Return the request in a record's value, None for a reply; InvalidMessage otherwise."""
    try:
        # str() checks the encoding of ignored fields too, which msgspec does not.
        message = _decode_app_message(str(value, "utf-8"))
    except _DECODE_ERRORS as error:
        return _raise_unless_reply(value, error)
    if message.data is not UNSET and message.request_id is not UNSET:
        return Request(message.request_id, message.data)
    if message.data is not UNSET:
        raise InvalidMessage("request_id: is missing")
    if message.prediction is UNSET and message.error is UNSET:
        request_id = None if message.request_id is UNSET else message.request_id
        raise InvalidMessage("data: is missing", request_id)
    return None


def decode_requests(records: Iterable) -> tuple[list, list]:
    """Return [(record, Request)] and [(record, InvalidMessage)]; replies are skipped."""
    valid, invalid = [], []
    for record in records:
        try:
            request = decode_request(record.value)
        except InvalidMessage as error:
            invalid.append((record, error))
        else:
            if request is not None:
                valid.append((record, request))
    return valid, invalid


def decode_reply(value: bytes | None) -> Prediction | ErrorReply | None:
    """Return the reply in a record's value, or None for any other message."""
    try:
        message = _decode_app_message(value)
        if message.data is not UNSET or message.request_id is UNSET:
            return None
        return msgspec.json.decode(value, type=Prediction if message.error is UNSET else ErrorReply)
    except _DECODE_ERRORS:
        return None


def decode_control(value: bytes | None) -> ControlMessage | None:
    """Return a message of retrain_topic, or None if it is invalid."""
    try:
        message = _decode_control(value)
    except _DECODE_ERRORS:
        return None
    kinds = (
        message.retrain,
        message.training_completed,
        message.training_rejected,
        message.training_failed,
    )
    return message if sum(map(bool, kinds)) == 1 else None


def decode_outcome(value: bytes | None) -> tuple[str, float] | None:
    """Return (request_id, outcome) of a reported outcome, or None if it is invalid."""
    try:
        message = _decode_outcome(value)
    except _DECODE_ERRORS:
        return None
    return message.request_id, dataset.target.outcome_of(message.outcome)


def outcome_problem(value: bytes | Unreadable | None) -> str:
    """Return why decode_outcome() does not understand a reported outcome."""
    try:
        _decode_outcome(value)
    except _DECODE_ERRORS as error:
        try:
            _raise_unless_reply(value, error)
        except InvalidMessage as invalid:
            return invalid.reason
    return "message: expected an outcome"


def _raise_unless_reply(value: bytes | Unreadable | None, error: Exception) -> None:
    """Raise InvalidMessage with a readable reason; return None for a reply with invalid fields."""
    if value is None:
        raise InvalidMessage("the message is empty (a tombstone)")
    if isinstance(value, Unreadable):
        raise InvalidMessage(value.reason)
    try:
        # Unlike msgspec, json also reads NaN and 1e999, so that their sender gets an error reply.
        content = json.loads(bytes(value).decode())
    except (ValueError, RecursionError):
        raise InvalidMessage(f"not valid JSON: {_echo(str(error))}") from None
    if not isinstance(content, dict):
        raise InvalidMessage(f"message: expected an object, got {_echo(content)}")
    if "data" not in content and ("prediction" in content or "error" in content):
        return None
    if isinstance(error, msgspec.ValidationError):
        raise InvalidMessage(_reason(content, str(error)), _readable_id(content))
    raise InvalidMessage(f"not valid JSON: {_echo(str(error))}", _readable_id(content))


def _readable_id(content: dict) -> str | None:
    """Return the request_id of an invalid request, or None if a reply can't contain it."""
    try:
        request_id = msgspec.convert(content.get("request_id"), RequestId)
        request_id.encode()  # json reads lone surrogates, which can't be encoded
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None
    return request_id


# msgspec's names for the types it expected -> ours.
_EXPECTED = {"float": "a number", "str": "a string", "object": "an object"}


def _reason(content: dict, error: str) -> str:
    """Rewrite msgspec's "Expected `X`, got `Y` - at `$.data.age`" as "data.age: expected ..."."""
    text, _, path = error.partition(" - at `$")
    # A message has two levels at most; the names of columns may contain dots.
    fields = path.rstrip("`").strip(".").split(".", 1) if path else []
    if missing := re.fullmatch(r"Object missing required field `(.+)`", text):
        return ".".join([*fields, missing[1]]) + ": is missing"
    value: Any = content
    for field in fields:
        value = value.get(field) if isinstance(value, dict) else None
    name = ".".join(fields) or "message"
    if fields in (["data", dataset.target.name], ["outcome"]):
        return f"{name}: expected {dataset.target.expected}, got {_echo(value)}"
    if expected := re.match(r"Expected `(.+?)(?: \| null)?`(.*?)(?:, got .*)?$", text):
        what = _EXPECTED.get(expected[1], expected[1]) + expected[2]
        return f"{name}: expected {what}, got {_echo(value)}"
    return f"{name}: {text[0].lower()}{text[1:]}, got {_echo(value)}"


def _echo(value: Any) -> str:
    """Return a value as printable ASCII, cut at 80 characters."""
    text = ascii(value)
    return text if len(text) <= MAX_ECHO else text[:MAX_ECHO] + "..."
