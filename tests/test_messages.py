import json
import re
from types import NoneType, SimpleNamespace

import pytest

from utils.messages import (
    ErrorReply,
    InvalidMessage,
    Prediction,
    decode_control,
    decode_outcome,
    decode_reply,
    decode_request,
    decode_requests,
)

# The documented example, which is what the tutorial's sample_app.py sends (on one line).
TUTORIAL_REQUEST = b"""\
{"request_id": "<uuid>", "data": {"age": 25, "workclass": "Private", "fnlwgt": 226802, "education": "11th",
  "marital_status": "Never-married", "occupation": "Machine-op-inspct", "relationship": "Own-child", "race": "Black",
  "gender": "Male", "capital_gain": 0, "capital_loss": 0, "hours_per_week": 40, "native_country": "United-States",
  "income_bracket": "<=50K."}}"""  # noqa: E501
TUTORIAL_REPLY = b'{"request_id": "<uuid>", "prediction": 0.0}'

DATA = {
    "age": 25,
    "workclass": "Private",
    "fnlwgt": 226802,
    "education": "11th",
    "marital_status": "Never-married",
    "occupation": "Machine-op-inspct",
    "relationship": "Own-child",
    "race": "Black",
    "gender": "Male",
    "capital_gain": 0,
    "capital_loss": 0,
    "hours_per_week": 40,
    "native_country": "United-States",
}


def message(**changes) -> bytes:
    return json.dumps({"request_id": "r1", "data": DATA} | changes).encode()


def data(**changes) -> bytes:
    return message(data=DATA | changes)


def test_the_tutorials_request_is_understood():
    request = decode_request(TUTORIAL_REQUEST)
    assert request.request_id == "<uuid>"
    assert request.data == DATA | {"income_bracket": "<=50K."}
    assert request.outcome == 0.0


def test_the_tutorials_request_without_its_outcome_is_understood():
    value = re.sub(rb',\s+"income_bracket": "<=50K."', b"", TUTORIAL_REQUEST)
    request = decode_request(value)
    assert request.data == DATA
    assert request.outcome is None


def test_extra_fields_are_ignored():
    value = TUTORIAL_REQUEST.replace(b'"income', b'"education_num": 7, "income')
    request = decode_request(value.replace(b'"data"', b'"sent_at": [2026], "data"'))
    assert request.data == DATA | {"income_bracket": "<=50K."}


def test_the_tutorials_reply_is_a_reply():
    assert decode_request(TUTORIAL_REPLY) is None
    assert decode_reply(TUTORIAL_REPLY) == Prediction("<uuid>", 0.0)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (data(), None),
        (data(income_bracket=None), None),
        (data(income_bracket=">50K"), 1.0),
        (data(income_bracket=">50K."), 1.0),
        (data(income_bracket="<=50K"), 0.0),
    ],
)
def test_the_outcome_may_come_along(value, outcome):
    assert decode_request(value).outcome == outcome


@pytest.mark.parametrize(
    "value",
    [
        data(occupation="Astronaut"),
        data(occupation=None),
        data(age=None),
        data(age=-3.5),
        data(unheard_of=1),
        message(prediction=1.0),  # it has data: a request, whatever else it has
        message(error="x"),
    ],
)
def test_what_is_a_value_or_unknown_to_us_is_no_error(value):
    assert decode_request(value) is not None


@pytest.mark.parametrize(
    "value",
    [
        b'{"request_id": "r1", "prediction": 1.0}',
        b'{"request_id": "r1", "prediction": "1.0", "other": []}',
        b'{"request_id": 7, "error": null}',
        b'{"prediction": 0.0}',
    ],
)
def test_replies_are_skipped(value):
    assert decode_request(value) is None


@pytest.mark.parametrize(
    ("value", "reason", "request_id"),
    [
        (data(age="old"), "data.age: expected a number, got 'old'", "r1"),
        (data(age=True), "data.age: expected a number, got True", "r1"),
        (data(gender=["x"]), "data.gender: expected a string, got ['x']", "r1"),
        (message(data=5), "data: expected an object, got 5", "r1"),
        (message(data=None), "data: expected an object, got None", "r1"),
        (message(request_id=5), "request_id: expected a string, got 5", None),
        (message(request_id=""), "request_id: expected a string of length >= 1, got ''", None),
        (json.dumps({"data": DATA}).encode(), "request_id: is missing", None),
        (b'{"request_id": "r1"}', "data: is missing", "r1"),
        (b"{}", "data: is missing", None),
        (b"[1]", "message: expected an object, got [1]", None),
        (None, "the message is empty (a tombstone)", None),
    ],
)
def test_the_reason_names_the_field_and_what_was_expected(value, reason, request_id):
    with pytest.raises(InvalidMessage) as caught:
        decode_request(value)
    assert (caught.value.reason, caught.value.request_id) == (reason, request_id)


def test_a_missing_field_is_named():
    without = {key: value for key, value in DATA.items() if key != "race"}
    with pytest.raises(InvalidMessage, match="^data.race: is missing$"):
        decode_request(message(data=without))


def test_a_wrong_label_is_named():
    with pytest.raises(InvalidMessage, match="^data.income_bracket: expected one of .*'rich'$"):
        decode_request(data(income_bracket="rich"))


@pytest.mark.parametrize("number", [b"1e999", b"NaN", b"Infinity", b"1" * 400])
def test_numbers_that_are_none_get_an_error_reply(number):
    value = data(age=12345).replace(b"12345", number)
    with pytest.raises(InvalidMessage) as caught:
        decode_request(value)
    assert caught.value.request_id == "r1"


@pytest.mark.parametrize(
    "value", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"data": {"age": "\xff"}}']
)
def test_what_is_no_object_is_invalid(value):
    with pytest.raises(InvalidMessage):
        decode_request(value)


def test_an_echoed_value_is_cut_and_escaped():
    with pytest.raises(InvalidMessage) as caught:
        decode_request(data(age="é\n" * 100_000))
    assert len(caught.value.reason) < 150
    assert caught.value.reason.isascii()
    assert caught.value.reason.isprintable()


def test_records_are_sorted_into_valid_and_invalid():
    values = [data(), b'{"prediction": 1}', b"?", data(age="x")]
    records = [SimpleNamespace(value=value) for value in values]
    valid, invalid = decode_requests(records)
    assert [record for record, _ in valid] == records[:1]
    assert [record for record, _ in invalid] == records[2:]


@pytest.mark.parametrize(
    "value",
    [
        b'{"retrain": true, "model_id": 1, "batch_id": 0}',  # the tutorial's predictor
        b'{"training_completed": true, "model_id": 1}',  # the tutorial's trainer
        b'{"retrain": true}',
        b'{"training_completed": true, "model_id": 3, "more": {}}',
        b'{"training_failed": "no memory"}',
    ],
)
def test_control_messages_are_understood(value):
    assert decode_control(value) is not None


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{}",
        b"[]",
        b'{"retrain": 1}',
        b'{"retrain": false}',
        b'{"retrain": true, "training_completed": true}',
        b'{"training_completed": true, "model_id": -1}',
        b'{"training_completed": true, "model_id": "../../x"}',
        b'{"training_completed": true, "model_id": 1.5}',
        b'{"training_completed": true, "model_id": 99999999999999999999}',
    ],
)
def test_control_messages_that_make_no_sense_are_none(value):
    assert decode_control(value) is None


def test_outcomes():
    assert decode_outcome(b'{"request_id": "r1", "outcome": ">50K"}') == ("r1", 1.0)
    assert decode_outcome(b'{"request_id": "r1", "outcome": "<=50K."}') == ("r1", 0.0)
    assert decode_outcome(b'{"request_id": "r1", "outcome": "rich"}') is None
    assert decode_outcome(b'{"request_id": "", "outcome": ">50K"}') is None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b'{"request_id": "r1", "prediction": 1.0, "probability": 0.9, "model_id": 2}', Prediction),
        (b'{"request_id": "r1", "error": "data.age: is missing"}', ErrorReply),
        (b'{"request_id": "r1", "prediction": "yes"}', NoneType),
        (b'{"request_id": "r1"}', NoneType),
        (b'{"prediction": 1.0}', NoneType),
        (data(), NoneType),
        (b"\xff", NoneType),
        (None, NoneType),
    ],
)
def test_replies_are_told_from_all_else(value, kind):
    assert isinstance(decode_reply(value), kind)


def test_a_request_id_that_no_reply_can_hold_is_not_readable():
    with pytest.raises(InvalidMessage) as caught:
        decode_request(b'{"request_id": "\\ud800", "data": {}}')
    assert caught.value.request_id is None


def test_numbers_out_of_any_sane_range_are_refused():
    assert decode_request(data(age=1e15)) is not None
    with pytest.raises(
        InvalidMessage, match="^data.age: expected a number <= 1000000000000000.0, got 1e\\+40$"
    ):
        decode_request(data(age=1e40))


def test_bytes_that_are_not_utf_8_are_invalid_also_in_a_field_that_is_ignored():
    text = json.dumps({"request_id": "id", "data": DATA, "comment": "@"})
    value = text.encode().replace(b"@", b"\xff")
    with pytest.raises(InvalidMessage, match="utf-8"):
        decode_request(value)


def test_a_category_is_at_most_256_characters_long():
    assert decode_request(data(gender="é" * 256)) is not None
    with pytest.raises(InvalidMessage) as caught:
        decode_request(data(gender="x" * 257))
    expected = f"data.gender: expected a string of length <= 256, got '{'x' * 79}..."
    assert (caught.value.reason, caught.value.request_id) == (expected, "r1")


@pytest.mark.parametrize(
    "field", [b'"model_id": ' + b"9" * 5_000, b'"model_id": -1', b'"probability": 2.0']
)
def test_a_reply_with_impossible_numbers_is_none(field):
    assert decode_reply(b'{"request_id": "r1", "prediction": 1.0, ' + field + b"}") is None
    assert decode_reply(b'{"request_id": "r1", "prediction": 1e300}') is None
