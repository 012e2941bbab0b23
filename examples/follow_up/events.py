"""What this example reads: what visitors do, and predictions; and which predictions matter.

An event is a JSON object on the topic `events`, as examples/journey/ sends it, with its session as
the key:

    {"session": "b6cf33a0d1c34c01", "kind": "viewed", "item": "item-07", "email": "ann@example.org"}
    {"session": "b6cf33a0d1c34c01", "kind": "left"}

session : 16 to 64 letters, digits and "_". kind : "left" says that the visitor left, "reacted" with
"reaction": "bought" that the visitor bought; all others that the visitor is there. email : absent
until the shop knows it. item : what is looked at.

The request_id of a request is "<session>-<anything>". Replies carry nothing of their request but
its id: with the session in it, a reply alone says whose it is, and requests need not be read,
joined or remembered. (The first part of a UUID is shorter than a session.)
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from utils.settings import settings

EVENTS = settings.topic_prefix + "events"
TOPICS = {EVENTS: {"num_partitions": settings.partitions}}
WORTH = 0.5  # the least probability of a reaction

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# What everybody uses of RFC 5321: no quotes, no routes, no option of a command, no line break.
ADDRESS = rf"^[A-Za-z0-9_][A-Za-z0-9._+'=~-]{{0,63}}@{_LABEL}(?:\.{_LABEL}){{1,9}}\Z"

Session = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{16,64}\Z")]
Address = Annotated[str, Meta(pattern=ADDRESS, max_length=254)]
# Visitors choose what their events say, and whom they name: no text that a mail program shows as
# a link goes into an e-mail.
Item = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_ -]{1,64}\Z")]

_DECODE_ERRORS = (msgspec.DecodeError, TypeError, UnicodeDecodeError, RecursionError)


def _valid(value: Any, kind: Any) -> str | None:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


class Event(Struct):
    """What a visitor did; without a session, something else that happened in the shop."""

    kind: Annotated[str, Meta(max_length=64)]
    session: Session | None = None
    reaction: Any = None
    email: Any = None
    item: Any = None

    def __post_init__(self) -> None:
        """Forget an address or an item that no e-mail may contain: the event still counts."""
        self.email = _valid(self.email, Address)
        self.item = _valid(self.item, Item)

    @property
    def is_leaving(self) -> bool:
        """True if the visitor left."""
        return self.kind == "left"

    @property
    def is_purchase(self) -> bool:
        """True if the visitor bought the item."""
        return self.kind == "reacted" and self.reaction == "bought"


class Reply(Struct):
    """A prediction of any data set; `data` is set in a request, `prediction` is not."""

    request_id: str = ""
    prediction: float | str | None = None
    probabilities: dict[str, float] | None = None
    data: Any | UnsetType = UNSET


def is_worth_an_email(prediction: float | str, probabilities: dict[str, float] | None) -> bool:
    """Return True if a visitor who left should be written to: the one place to adapt to your data.

    With two classes: if the prediction is 1.0. The shop: if it is likely enough that the visitor
    reacts to the item in some way.
    """
    if probabilities and "ignored" in probabilities:
        return 1 - probabilities["ignored"] >= WORTH
    return prediction == 1.0


def decode_event(value: bytes | None) -> Event:
    """Return the event in a record's value; ValueError with the reason if there is none."""
    try:
        return msgspec.json.decode(value, type=Event)
    except _DECODE_ERRORS as error:
        raise ValueError(str(error)) from None


def decode_prediction(value: bytes | None) -> tuple[str, bool] | None:
    """Return (session, whether it is worth an e-mail), None for all that is no prediction."""
    try:
        reply = msgspec.json.decode(value, type=Reply)
        session = msgspec.convert(reply.request_id.partition("-")[0], Session)
    except _DECODE_ERRORS:
        return None
    if reply.data is not UNSET or reply.prediction is None or "-" not in reply.request_id:
        return None
    return session, is_worth_an_email(reply.prediction, reply.probabilities)
