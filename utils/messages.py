"""The wire format: everything that comes in is decoded and checked here, and what goes out encoded.

JSON in UTF-8, one message one object; the README lists the fields. msgspec decodes and validates a
message in one pass, against types that are made of the data set's columns.
"""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from utils.datasets import dataset
from utils.kafka_client.records import Unreadable

MAX_ECHO = 80  # characters of a sender's value that an error reply repeats

RequestId = Annotated[str, Meta(min_length=1, max_length=256)]
Label = Literal[tuple(dataset.LABELS)]
# Beyond this a number is a mistake, and one such row would squeeze all others in a scaled column.
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Data = TypedDict(
    "Data",
    {column: Number | None for column in dataset.NUMERIC_COLUMNS}
    | {column: str | None for column in dataset.CATEGORICAL_COLUMNS}
    | {dataset.TARGET: NotRequired[Label | None]},
)


class Request(Struct):
    """What app_messages carries: a request where there is `data`, else somebody's reply."""

    request_id: RequestId | UnsetType = UNSET
    data: Data | UnsetType = UNSET
    prediction: Any = UNSET
    error: Any = UNSET

    @property
    def outcome(self) -> float | None:
        """The true outcome as 0.0 or 1.0, where the request brings it along."""
        label = self.data.get(dataset.TARGET)
        return None if label is None else dataset.LABELS[label]


class Prediction(Struct):
    """The answer to a request that could be understood."""

    request_id: str
    prediction: float
    probability: float | None = None  # the tutorial's predictor sends neither this
    model_id: int | None = None  # nor this


class ErrorReply(Struct):
    """The answer to a request that could not be understood, but whose id could be read."""

    request_id: str
    error: str


class Outcome(Struct):
    """What really happened to the person of a request; comes seconds to weeks later."""

    request_id: RequestId
    outcome: Label


class ControlMessage(Struct, omit_defaults=True):
    """What retrain_topic carries: exactly one of the first four fields says which message it is."""

    retrain: bool = False
    training_completed: bool = False
    training_rejected: str = ""
    training_failed: str = ""
    model_id: Count | None = None
    batch_id: Count | None = None
    partition: Count | None = None
    offset: Count | None = None
    retrain_every: Count | None = None
    retrain_requests_covered: Count | None = None
    observations: Count | None = None
    judge: Any = None  # the figures that decided, see train/judge.py


class InvalidMessage(ValueError):
    """Neither a request nor a reply; says why, and whose it is if that is known."""

    def __init__(self, reason: str, request_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.request_id = request_id


encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(Request).decode
_decode_control = msgspec.json.Decoder(ControlMessage).decode
_decode_outcome = msgspec.json.Decoder(Outcome).decode
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)


def decode_request(value: bytes | Unreadable | None) -> Request | None:
    """Return the request in a record's value, or None for a reply; InvalidMessage for all else."""
    try:
        request = _decode_request(str(value, "utf-8"))  # msgspec does not look at what it skips
    except _DECODE_ERRORS as error:
        return _explain(value, error)
    if request.data is not UNSET and request.request_id is not UNSET:
        return request
    if request.data is not UNSET:
        raise InvalidMessage("request_id: is missing")
    if request.prediction is UNSET and request.error is UNSET:
        request_id = None if request.request_id is UNSET else request.request_id
        raise InvalidMessage("data: is missing", request_id)
    return None


def decode_requests(records: Iterable) -> tuple[list, list]:
    """Sort records into [(record, Request)] and [(record, InvalidMessage)]; replies are skipped."""
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
    """Return a reply that is for somebody who sent a request, or None for any other message."""
    try:
        message = _decode_request(value)
        if message.data is not UNSET or message.request_id is UNSET:
            return None
        return msgspec.json.decode(value, type=Prediction if message.error is UNSET else ErrorReply)
    except _DECODE_ERRORS:
        return None


def decode_control(value: bytes | None) -> ControlMessage | None:
    """Return a message of retrain_topic, or None for one that can't be understood."""
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
    """Return (request_id, 0.0 or 1.0) of a reported outcome, or None if it can't be understood."""
    try:
        message = _decode_outcome(value)
    except _DECODE_ERRORS:
        return None
    return message.request_id, dataset.LABELS[message.outcome]


def _explain(value: bytes | None, error: Exception) -> None:
    """Raise InvalidMessage with a reason for people; return None if it is a reply after all."""
    if value is None:
        raise InvalidMessage("the message is empty (a tombstone)")
    if isinstance(value, Unreadable):
        raise InvalidMessage(value.reason)
    try:
        # The standard library also reads NaN and 1e999, so that their sender gets an error reply.
        content = json.loads(bytes(value).decode())
    except (ValueError, RecursionError):
        raise InvalidMessage(f"not valid JSON: {_echo(str(error))}") from None
    if not isinstance(content, dict):
        raise InvalidMessage(f"message: expected an object, got {_echo(content)}")
    if "data" not in content and ("prediction" in content or "error" in content):
        return None
    try:
        request_id = msgspec.convert(content.get("request_id"), RequestId)
        request_id.encode()  # json reads lone surrogates, which no reply can hold
    except (msgspec.ValidationError, UnicodeEncodeError):
        request_id = None
    if not isinstance(error, msgspec.ValidationError):
        raise InvalidMessage(f"not valid JSON: {_echo(str(error))}", request_id)
    raise InvalidMessage(_reason(content, str(error)), request_id)


# msgspec's words for what it expected, and ours; it names its own types otherwise.
_EXPECTED = {"float": "a number", "str": "a string", "object": "an object"}


def _reason(content: dict, error: str) -> str:
    """Turn msgspec's "Expected `X`, got `Y` - at `$.data.age`" into "data.age: expected ..."."""
    text, _, path = error.partition(" - at `$")
    fields = path.rstrip("`").strip(".").split(".") if path else []
    if missing := re.fullmatch(r"Object missing required field `(.+)`", text):
        return ".".join([*fields, missing[1]]) + ": is missing"
    value: Any = content
    for field in fields:
        value = value.get(field) if isinstance(value, dict) else None
    name = ".".join(fields) or "message"
    if expected := re.match(r"Expected `(.+?)(?: \| null)?`(.*?)(?:, got .*)?$", text):
        what = _EXPECTED.get(expected[1], expected[1]) + expected[2]
        return f"{name}: expected {what}, got {_echo(value)}"
    if text.startswith("Invalid enum value"):
        return f"{name}: expected one of {', '.join(dataset.LABELS)}, got {_echo(value)}"
    return f"{name}: {text[0].lower()}{text[1:]}, got {_echo(value)}"


def _echo(value: Any) -> str:
    """Show a sender's value in an error: printable ASCII, cut at 80 characters."""
    text = ascii(value)
    return text if len(text) <= MAX_ECHO else text[:MAX_ECHO] + "..."
