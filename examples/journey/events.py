"""What happens in the shop, as messages: the topic of events, and that of the sessions' states.

An event is {"session": "...", "kind": "viewed", "request_id": "...", "item": "item-07"}; its key
is the session, so that all events of a session come in order on one partition.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from utils.datasets.shop import NAMES, dataset
from utils.kafka_client.records import Unreadable
from utils.settings import settings

EVENTS = settings.topic_prefix + "events"
SESSIONS = settings.topic_prefix + "sessions"
# Partition n of SESSIONS holds the states of the sessions on partition n of EVENTS. Compaction
# keeps the last state of each session, and none of those that have ended.
TOPICS = {
    EVENTS: {"num_partitions": settings.partitions},
    SESSIONS: {
        "num_partitions": settings.partitions,
        "configs": {
            "cleanup.policy": "compact",
            "segment.ms": "600000",
            "min.cleanable.dirty.ratio": "0.1",
        },
    },
}

REACTIONS = dataset.target.labels  # from the weakest to the strongest

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Item = Literal[tuple(NAMES["item"])]
Device = Literal[tuple(NAMES["device"])]
Source = Literal[tuple(NAMES["source"])]
Visitor = Literal[tuple(NAMES["visitor"])]


class Arrived(Struct, tag="arrived", tag_field="kind"):
    """A visitor opened the shop."""

    session: Id
    device: Device = "desktop"
    source: Source = "direct"
    visitor: Visitor = "returning"


class Viewed(Struct, tag="viewed", tag_field="kind"):
    """A visitor opened an item; the request about it gets this request_id."""

    session: Id
    request_id: Id
    item: Item


class Reacted(Struct, tag="reacted", tag_field="kind"):
    """A visitor did something with the item of a view."""

    session: Id
    request_id: Id
    reaction: Literal[REACTIONS[1:]]


class Left(Struct, tag="left", tag_field="kind"):
    """A visitor closed the page."""

    session: Id


class Subscribed(Struct, tag="subscribed", tag_field="kind"):
    """A visitor has typed an e-mail address; examples/follow_up/ reads it."""

    session: Id
    email: Annotated[str, Meta(max_length=254)]


class Tick(Struct, tag="tick", tag_field="kind"):
    """Time passed; the record's timestamp says how much. It ends the views of silent visitors."""


Event = Arrived | Viewed | Reacted | Left | Subscribed | Tick
_decode = msgspec.json.Decoder(Event).decode


def decode_event(value: bytes | Unreadable | None) -> Event:
    """Return the event in a record's value; ValueError with the reason if it holds none."""
    if isinstance(value, Unreadable):
        raise ValueError(value.reason)
    try:
        return _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not an event: {error}") from None
