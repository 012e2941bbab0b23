"""The audit of a request: what was asked and answered, by which model, and if that is right."""

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import structs

from monitoring.audit.message_blocks import MOST_MESSAGES, Message, content_of, has_data
from monitoring.audit.past_models import (
    PastModel,
    computed_again,
    contributions,
    labels_of,
    past_models,
    then_row,
)
from utils.datasets import dataset
from utils.datasets.target import REPLY
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC
from utils.messages import InvalidMessage, decode_request
from utils.model_store.card import Card, ModelError
from utils.model_store.registry import Registry

SAME, DIFFERENT, UNCHECKED = "same", "different", "not checked"


class Asked(msgspec.Struct):
    """A request. time : ms since 1970, as of all messages; problem : why it is invalid."""

    time: int
    topic: str
    partition: int
    offset: int
    data: Any
    problem: str = ""


class Why(msgspec.Struct):
    """What moved a prediction: features, the strongest first.

    score : its name; base : the score without any feature. features : (name, value, what it adds to
    the score).
    """

    score: str
    base: float
    features: list[tuple[str, Any, float]]


class Answered(msgspec.Struct):
    """A reply, and what its model computes again. result : one of the three above."""

    time: int
    partition: int
    offset: int
    reply: dict[str, Any]  # its fields, without the request_id
    result: str = UNCHECKED
    again: dict[str, Any] | None = None
    request: int | None = None  # which of `asked` it answers: its position
    model: Card | None = None
    where: str = ""  # the model is
    notes: list[str] = []
    why: Why | None = None


class Reported(msgspec.Struct):
    """An outcome that was reported, or one that the request contains."""

    time: int
    outcome: Any


class Audit(msgspec.Struct):
    """All about the requests with one id; messages in the order in which they were read."""

    request_id: str
    asked: list[Asked] = []
    answered: list[Answered] = []
    outcomes: list[Reported] = []
    notes: list[str] = []

    @property
    def is_right(self) -> bool:
        """Whether the request is known, and each answer to it is computed again as it was."""
        return bool(self.asked) and all(each.result == SAME for each in self.answered)


def audit(request_id: str, messages: list[Message], registry: Registry) -> Audit:
    """Return the audit of a request from all its messages."""
    found, requests = Audit(request_id), []
    if len(messages) > MOST_MESSAGES:
        found.notes = [f"More messages have this id: the first {MOST_MESSAGES} follow"]
    for message, content in _contents(messages[:MOST_MESSAGES]):
        if message.topic == OUTCOMES_TOPIC:
            found.outcomes.append(Reported(message.time, content.get("outcome")))
        elif message.topic != APP_MESSAGES:
            continue
        elif "data" in content:
            requests.append(message)
            found.asked.append(_asked(message, content))
            found.outcomes += _outcome_within(message, content)
        elif "prediction" in content or "error" in content:
            reply = {name: content[name] for name in (*REPLY, "error") if name in content}
            found.answered.append(Answered(message.time, message.partition, message.offset, reply))
    for reply in found.answered:
        _check(reply, requests, found.asked, registry)
    return found


def _contents(messages: list[Message]) -> Iterator[tuple[Message, dict]]:
    for message in messages:
        try:
            content = content_of(message.value)
        except ValueError:
            content = {"data": None} if has_data(message.value) else None
        if isinstance(content, dict):
            yield message, content


def _outcome_within(message: Message, content: dict) -> list[Reported]:
    data = content["data"]
    label = data.get(dataset.target.name) if isinstance(data, dict) else None
    return [] if label is None else [Reported(message.time, label)]


def _asked(message: Message, content: dict) -> Asked:
    problem = ""
    try:
        decode_request(message.value)
    except InvalidMessage as error:
        problem = error.reason
    return Asked(*message[3:4], *message[:3], content["data"], problem)


def _check(reply: Answered, requests: list[Message], asked: list[Asked], registry: Registry):
    """Compute the reply again, from each request that it may answer until one gives the same."""
    before = [
        place
        for place, request in enumerate(requests)
        if request.partition == reply.partition and request.offset < reply.offset
    ]
    if not before:
        reply.notes = ["no request of this id is before it in its partition"]
    elif "error" in reply.reply:
        _check_error(reply, before, asked)
    else:
        for place in before:
            _compute(reply, place, requests[place].value, registry)
            if reply.result == SAME:
                break


def _check_error(reply: Answered, before: list[int], asked: list[Asked]) -> None:
    for place in before:
        reply.request = place
        reply.result = SAME if asked[place].problem == reply.reply["error"] else DIFFERENT
        if reply.result == SAME:
            return


def _compute(reply: Answered, place: int, request: bytes, registry: Registry) -> None:
    """Compute a prediction again by the model that it names; by each, if several had its id."""
    model_id, reply.request, reply.notes = reply.reply.get("model_id"), place, []
    if type(model_id) is not int:
        reply.notes = ["it names no model"]
        return
    models, right = past_models(registry, model_id, reply.time), []
    if not models:
        reply.notes = [f"model {model_id} is neither in {registry.storage.name} nor in the archive"]
    for model in models:
        if _is_right(reply, model, request):
            right.append(model)
    if len(right) > 1:
        digests = " and ".join(each.card.digest[:12] for each in right)
        reply.notes.append(f"{len(right)} models with this id give this answer: {digests}")


def _is_right(reply: Answered, model: PastModel, request: bytes) -> bool:
    """Compute once more, and note it in the reply unless another model has given the same."""
    try:
        for again, changes in computed_again(model, request):
            is_same = all(same_bits(again.get(n), reply.reply.get(n)) for n in REPLY)
            if is_same or reply.again is None:
                _note(reply, model, again, changes, request)
            if is_same:
                reply.result = SAME
                return True
    except (ModelError, ValueError) as error:
        reply.notes.append(str(error))
    if reply.again is not None and reply.result != SAME:
        reply.result = DIFFERENT
    return False


def _note(reply: Answered, model: PastModel, again: dict, changes: str, request: bytes) -> None:
    if reply.result == SAME:
        return
    reply.again, reply.where = again, model.where
    reply.model = structs.replace(model.card, reference=None, learning_curve=[])  # long ones
    since = f"the data set has changed: the model was made for one {changes}"
    reply.notes = [*model.notes(), *([since] if changes else [])]
    with suppress(ValueError):  # a request that can only just be read
        reply.why = why(model, then_row(model, request), again["prediction"])


def why(model: PastModel, row: dict, prediction: Any) -> Why:
    """Return what moved a model's score; of several classes, that of the predicted one."""
    found, values = contributions(model, row)
    labels, output, score = labels_of(model), 0, "number"
    if len(found) > 1:
        output = labels.index(prediction) if prediction in labels else 0
        score = f"score of {labels[output]}"
    elif labels:
        score = f"log-odds of {labels[1]}"
    *amounts, base = found[output].tolist()
    both = zip(values.items(), amounts, strict=True)
    features = [(name, value, amount) for (name, value), amount in both]
    return Why(score, base, sorted(features, key=lambda each: -abs(each[2])))


def same_bits(one: Any, other: Any) -> bool:
    """Return whether two values of a reply are equal, numbers to the bit."""
    numbers = [isinstance(each, int | float) for each in (one, other)]
    if all(numbers) and bool not in (type(one), type(other)):
        try:
            return struct.pack("<d", one) == struct.pack("<d", other)
        except (OverflowError, struct.error):  # larger than any number of a model
            return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_bits(one[n], other[n]) for n in one)
    return type(one) is type(other) and one == other
